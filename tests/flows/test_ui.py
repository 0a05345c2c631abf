"""What `make ui` opens, and what its deployments hand on; no server is needed to know."""

import os
import socket
import subprocess
import sys

import httpx
import pytest
import yaml

from flows.ui import House
from mien.pipeline import TELEMETRY_OFF
from tests.flows.conftest import free_port


def test_reports_stay_on_this_machine(tmp_path):
    """They show faces and ask for no password, so an open UI must not open them."""
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "index.html").write_text("faces")
    port = free_port()
    house = House("0.0.0.0", port, tmp_path)
    house._serve_reports()
    assert httpx.get(f"{house.reports}/index.html").text == "faces"
    with pytest.raises(ConnectionRefusedError):  # another address of this machine
        socket.create_connection(("127.0.0.2", port + 1), timeout=5)


def test_a_proxy_before_the_reports_has_the_links(tmp_path, monkeypatch):
    assert House("0.0.0.0", 4300, tmp_path).environment["MIEN_REPORTS_URL"].endswith(":4301")
    monkeypatch.setenv("MIEN_REPORTS_URL", "https://reports.example.org")
    house = House("0.0.0.0", 4300, tmp_path)
    assert house.environment["MIEN_REPORTS_URL"] == "https://reports.example.org"


def test_a_browser_asks_where_the_page_came_from(tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_UI_API_URL", raising=False)
    assert House("0.0.0.0", 4300, tmp_path).environment["PREFECT_UI_API_URL"] == "/api"
    monkeypatch.setenv("PREFECT_UI_API_URL", "https://prefect.example.org/behind/api")
    environment = House("0.0.0.0", 4300, tmp_path).environment
    assert environment["PREFECT_UI_API_URL"] == "https://prefect.example.org/behind/api"


def test_drift_of_a_workspace_renews_that_one(root):
    deployments = yaml.safe_load((root / "prefect.yaml").read_text())["deployments"]
    (renewal,) = [each for each in deployments if each["name"] == "on-drift"]
    (trigger,) = renewal["triggers"]
    handed_on = {name: f"{{{{ event.payload.{name} }}}}" for name in trigger["parameters"]}
    assert trigger["parameters"] == handed_on
    assert {"workspace", "logs", "reason", "since"} <= set(handed_on)


@pytest.mark.parametrize("command", ["training", "monitoring", "retraining", "ui"])
def test_no_tool_reports_home_from_a_command_by_hand(root, command):
    code = (
        f"import flows.{command}; from prefect.settings import get_current_settings as settings; "
        "from prefect._internal.analytics.enabled import is_telemetry_enabled as told; "
        "print(settings().server.analytics_enabled, told())"
    )
    ours = {name: value for name, value in os.environ.items() if name not in TELEMETRY_OFF}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=ours, stdout=subprocess.PIPE, check=True
    )
    assert done.stdout.split() == [b"False", b"False"]
