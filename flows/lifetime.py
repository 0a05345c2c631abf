"""A flow run lives no longer than the worker that started it."""

import os
import signal
import threading
import time

_POLL = 1.0
"""Seconds between two looks."""


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
