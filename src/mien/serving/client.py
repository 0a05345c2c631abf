"""A typed client of the service.

with Client("http://127.0.0.1:3000") as client:
    for face in client.analyze(Path("photo.jpg").read_bytes()).faces:
        print(face.expression, face.confidence, face.box)
"""

import os
from collections.abc import Sequence
from typing import Any, Self, TypeVar

import httpx
from pydantic import ValidationError

from mien.errors import MienError
from mien.serving.answers import Analysis, Info, Prediction
from mien.serving.uploads import FIELD

_Answer = TypeVar("_Answer", Prediction, Analysis, Info)


class ServiceError(MienError):
    """The service could not be reached, or refused; ``status`` is the HTTP status or None."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class Client:
    """Asks a service.

    Args:
        url: where it is.
        key: its key; by default the environment's ``MIEN_API_KEY``.
        timeout: seconds for which an answer is waited for.
    """

    def __init__(self, url: str, key: str | None = None, timeout: float = 60.0) -> None:
        key = key or os.environ.get("MIEN_API_KEY")
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=timeout)

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
        try:
            answer = self._http.request(method, route, **options)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServiceError(f"{self._http.base_url}: no answer ({error})") from None
        if answer.is_success:
            return answer
        try:
            reason = answer.json()["error"]
        except (ValueError, KeyError, TypeError):
            reason = answer.reason_phrase
        raise ServiceError(str(reason), answer.status_code)


def _parse(kind: type[_Answer], answer: httpx.Response) -> _Answer:
    try:
        return kind.model_validate_json(answer.content)
    except ValidationError:
        raise ServiceError(f"{answer.url}: not an answer of Mien; is it the right URL?") from None
