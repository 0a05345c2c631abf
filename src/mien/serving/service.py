"""The BentoML service.

The routes are an ASGI application inside it, and not BentoML's own API methods: those download what
a text field names as a URL, answer 500 to broken pictures, and describe uploads in their OpenAPI
otherwise than clients must send them (docs/serving.md).
"""

import asyncio
import gc
import os
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("BENTOML_DO_NOT_TRACK", "True")
if "MIEN_FIGURES" in os.environ:
    # BentoML has one folder for all services of a user, which each empties when it starts.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = os.environ["MIEN_FIGURES"]

import bentoml
import cv2
import numpy as np
import uvicorn.config
from bentoml._internal.server.http import instruments, traffic
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from numpy.typing import NDArray
from starlette.exceptions import HTTPException
from starlette.routing import Route

from mien.data.faces import MAX_PIXELS, PictureError
from mien.serving import controls
from mien.serving.answers import Analysis, FaceAnswer, FoundFace, Info, Prediction, Problem
from mien.serving.classifier import Classified, Classifier, Crop, find_crops, read_crop
from mien.serving.connection import Connection
from mien.serving.detector import make_detector
from mien.serving.effort import MOST_PIXELS, Effort
from mien.serving.figures import Figures, Traffic
from mien.serving.guard import HEALTH, Guard, read_key
from mien.serving.log import Answered, PredictionLog
from mien.serving.package import find_package, load_package, started_in
from mien.serving.timeout import Timeout
from mien.serving.uploads import MAX_FILES, Upload, describe_body, read_uploads

traffic.TimeoutMiddleware = Timeout  # BentoML looks it up when the worker starts
# uvicorn looks it up then, too; BentoML has no setting for it
uvicorn.config.HTTP_PROTOCOLS["auto"] = f"{Connection.__module__}:{Connection.__qualname__}"

KEY = read_key()
_THREADS = 2
"""Requests that are decoded and classified at once; a large picture must not hold up the rest."""

_BATCH = 16
"""Faces that the network is given at once, while the next ones are decoded."""

_LOOK = 0.25
"""Seconds after which it is looked again whether a caller has hung up."""

_PROBLEMS: dict[int | str, dict[str, Any]] = {
    400: {"model": Problem, "description": "The request or a picture in it can't be used."},
    401: {"model": Problem, "description": "MIEN_API_KEY is set, and the key was not sent."},
    403: {
        "model": Problem,
        "description": "No key is set, and the caller is elsewhere; or another site's page.",
    },
    408: {"model": Problem, "description": "The upload was too slow."},
    413: {"model": Problem, "description": "The upload is too large."},
    415: {"model": Problem, "description": "The content type is neither a form nor a picture."},
    431: {"model": Problem, "description": "The request's head is too large."},
    503: {"model": Problem, "description": "Too many requests at once; see Retry-After."},
    504: {"model": Problem, "description": "No answer within a minute."},
}
_ASKED: dict[int | str, dict[str, Any]] = {status: _PROBLEMS[status] for status in (401, 403, 503)}

app = FastAPI(
    title="Mien",
    version="1",
    description="Names the facial expressions in pictures.",
    docs_url=None,  # its page is loaded from elsewhere
    redoc_url=None,
)


@app.exception_handler(HTTPException)
async def _refuse(request: Request, error: HTTPException) -> JSONResponse:
    return JSONResponse({"error": error.detail}, error.status_code, headers=error.headers)


@app.get("/", response_class=HTMLResponse, include_in_schema=False)
async def page() -> Response:
    """The page for people."""
    return Response(
        _PAGE,
        media_type="text/html",
        headers={
            "Content-Security-Policy": "default-src 'self'; img-src 'self' data: blob:; "
            "style-src 'unsafe-inline'; script-src 'unsafe-inline'; frame-ancestors 'none'",
            "X-Content-Type-Options": "nosniff",
        },
    )


_PAGE = Path(__file__).with_name("page.html").read_bytes()


@app.get("/info", response_model=Info, responses=_ASKED)
async def info() -> Any:
    """The model: its card, labels, version, metrics."""
    package = _worker().classifier.package
    return Info(
        name=package.metadata["name"],
        version=package.version,
        expressions=list(package.expressions),
        image_size=package.image_size,
        abstention_threshold=package.threshold,
        metrics=package.metadata["accuracy"],
        card=package.card,
    )


@app.post(
    "/predict",
    response_model=Prediction,
    responses=_PROBLEMS,
    openapi_extra=describe_body(MAX_FILES, MOST_PIXELS),
)
async def predict(request: Request) -> Response:
    """What ready face crops show: one answer for each, in their order."""
    started = time.perf_counter()
    uploads = await read_uploads(request, MAX_FILES)
    return _json(await _in_thread(request, _worker().predict, uploads, started))


@app.post(
    "/analyze",
    response_model=Analysis,
    responses=_PROBLEMS,
    openapi_extra=describe_body(1, MAX_PIXELS),
)
async def analyze(request: Request) -> Response:
    """Where the faces of a photo are, and what each shows; that there is none is no error."""
    started = time.perf_counter()
    (upload,) = await read_uploads(request, 1)
    return _json(await _in_thread(request, _worker().analyze, upload, started))


PATHS = HEALTH | {route.path for route in app.routes if isinstance(route, Route)}
instruments.RunnerTrafficMetricsMiddleware = partial(Traffic, paths=PATHS)  # as Timeout


def _json(answer: Prediction | Analysis) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")


