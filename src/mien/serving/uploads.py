"""The pictures in a request's body."""

import json
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request

FIELD = "images"
MAX_FILES = 64
_FORM = "multipart/form-data"
_BINARY = {"type": "string", "format": "binary"}


@dataclass(frozen=True)
class Upload:
    """A picture as it was sent, and what to call it in a message."""

    name: str
    data: bytes


def describe_body(most: int) -> dict[str, Any]:
    """The OpenAPI of a request body that `read_uploads` takes."""
    images = {"type": "array", "items": _BINARY, "minItems": 1, "maxItems": most}
    form = {
        "type": "object",
        "properties": {FIELD: images},
        "required": [FIELD],
        "additionalProperties": False,
    }
    content = {_FORM: {"schema": form}, "image/*": {"schema": _BINARY}}
    return {"requestBody": {"required": True, "content": content}}


async def read_uploads(request: Request, most: int) -> list[Upload]:
    """The pictures of a form's field ``images``, or the one that the whole body is.

    What kind of picture a part claims to be is passed over: its bytes say so.

    Raises:
        HTTPException: 415 for another content type, 400 for anything else that is wrong.
    """
    unknown = sorted(request.query_params)
    if unknown:
        raise HTTPException(400, f"unknown parameter {json.dumps(unknown[0])}")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == _FORM:
        return await _read_form(request, most)
    if kind.startswith("image/") or kind == "application/octet-stream":
        return [Upload("the picture", await request.body())]
    raise HTTPException(
        415, f"send {_FORM} with the field '{FIELD}', or one picture as image/*; not {kind or '-'}"
    )


async def _read_form(request: Request, most: int) -> list[Upload]:
    try:
        form = await request.form(max_files=most, max_fields=1)
    except (HTTPException, MultiPartException) as error:
        reason = str(getattr(error, "detail", None) or getattr(error, "message", ""))
        if "Too many files" in reason:
            reason = f"at most {most} picture{'s' * (most > 1)} a request"
        raise HTTPException(400, f"the form can't be read: {reason}") from None
    except Exception:  # the parser's own errors are of many kinds
        raise HTTPException(400, "the form can't be read: it is broken") from None
    uploads = []
    for index, (field, value) in enumerate(form.multi_items()):
        if field != FIELD:
            raise HTTPException(400, f"unknown field {json.dumps(field)}; send '{FIELD}'")
        if not isinstance(value, UploadFile):
            raise HTTPException(400, f"'{FIELD}' holds text; send it as a file")
        uploads.append(Upload(f"picture {index}", await value.read()))
    if not uploads:
        raise HTTPException(400, f"no picture: the form has no field '{FIELD}'")
    return uploads
