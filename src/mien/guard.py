"""A command that ends with the process that started it, even where that one was killed outright.

``python -m mien.guard FD LOCK COMMAND…`` runs the command in its own process group. ``FD`` is the
reading end of a pipe whose writing end only the starter holds: when it closes, the starter is gone,
and the group is ended. Without this, `kill -9` of a flow would leave its stage training on.
"""

import os
import signal
import subprocess
import sys
import threading
from contextlib import suppress

GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""


def main() -> None:
    """Run the command; the exit status is its own."""
    pipe, lock, *command = sys.argv[1:]
    # Whoever ends the group waits for this process, which must outlast the command's own clean-up.
    # A handler, since an ignored signal would stay ignored in the command.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda signum, frame: None)
    process = subprocess.Popen(command, pass_fds=[int(lock)])
    orphaned = threading.Event()
    watch = threading.Thread(target=_watch, args=(int(pipe), process, orphaned), daemon=True)
    watch.start()
    status = process.wait()
    if orphaned.is_set():
        watch.join()  # it kills this process, too
    sys.exit(status if status >= 0 else 128 - status)


def _watch(pipe: int, process: "subprocess.Popen[bytes]", orphaned: threading.Event) -> None:
    os.read(pipe, 1)  # nothing is ever written: it returns when the other end is closed
    orphaned.set()
    os.killpg(0, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(GRACE)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
