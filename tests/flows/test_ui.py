"""What `make ui` opens, and what its deployments hand on; no server is needed to know."""

import os
import socket
import subprocess
import sys
from contextlib import nullcontext
from unittest.mock import Mock
from uuid import uuid4

import httpx
import pytest
import yaml
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import CronSchedule

from flows.artifacts import address
from flows.standing import as_people_left_it
from flows.ui import House
from mien.errors import MienError
from mien.pipeline import TELEMETRY_OFF
from tests.flows.conftest import free_port


def ask_for_report(house, **headers):
    """Its ``index.html``, which says "faces"."""
    return httpx.get(f"{house.reports}/index.html", headers=headers)


@pytest.fixture
def reporting(tmp_path):
    """A house of any host that serves its reports."""
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "index.html").write_text("faces")

    def serve(host="127.0.0.1"):
        house = House(host, free_port(), tmp_path)
        house._serve_reports()
        return house

    return serve


def test_reports_stay_on_this_machine(reporting):
    """They show faces and ask for no password, so an open UI must not open them."""
    house = reporting("0.0.0.0")
    assert ask_for_report(house).text == "faces"
    with pytest.raises(ConnectionRefusedError):  # another address of this machine
        socket.create_connection(("127.0.0.2", house.port + 1), timeout=5)


def test_pages_of_monitoring_are_beside_the_reports(reporting, tmp_path, monkeypatch):
    """Their link was a file's address, which a browser opens from no page of a server."""
    page = tmp_path / "monitoring" / "windows" / "000001" / "page.html"
    page.parent.mkdir(parents=True)
    page.write_text("drift")
    (tmp_path / "monitoring" / "state.json").write_text("{}")
    house = reporting()
    for name in ("MIEN_REPORTS_URL", "MIEN_REPORTS_ROOT"):
        monkeypatch.setenv(name, house.environment[name])
    link = address(tmp_path, page)
    assert link == f"{house.reports}/monitoring/000001/page.html"
    assert httpx.get(link).text == "drift"
    assert ask_for_report(house).text == "faces"
    for elsewhere in ("monitoring/../state.json", "monitoring/%2e%2e/state.json", "windows"):
        assert httpx.get(f"{house.reports}/{elsewhere}").status_code == 404
    assert address(tmp_path, tmp_path / "params.yaml").startswith("file://")


def test_reports_are_not_for_a_page_whose_name_leads_here(reporting, monkeypatch):
    """DNS rebinding: the browser asks this machine for it, and lets that page read the answer."""
    alone = reporting()
    monkeypatch.setenv("MIEN_REPORTS_URL", "https://reports.example.org")
    house = reporting()
    for own in (f"localhost:{house.port + 1}", "[::1]:4201", "reports.example.org"):
        assert ask_for_report(house, Host=own).text == "faces"
    assert ask_for_report(alone, Host="reports.example.org").status_code == 403
    for each in (house, alone):
        for strange in ("evil.example:4201", "127.0.0.1.evil.example", "localhost@evil", "[", ""):
            answer = ask_for_report(each, Host=strange)
            assert answer.status_code == 403
            assert "faces" not in answer.text


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


def test_pages_of_other_sites_cannot_ask_the_server(tmp_path, monkeypatch):
    name = "PREFECT_SERVER_CORS_ALLOWED_ORIGINS"
    monkeypatch.delenv(name, raising=False)
    assert House("127.0.0.1", 4300, tmp_path).environment[name] == "http://127.0.0.1:4300"
    monkeypatch.setenv(name, "https://prefect.example.org")
    assert House("127.0.0.1", 4300, tmp_path).environment[name] == "https://prefect.example.org"


def test_a_schedule_that_prefect_yaml_names_no_more_goes(monkeypatch):
    """It came back with each deployment. What was off stays off where one fails half-way."""
    weekly, mine, added = (
        DeploymentSchedule(schedule=CronSchedule(cron=f"{i} * * * *"), active=i > 0, slug=slug)
        for i, slug in enumerate(("weekly", "mine", None))
    )
    again = weekly.model_copy(update={"id": uuid4(), "active": True})
    before = DeploymentResponse(
        id=uuid4(), name="d", flow_id=uuid4(), schedules=[weekly, mine, added]
    )
    after = before.model_copy(update={"schedules": [again]})
    client = Mock()
    client.read_deployments.side_effect = [[before], [after]]
    client.read_automations.return_value = []
    monkeypatch.setattr("flows.standing.get_client", lambda **_: nullcontext(client))
    with pytest.raises(MienError), as_people_left_it():
        raise MienError("`prefect deploy` failed")
    client.update_deployment_schedule.assert_called_once_with(before.id, again.id, active=False)
    ((_, made), _) = client.create_deployment_schedules.call_args
    assert [each.schedule for each in made] == [added.schedule]


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
