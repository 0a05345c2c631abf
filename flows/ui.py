"""`make ui`: Prefect's server, the work pool, the deployments and a worker, until Ctrl-C.

A fresh machine and one on which all of it ran before are brought to the same state. Everything that
Prefect keeps lies in ``PREFECT_HOME``; reports are served next door, to this machine alone, so that
the UI can link to them.
"""

import argparse
import functools
import http.server
import io
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from types import FrameType
from typing import Any, BinaryIO
from urllib.parse import urlsplit

import httpx
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.artifacts import SERVED
from flows.automations import apply_automations
from flows.standing import as_people_left_it
from mien.errors import MienError
from mien.pipeline import environment
from mien.ports import names_this_machine, require_free

POOL = "mien"
LOOPBACK = "127.0.0.1"
_ADVICE = "is `make ui` running already? Another port: make ui PORT=4300"
_START = 120.0
"""Seconds that the server has for its start; the first one makes the database."""
_STOP = 15.0
"""Seconds that a process has to end before it is killed."""
_AGAIN = 3.0
"""Seconds before a process that ended by itself is started again."""

_STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(Exception):
    """Ctrl-C, SIGTERM, or the terminal was closed."""


def main() -> None:
    """Bring everything up, say the address, keep it up, and stop it all on Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m flows.ui", description="Prefect, all of it.")
    parser.add_argument("--host", default=LOOPBACK)
    parser.add_argument("--port", type=int, default=4200)
    parser.add_argument("--workspace", type=Path, default=Path(), metavar="DIR")
    options = parser.parse_args()
    for number in _STOPS:
        signal.signal(number, _stop)
    house = House(options.host, options.port, options.workspace.resolve())
    try:
        house.up()
        house.keep()
    except Stopped:
        print("stopping …", flush=True)
    except MienError as error:
        sys.exit(f"ui: error: {error}")
    finally:
        for number in _STOPS:
            signal.signal(number, signal.SIG_IGN)  # a second Ctrl-C must not leave half of it
        house.down()


class House:
    """The server, the worker and the reports."""

    def __init__(self, host: str, port: int, workspace: Path) -> None:
        self.host, self.port, self.workspace = host, port, workspace
        self.address = f"http://{host}:{port}"
        self.reports = f"http://{LOOPBACK}:{port + 1}"
        usual = {
            # To where the page came from: a browser elsewhere knows no 0.0.0.0, nor does a proxy.
            "PREFECT_UI_API_URL": "/api",
            # Prefect's default is every page's; `flows.server` has the rest of this.
            "PREFECT_SERVER_CORS_ALLOWED_ORIGINS": self.address,
            # On disk: a server that restarts must know which runs hold a place of their deployment;
            # Prefect ends those that it has forgotten.
            "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": (
                "prefect.server.concurrency.lease_storage.filesystem"
            ),
            # Seconds for which a run that was asked for may wait for the worker's next look.
            "PREFECT_WORKER_QUERY_SECONDS": "5",
            "MIEN_REPORTS_URL": self.reports,
        }
        self.environment = {
            **environment(),
            **{name: os.environ.get(name) or value for name, value in usual.items()},
            "PREFECT_API_URL": f"{self.address}/api",
            "MIEN_REPORTS_ROOT": str(workspace),
            "PWD": str(Path.cwd()),
        }
        self.processes: dict[tuple[str, ...], subprocess.Popen[bytes]] = {}

    def up(self) -> None:
        """Start what is there to be started, in the order in which it is needed."""
        require_free(self.host, self.port, _ADVICE)
        require_free(LOOPBACK, self.port + 1, _ADVICE)
        self._start("flows.server", "--host", self.host, "--port", str(self.port))
        self._wait_for_server()
        with temporary_settings({PREFECT_API_URL: self.environment["PREFECT_API_URL"]}):
            _make_pool()
            with as_people_left_it():
                for name in apply_automations():
                    print(f"automation: {name}", flush=True)
                self._call("prefect", "--no-prompt", "deploy", "--all")
        self._start("prefect", "worker", "start", "--pool", POOL)
        self._serve_reports()
        print(
            f"\nPrefect: {self.address}   reports: {self.reports}\n"
            "Ctrl-C stops all of it; runs, schedules and artifacts stay.\n",
            flush=True,
        )

    def keep(self) -> None:
        """Start again what ends by itself, for as long as nobody stops this."""
        while True:
            time.sleep(_AGAIN)
            for command, process in list(self.processes.items()):
                if (status := process.poll()) is not None:
                    print(
                        f"{' '.join(command)} ended with status {status}: starting it again",
                        flush=True,
                    )
                    self._start(*command)

    def down(self) -> None:
        """Stop the worker, which ends its runs and says so, then the server."""
        for process in reversed(self.processes.values()):
            _end(process)

    def _start(self, *command: str) -> None:
        # A session of its own: Ctrl-C reaches this process, which knows the order.
        self.processes[command] = subprocess.Popen(
            _module(*command),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _call(self, *arguments: str) -> None:
        done = subprocess.run(
            _module(*arguments),
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise MienError(f"`{' '.join(arguments)}` failed:\n{done.stdout}")

    def _wait_for_server(self) -> None:
        (process,) = self.processes.values()
        deadline = time.monotonic() + _START
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise MienError(f"the server ended with status {process.returncode}; see above")
            with suppress(httpx.HTTPError):
                if httpx.get(f"{self.address}/api/health", timeout=5).is_success:
                    return
            time.sleep(0.3)
        raise MienError(f"the server does not answer at {self.address} after {_START:.0f} s")

    def _serve_reports(self) -> None:
        """To this machine alone, whoever may see the UI: they show faces, and ask for no password.

        A proxy that does may stand before them; ``MIEN_REPORTS_URL`` says where.
        """
        name = urlsplit(self.environment["MIEN_REPORTS_URL"]).netloc
        handler = functools.partial(_Reports, name=name, workspace=self.workspace)
        server = http.server.ThreadingHTTPServer((LOOPBACK, self.port + 1), handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()


class _Reports(http.server.SimpleHTTPRequestHandler):
    """The workspace's reports and windows of monitoring, without a line for each request.

    Asked under this machine's own names or ``name``, that of ``MIEN_REPORTS_URL``: a page elsewhere
    whose name leads here (DNS rebinding) could read the faces.
    """

    def __init__(self, *arguments: Any, name: str, workspace: Path) -> None:
        # before the base class, which answers the request as it is made
        self.name, self.workspace = name, workspace
        super().__init__(*arguments)

    def translate_path(self, path: str) -> str:
        begin = max((each for each in SERVED if path[1:].startswith(each)), key=len)
        self.directory = str(self.workspace / SERVED[begin])
        return super().translate_path(f"/{path[1 + len(begin) :]}")

    def send_head(self) -> io.BytesIO | BinaryIO | None:
        host = self.headers.get("Host", "localhost")  # browsers always send it
        if names_this_machine(host) or host == self.name:
            return super().send_head()
        self.send_error(HTTPStatus.FORBIDDEN, "name this machine, or set MIEN_REPORTS_URL")
        return None

    def log_message(self, format: str, *args: object) -> None:
        pass


def _make_pool() -> None:
    """The work pool, where there is none yet; one that a team has changed stays as it is."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    pool = WorkPoolCreate(name=POOL, type="process", base_job_template=template)
    with get_client(sync_client=True) as client, suppress(ObjectAlreadyExists):
        client.create_work_pool(pool)


def _module(*arguments: str) -> list[str]:
    return [sys.executable, "-m", *arguments]


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Ask the process, then its whole group; a worker may hang after SIGTERM."""
    if process.poll() is None:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(_STOP)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _stop(signum: int, frame: FrameType | None) -> None:
    raise Stopped


if __name__ == "__main__":
    main()
