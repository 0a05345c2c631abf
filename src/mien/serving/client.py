"""A typed client of the service.

with Client("http://127.0.0.1:3000") as client:
    for face in client.analyze(Path("photo.jpg").read_bytes()).faces:
        print(face.expression, face.confidence, face.box)
"""

import time
from collections.abc import Sequence
from typing import Any, Self, TypeVar

import httpx
from pydantic import ValidationError

from mien.errors import MienError
from mien.serving.answers import Analysis, Info, Prediction
from mien.serving.guard import read_key
from mien.serving.uploads import FIELD

_Answer = TypeVar("_Answer", Prediction, Analysis, Info)
PICTURE = (400, 413)
"""The statuses of refusals that are about a picture, not about the service."""
_RETRIES = 3
"""How often a service that is too busy (503) is asked again."""
_LONGEST_WAIT = 10.0
"""Seconds before it is, whatever it says."""


class ServiceError(MienError):
    """The service could not be reached, or refused; ``status`` is the HTTP status or None."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """Asks a service; one that is too busy is asked again a few times, when it says.

    Args:
        url: where it is.
        key: its key; by default the environment's ``MIEN_API_KEY``.
        timeout: seconds for which an answer is waited for.

    Raises:
        ServiceError: the URL is none.
    """

    def __init__(self, url: str, key: str | None = None, timeout: float = 60.0) -> None:
        if not url:
            raise ServiceError(
                "the service's URL is empty: name one, such as http://127.0.0.1:3000"
            )
        key = key.strip() if key else read_key()
        # in UTF-8, as the service reads it; what was not UTF-8 in the environment as it was
        bearer = f"Bearer {key}".encode(errors="surrogateescape")
        headers = {b"Authorization": bearer} if key else {}
        try:
            self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout)
        except (httpx.InvalidURL, UnicodeError) as error:
            raise ServiceError(f"{url}: not a URL ({error})") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def predict(self, crops: Sequence[bytes]) -> Prediction:
        """What 1 to 64 ready face crops (encoded pictures) show, in their order."""
        answer = self._ask("POST", "/predict", files=[(FIELD, crop) for crop in crops])
        return _parse(Prediction, answer)

    def analyze(self, photo: bytes) -> Analysis:
        """The faces of a photo (an encoded picture), the largest first."""
        return _parse(Analysis, self._ask("POST", "/analyze", files=[(FIELD, photo)]))

    def info(self) -> Info:
        """The model that is served."""
        return _parse(Info, self._ask("GET", "/info"))

    def _ask(self, method: str, route: str, **options: Any) -> httpx.Response:
        answer = self._send(method, route, **options)
        for _ in range(_RETRIES):
            if answer.status_code != 503:
                break
            time.sleep(_wait(answer))
            answer = self._send(method, route, **options)
        if answer.is_success:
            return answer
        try:
            reason = answer.json()["error"]
        except (ValueError, KeyError, TypeError):
            reason = answer.reason_phrase
        if answer.status_code not in PICTURE:
            reason = f"{_shown(answer.url)}: {reason}"
        raise ServiceError(str(reason), answer.status_code)

    def _send(self, method: str, route: str, **options: Any) -> httpx.Response:
        try:
            return self._http.request(method, route, **options)
        except httpx.LocalProtocolError:  # whose words are the header itself
            raise ServiceError("the key (MIEN_API_KEY) holds a line break or the like") from None
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
            raise ServiceError(f"{_shown(self._http.base_url)}: no answer ({error})") from None


def _shown(url: httpx.URL) -> httpx.URL:
    """Without the key that may stand in it as a password."""
    return url.copy_with(userinfo=b"")


def _wait(answer: httpx.Response) -> float:
    """Seconds that the service asks for; one where it names none, or a date."""
    text = answer.headers.get("Retry-After", "")
    return min(float(text) if text.isdecimal() else 1.0, _LONGEST_WAIT)


def _parse(kind: type[_Answer], answer: httpx.Response) -> _Answer:
    try:
        return kind.model_validate_json(answer.content)
    except ValidationError:
        url = _shown(answer.url)
        raise ServiceError(f"{url}: not an answer of Mien; is it the right URL?") from None
