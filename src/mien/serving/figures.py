"""The service's Prometheus metrics: the model's own figures, and BentoML's of the traffic."""

from collections import Counter as Counts
from collections.abc import Collection, Sequence
from typing import Any

from bentoml._internal.server.http.instruments import RunnerTrafficMetricsMiddleware

from mien.serving.answers import FaceAnswer
from mien.serving.guard import App, Receive, Scope, Send


class Traffic(RunnerTrafficMetricsMiddleware):
    """BentoML's figures of the requests, for the paths that there are.

    BentoML 1.4.39 makes series of each path that it is asked for, before anybody looks at the key:
    a scanner's 3,000 took 130 MiB, and `/metrics` took longer with each of them.

    Args:
        app: what comes behind it.
        paths: those that are counted; requests for others are handed on.
    """

    def __init__(self, app: App, paths: Collection[str], **options: Any) -> None:
        super().__init__(app, **options)
        self.paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Hand on; count where it is for one of the paths."""
        counted = scope["type"] == "http" and scope["path"] in self.paths
        await (super().__call__ if counted else self.app)(scope, receive, send)


class Figures:
    """Counters of what was answered; BentoML adds them to ``/metrics`` over all workers."""

    def __init__(self) -> None:
        from bentoml.metrics import Counter, Histogram

        self._faces: Any = Counter(
            "mien_predictions_total", "faces by likeliest expression", ["expression", "model"]
        )
        self._abstentions: Any = Counter(
            "mien_abstentions_total", "faces on which the model abstained", ["reason", "model"]
        )
        self._photos: Any = Counter("mien_photos_total", "photos in which faces were sought")
        self._empty: Any = Counter("mien_photos_without_face_total", "photos in which none was")
        self._lost: Any = Counter(
            "mien_log_lost_total", "answered requests that the prediction log could not take"
        )
        self._confidence: Any = Histogram(
            "mien_confidence",
            "calibrated confidence of the likeliest expression",
            ["model"],
            buckets=[0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 1.0],
        )

    def count(self, model: str, answers: Sequence[FaceAnswer]) -> None:
        """Faces that were answered."""
        confidence = self._confidence.labels(model=model)
        for answer in answers:
            confidence.observe(answer.confidence)
        for expression, faces in Counts(answer.expression for answer in answers).items():
            self._faces.labels(expression=expression, model=model).inc(faces)
        for reason, faces in Counts(a.reason for a in answers if a.reason).items():
            self._abstentions.labels(reason=reason, model=model).inc(faces)

    def count_lost(self, requests: int) -> None:
        """Answered requests whose rows could not be written."""
        self._lost.inc(requests)

    def count_photo(self, faces: int) -> None:
        """A photo in which ``faces`` faces were found."""
        self._photos.inc()
        if not faces:
            self._empty.inc()
