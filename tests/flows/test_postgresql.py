"""`make ui` on PostgreSQL, where the machine has its server's programs (Debian: postgresql)."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture
def database() -> Iterator[str]:
    """A cluster of its own with an empty database; its address for Prefect."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    programs = found[-1] if found else None
    if programs is None:
        pytest.skip("PostgreSQL is not installed")
    folder = Path(tempfile.mkdtemp(prefix="mien-postgresql-"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    user = []
    if os.geteuid() == 0:  # the server refuses root
        user = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--"]
        shutil.chown(folder, "postgres")  # pytest's own folders are closed to it

    def call(name: str, *arguments: str) -> None:
        subprocess.run([*user, f"{programs}/{name}", *arguments], cwd="/", check=True, timeout=60)

    data, where = str(folder / "data"), ("-h", "127.0.0.1", "-p", str(port), "-U", "mien")
    call("initdb", "-D", data, "-A", "trust", "-U", "mien")
    options = f"-p {port} -k '' -c listen_addresses=127.0.0.1"
    call("pg_ctl", "-D", data, "-o", options, "-l", str(folder / "log"), "-w", "start")
    try:
        call("createdb", *where, "prefect")
        yield f"postgresql+asyncpg://mien@127.0.0.1:{port}/prefect"
    finally:
        call("pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
        shutil.rmtree(folder)


def test_a_run_on_postgresql(make_house, database, chain):
    house = make_house(PREFECT_API_DATABASE_CONNECTION_URL=database)
    run = house.wait(house.start(workspace=str(chain.root)))
    assert run["state_type"] == "COMPLETED"
    assert house.tasks(run["id"]) == [(name, "Completed") for name in ("zero", "middle", "after")]
    assert not list(Path(house.environment["PREFECT_HOME"]).glob("prefect.db*"))
