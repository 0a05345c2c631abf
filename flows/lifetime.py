"""What a flow run's life hangs on: the worker that started it, or, by hand, a server that answers.

Its signs of life tell the server when it has ended without a word (`flows.automations`).
"""

import os
import signal
import sys
import threading
import time
from enum import StrEnum
from typing import Any

from prefect import Flow
from prefect.client.schemas.objects import State
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
    temporary_settings,
)

HEARTBEAT = 30
"""Seconds between two signs of life of a run by hand; those of a worker's stand in prefect.yaml."""
_POLL = 1.0
"""Seconds between two looks."""


class End(StrEnum):
    """How a completed run of `flows.monitoring` or `flows.retraining` ended: its state's name."""

    NO_DRIFT = "No drift"
    WATCH = "Watch"
    DRIFT = "Drift"
    WAITING = "Waiting"
    PROMOTED = "Promoted"
    REFUSED = "Refused"
    UNCHANGED = "Unchanged"
    SKIPPED = "Skipped"


def end_with_worker() -> None:
    """End this process when its worker is gone, even by `kill -9`; without a worker do nothing.

    Prefect lets a flow run go on when its worker dies. Nobody could cancel it then, and the
    worker's successor would find its workspace locked. SIGTERM lets it clean up and say that it
    crashed; the next run goes on where it stopped.
    """
    if "PREFECT__FLOW_RUN_ID" not in os.environ:  # called by hand
        return
    threading.Thread(target=_watch, args=(os.getppid(),), daemon=True).start()


def _watch(worker: int) -> None:
    while os.getppid() == worker:
        time.sleep(_POLL)
    os.kill(os.getpid(), signal.SIGTERM)


def run_by_hand(flow: Flow[..., State], **options: Any) -> State:
    """Run a flow from the command line; it gives the server that is set signs of life.

    Where that server does not answer, or the run does not complete, this process ends with an
    error. Without a server nobody looks.
    """
    import httpx

    url = PREFECT_API_URL.value()
    try:
        if url:
            httpx.get(f"{url}/health", timeout=10).raise_for_status()
    except httpx.HTTPError as error:
        sys.exit(
            f"{flow.name}: error: no Prefect server answers at {url} ({error}); start one with "
            "`make ui`, or unset PREFECT_API_URL to run without"
        )
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: HEARTBEAT} if url else {}):
        state = flow(**options, return_state=True)
    if not state.is_completed():
        sys.exit(f"{flow.name}: error: {state.message}")
    return state
