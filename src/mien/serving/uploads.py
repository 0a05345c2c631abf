"""The pictures in a request's body."""

import json
from dataclasses import dataclass
from typing import Any

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header
from starlette.exceptions import HTTPException
from starlette.requests import Request

FIELD = "images"
MAX_FILES = 64
_ONLY = "the picture"
_FORM = "multipart/form-data"
_BINARY = {"type": "string", "format": "binary"}


@dataclass(frozen=True)
class Upload:
    """A picture as it was sent, and what to call it in a message."""

    name: str
    data: bytes


def describe_body(most: int, pixels: int) -> dict[str, Any]:
    """The OpenAPI of a request body that `read_uploads` takes: pictures of ``pixels`` in all."""
    images = {"type": "array", "items": _BINARY, "minItems": 1, "maxItems": most}
    form = {
        "type": "object",
        "properties": {FIELD: images},
        "required": [FIELD],
        "additionalProperties": False,
    }
    content = {_FORM: {"schema": form}, "image/*": {"schema": _BINARY}}
    described = f"Up to {most} picture{'s' * (most > 1)}, of {pixels:,} pixels in all."
    return {"requestBody": {"description": described, "required": True, "content": content}}


async def read_uploads(request: Request, most: int) -> list[Upload]:
    """The pictures of a form's field ``images``, or the one that the whole body is.

    What kind of picture a part claims to be is passed over: its bytes say so.

    Raises:
        HTTPException: 415 for another content type, 400 for anything else that is wrong.
    """
    unknown = sorted(request.query_params)
    if unknown:
        raise HTTPException(400, f"unknown parameter {json.dumps(unknown[0])}")
    kind, options = parse_options_header(request.headers.get("content-type", ""))
    if kind == _FORM:
        try:
            return _read_form(await request.body(), options.get("boundary", ""), most)
        except MultipartError as error:
            raise HTTPException(400, f"the form can't be read: {error}") from None
    if kind.startswith("image/") or kind == "application/octet-stream":
        return [Upload(_ONLY, await request.body())]
    raise HTTPException(
        415, f"send {_FORM} with the field '{FIELD}', or one picture as image/*; not {kind or '-'}"
    )


def _read_form(body: bytes, boundary: str, most: int) -> list[Upload]:
    """The files of a form that is in memory already.

    Starlette's ``Request.form`` takes five times as long, and puts pictures over 1 MiB on the disk.
    """
    pictures: list[bytes] = []
    data = bytearray()
    # any bytes are Latin-1: a file's name, which nobody needs, may be written in whatever there is
    with PushMultipartParser(boundary, header_charset="latin-1") as parser:
        for event in parser.parse(body):
            if isinstance(event, MultipartSegment):
                _check_part(event)
                if len(pictures) == most:
                    raise HTTPException(400, f"at most {most} picture{'s' * (most > 1)} a request")
                data = bytearray()
            elif event is not None:
                data += event
            else:
                pictures.append(bytes(data))
    if not pictures:
        raise HTTPException(400, f"no picture: the form has no field '{FIELD}'")
    if len(pictures) == 1:
        return [Upload(_ONLY, pictures[0])]
    return [
        Upload(f"picture {number} of {len(pictures)}", picture)
        for number, picture in enumerate(pictures, 1)
    ]


def _check_part(part: MultipartSegment) -> None:
    if part.name != FIELD:
        raise HTTPException(400, f"unknown field {json.dumps(part.name)}; send '{FIELD}'")
    if part.filename is None:
        raise HTTPException(400, f"'{FIELD}' holds text; send it as a file")
