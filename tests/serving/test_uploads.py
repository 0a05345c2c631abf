"""Forms: what was sent is what is read, and what is broken is refused in words."""

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.exceptions import HTTPException
from starlette.requests import Request

from mien.serving.uploads import Upload, read_uploads

KIND = "multipart/form-data; boundary=b"


def read(body: bytes, kind: str = KIND, most: int = 64) -> list[Upload]:
    """What `read_uploads` makes of a body."""

    async def receive() -> dict[str, object]:
        return {"type": "http.request", "body": body, "more_body": False}

    headers = [(b"content-type", kind.encode())]
    scope = {"type": "http", "method": "POST", "headers": headers, "query_string": b""}
    return anyio.run(read_uploads, Request(scope, receive), most)


@given(pictures=st.lists(st.binary(max_size=3000), min_size=1, max_size=5), name=st.text())
def test_a_form_is_read_as_clients_write_it(pictures, name):
    files = [("images", (f"f{name}", each)) for each in pictures]
    request = httpx.Request("POST", "http://x", files=files)
    uploads = read(request.read(), request.headers["content-type"])
    assert [each.data for each in uploads] == pictures
    count = len(pictures)
    names = [f"picture {i} of {count}" for i in range(1, count + 1)]
    assert [each.name for each in uploads] == (names if count > 1 else ["the picture"])


def part(head: str, data: str = "x") -> str:
    """One part of a form."""
    return f"--b\r\nContent-Disposition: form-data; {head}\r\n\r\n{data}\r\n"


PICTURE = part('name="images"; filename="f"')


def test_a_files_name_may_be_in_any_encoding():
    body = PICTURE.replace('"f"', '"f\xe9"') + "--b--"
    assert read(body.encode("latin-1")) == [Upload("the picture", b"x")]


@pytest.mark.parametrize(
    ("body", "kind", "message"),
    [
        (PICTURE, KIND, "can't be read: Unexpected end"),
        (PICTURE + "--b--", "multipart/form-data", "can't be read: Empty boundary"),
        (PICTURE + "--b--", "multipart/form-data; boundary=other", "can't be read"),
        (PICTURE * 3 + "--b--", KIND, "at most 2 pictures a request"),
        (PICTURE + part('name="images"') + "--b--", KIND, "'images' holds text"),
        (PICTURE + part('filename="f"') + "--b--", KIND, 'unknown field ""'),
        (part('name="a\u00e9"; filename="f"') + "--b--", KIND, "unknown field"),
        ("--b--", KIND, "no picture"),
        ("", KIND, "can't be read"),
    ],
    ids=["cut", "no-boundary", "other", "many", "text", "unnamed", "accent", "none", "empty"],
)
def test_a_broken_form_is_refused(body, kind, message):
    with pytest.raises(HTTPException) as refused:
        read(body.encode(), kind, most=2)
    assert refused.value.status_code == 400
    assert message in refused.value.detail
