"""Whatever is sent, the answer is one that the OpenAPI names, and never a 5xx."""

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

KINDS = st.sampled_from(
    ["image/png", "multipart/form-data; boundary=b", "multipart/form-data", "text/plain", "",
     "application/json", "application/vnd.bentoml+pickle", "application/x-www-form-urlencoded"]
)  # fmt: skip
HEADS = st.sampled_from(
    [b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"GIF89a", b"II*\0", b"P5 "]
)
PARTS = st.lists(
    st.builds(
        lambda field, data: (
            b'--b\r\nContent-Disposition: form-data; name="%s"; filename="f"'
            b"\r\n\r\n%s\r\n" % (field, data)
        ),
        st.sampled_from([b"images", b"other", b""]),
        st.binary(max_size=200),
    ),
    max_size=3,
).map(lambda parts: b"".join(parts) + b"--b--\r\n")


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    route=st.sampled_from(["/predict", "/analyze", "/info"]),
    method=st.sampled_from(["POST", "POST", "POST", "GET", "DELETE"]),
    kind=KINDS,
    body=st.one_of(PARTS, st.builds(bytes.__add__, HEADS, st.binary(max_size=300))),
    query=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
)
def test_no_input_breaks_the_service(client, spec, route, method, kind, body, query):
    answer = client.request(
        method, route, content=body, params=query, headers={"Content-Type": kind}
    )
    assert answer.status_code < 500
    if method.lower() in spec["paths"][route]:
        assert str(answer.status_code) in spec["paths"][route][method.lower()]["responses"]
    if answer.status_code != 200:
        assert set(answer.json()) in ({"error"}, {"detail"})


@pytest.fixture(scope="module")
def client(server):
    with httpx.Client(base_url=server.url) as opened:
        yield opened


@pytest.fixture(scope="module")
def spec(client):
    return client.get("/openapi.json").json()
