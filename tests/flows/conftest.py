"""`make ui` for the tests: a real server and a real worker, which poll often."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.patience import PATIENCE


class House:
    """Prefect as `make ui` brings it up."""

    def __init__(self, home: Path, **settings: str) -> None:
        self.port = free_port()
        self.api = f"http://127.0.0.1:{self.port}/api"
        self.log = home / "ui.log"
        home.mkdir(parents=True, exist_ok=True)
        self.environment = {
            **os.environ,
            "PREFECT_HOME": str(home / "prefect"),
            "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "1",
            "PREFECT_SERVER_SERVICES_SCHEDULER_RECENT_DEPLOYMENTS_LOOP_SECONDS": "1",
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "OMP_NUM_THREADS": "1",
            **settings,
        }
        self.process: subprocess.Popen[bytes] | None = None

    def up(self, quiet: bool = True) -> None:
        """Bring it up; ``quiet``: with schedules off, for they would work on the checkout."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "flows.ui", "--port", str(self.port)],
                cwd=Path(__file__).parents[2],
                env=self.environment,
                stdout=log,
                stderr=log,
            )
        said = self.log.stat().st_size
        try:
            wait_for(lambda: b"Ctrl-C stops" in self.log.read_bytes()[said:], 180, self.process)
        except AssertionError as error:
            raise AssertionError(f"{error}; {self.log.read_text()[-4000:]}") from error
        for deployment in self.post("deployments/filter") if quiet else []:
            for schedule in deployment["schedules"]:
                path = f"deployments/{deployment['id']}/schedules/{schedule['id']}"
                self.patch(path, active=False)

    def down(self) -> None:
        assert self.process is not None
        if self.process.poll() is not None:
            return  # it ended by itself, and stopped what it had started
        ours = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(signal.SIGINT)
        self.process.wait(60 * PATIENCE)
        _, alive = psutil.wait_procs(ours, timeout=15 * PATIENCE)
        for process in alive:
            process.kill()
        assert alive == [], "`make ui` left processes behind"

    def until(self, condition: Callable[[], Any], seconds: float) -> None:
        wait_for(condition, seconds)

    def child(self, word: str) -> psutil.Process:
        """The server's or the worker's process."""
        assert self.process is not None
        (found,) = (
            process
            for process in psutil.Process(self.process.pid).children()
            if any(part in (word, f"flows.{word}") for part in process.cmdline())
        )
        return found

    def post(self, path: str, **body: Any) -> Any:
        return self.request("POST", path, body)

    def patch(self, path: str, **body: Any) -> Any:
        return self.request("PATCH", path, body)

    def get(self, path: str) -> Any:
        return self.request("GET", path)

    def request(self, method: str, path: str, body: Any = None) -> Any:
        """The server's answer, once it is up and not too busy (as Prefect's own client asks)."""
        deadline = time.monotonic() + 60 * PATIENCE
        while True:
            try:
                response = httpx.request(method, f"{self.api}/{path}", json=body, timeout=30)
                response.raise_for_status()
                return response.json() if response.content else None
            except (httpx.TransportError, httpx.HTTPStatusError) as error:
                refused = isinstance(error, httpx.HTTPStatusError)
                if (refused and error.response.status_code < 500) or time.monotonic() > deadline:
                    raise
                time.sleep(0.5)

    def deployment(self, name: str = "training/weekly") -> dict[str, Any]:
        return self.get(f"deployments/name/{name}")

    def start(self, name: str = "training/weekly", /, **parameters: Any) -> str:
        """A run by hand, as the UI's custom run makes it; its id."""
        deployment = self.deployment(name)
        created = self.post(
            f"deployments/{deployment['id']}/create_flow_run",
            parameters=parameters,
            state={"type": "SCHEDULED"},
        )
        return created["id"]

    def by_schedule(self, seconds: float = 90, **parameters: Any) -> dict[str, Any]:
        """A run that nobody starts: one that a schedule makes, once it has ended."""
        deployment = self.deployment()
        path = f"deployments/{deployment['id']}/schedules"
        due = datetime.now(UTC) + timedelta(seconds=3)
        schedule = {"interval": 86400, "anchor_date": due.isoformat()}
        entry = {"active": True, "schedule": schedule, "parameters": parameters}
        (made,) = self.request("POST", path, [entry])
        chosen = {
            "deployment_id": {"any_": [deployment["id"]]},
            "expected_start_time": {
                "after_": (due - timedelta(seconds=1)).isoformat(),
                "before_": (due + timedelta(seconds=1)).isoformat(),
            },
        }

        def runs() -> list[dict[str, Any]]:
            found = self.post("flow_runs/filter", flow_runs=chosen)
            return [run for run in found if run["auto_scheduled"]]

        try:
            wait_for(runs, 30)
            (run,) = runs()
            return self.wait(run["id"], seconds=seconds)
        finally:
            self.request("DELETE", f"{path}/{made['id']}")

    def run(self, run_id: str) -> dict[str, Any]:
        return self.get(f"flow_runs/{run_id}")

    def wait(self, run_id: str, *states: str, seconds: float = 90) -> dict[str, Any]:
        """A run once it is in one of the states; in one that it does not leave by default."""
        wanted = states or ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
        wait_for(lambda: self.run(run_id)["state_type"] in wanted, seconds)
        return self.run(run_id)

    def tasks(self, run_id: str) -> list[tuple[str, str]]:
        found = self.post("task_runs/filter", flow_runs={"id": {"any_": [run_id]}})
        found.sort(key=lambda task: task["start_time"] or "")
        return [(task["name"], task["state"]["name"]) for task in found]

    def lines(self, run_id: str) -> list[str]:
        found = self.post(
            "logs/filter", logs={"flow_run_id": {"any_": [run_id]}}, sort="TIMESTAMP_ASC"
        )
        return [log["message"] for log in found]

    def artifacts(self, run_id: str) -> dict[str, Any]:
        found = self.post("artifacts/filter", artifacts={"flow_run_id": {"any_": [run_id]}})
        return {artifact["key"]: artifact["data"] for artifact in found}


def wait_for(
    condition: Callable[[], Any],
    seconds: float,
    process: "subprocess.Popen[bytes] | None" = None,
) -> None:
    deadline = time.monotonic() + seconds * PATIENCE
    while time.monotonic() < deadline:
        if condition():
            return
        assert process is None or process.poll() is None, "it ended"
        time.sleep(0.2)
    pytest.fail(f"not within {seconds:g} s")


def free_port() -> int:
    """A port that is free, as the next one is: reports are served there."""
    while True:
        with socket.socket() as one, socket.socket() as two:
            one.bind(("127.0.0.1", 0))
            port: int = one.getsockname()[1]
            try:
                two.bind(("127.0.0.1", port + 1))
            except OSError:
                continue
            return port


@pytest.fixture(scope="session")
def house(tmp_path_factory) -> Iterator[House]:
    house = House(tmp_path_factory.mktemp("house"))
    try:
        house.up()
        yield house
    finally:
        house.down()


@pytest.fixture
def make_house(tmp_path_factory) -> Iterator[Callable[..., House]]:
    """Houses with settings of their own."""
    houses: list[House] = []

    def make(**settings: str) -> House:
        houses.append(House(tmp_path_factory.mktemp("house"), **settings))
        houses[-1].up()
        return houses[-1]

    try:
        yield make
    finally:
        for house in houses:
            house.down()