async def _in_thread(request: Request, function: Any, *arguments: Any) -> Any:
    """The function's answer, from one of `_THREADS` threads.

    A request that is cancelled while it waits for one gives up its place, as does one whose caller
    has hung up by then; one whose thread is at work keeps it until that ends, so that there are
    never more, and tells it to end soon.
    """
    worker, effort = _worker(), Effort()
    async with worker.places:
        await _check_connected(request)
        answer = asyncio.wrap_future(
            worker.threads.submit(copy_context().run, function, effort, *arguments)
        )
        try:
            while not (await asyncio.wait([answer], timeout=_LOOK))[0]:
                await _check_connected(request)
        except (asyncio.CancelledError, HTTPException):
            effort.end()
            await asyncio.wait([answer])
            answer.exception()  # looked at, or asyncio would complain of one nobody has seen
            raise
        return answer.result()


async def _check_connected(request: Request) -> None:
    if await request.is_disconnected():
        raise HTTPException(499, "the caller hung up")  # for the metrics alone


def _worker() -> "MienService":
    worker: MienService = app.state.worker
    return worker


def _request_id() -> str:
    from bentoml._internal.context import trace_context

    return str(trace_context.request_id)


@bentoml.asgi_app(app, path="/")
@bentoml.service(
    name="mien",
    workers=1,
    traffic={"timeout": 60},
    http={"host": "0.0.0.0" if KEY else "127.0.0.1"},
    logging={"access": {"enabled": False}},
    metrics={"enabled": True, "namespace": "bentoml_service"},
)
class MienService:
    """One worker: a model, its log and its figures."""

    def __init__(self) -> None:
        cv2.setNumThreads(1)
        package = load_package(find_package(started_in()))
        self.classifier = Classifier(package)
        self.detect = make_detector(started_in())
        self.figures = Figures()
        self.log = PredictionLog(package, self.figures.count_lost)
        self.pool = ThreadPoolExecutor(_THREADS, "network")
        self.threads = ThreadPoolExecutor(_THREADS, "request")
        self.places = asyncio.Semaphore(_THREADS)
        size = package.image_size
        self.classifier.classify(np.zeros((1, size, size), np.uint8))  # the first run is slow
        app.state.worker = self
        sys.setswitchinterval(0.0005)  # the network must not wait 5 ms for what decodes
        gc.collect()
        gc.freeze()  # what is here by now stays: no need to look through it again and again

    @bentoml.on_deployment  # type: ignore[untyped-decorator]
    def hide_controls() -> None:  # BentoML makes it static
        """Before BentoML starts the workers, in the process that does it."""
        controls.hide()

    @bentoml.on_shutdown  # type: ignore[untyped-decorator]
    def close(self) -> None:
        """Write the last rows of the log."""
        self.threads.shutdown()
        self.pool.shutdown()
        self.log.close()

    def predict(self, effort: Effort, uploads: list[Upload], started: float) -> Prediction:
        """The body of ``/predict``."""
        crops: list[Crop] = []
        running: list[Future[Classified]] = []
        for first in range(0, len(uploads), _BATCH):
            batch = [self._read(effort, upload) for upload in uploads[first : first + _BATCH]]
            crops += batch
            # the network lets go of Python's lock: the next faces are decoded meanwhile
            running.append(self.pool.submit(self.classifier.classify, _stack(batch)))
        request_id = _request_id()
        classified = Classified.join([each.result() for each in running])
        answers = self._answer(crops, classified, request_id, "predict", started)
        version = self.classifier.package.version
        return Prediction(model=version, request_id=request_id, faces=answers)

    def analyze(self, effort: Effort, upload: Upload, started: float) -> Analysis:
        """The body of ``/analyze``."""
        try:
            size = self.classifier.package.image_size
            crops, (width, height) = find_crops(upload.data, size, self.detect)
        except PictureError as error:
            raise HTTPException(400, f"{upload.name}: {error}") from None
        effort.go_on()
        request_id = _request_id()
        classified = self.classifier.classify(_stack(crops)) if crops else None
        answers = self._answer(crops, classified, request_id, "analyze", started)
        self.figures.count_photo(len(crops))
        faces = [
            FoundFace(**dict(answer) | {"box": crop.box})
            for crop, answer in zip(crops, answers, strict=True)
        ]
        return Analysis(
            model=self.classifier.package.version,
            request_id=request_id,
            width=width,
            height=height,
            message=None if faces else "no face was found",
            faces=faces,
        )

    def _read(self, effort: Effort, upload: Upload) -> Crop:
        effort.go_on()
        try:
            return read_crop(upload.data, self.classifier.package.image_size, effort.spend)
        except PictureError as error:
            raise HTTPException(400, f"{upload.name}: {error}") from None

    def _answer(
        self,
        crops: list[Crop],
        classified: Classified | None,
        request_id: str,
        route: str,
        started: float,
    ) -> list[FaceAnswer]:
        """Log and count what was found, None where there was no face."""
        self.log.write(
            Answered(
                request_id,
                route,
                crops,
                classified,
                1000 * (time.perf_counter() - started),
            )
        )
        answers = classified.answers if classified else []
        self.figures.count(self.classifier.package.version, answers)
        return answers


def _stack(crops: list[Crop]) -> NDArray[np.uint8]:
    return np.stack([crop.pixels for crop in crops])


MienService.add_asgi_middleware(Guard, key=KEY)  # type: ignore[attr-defined]  # a bentoml Service
