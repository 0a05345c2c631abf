"""`make ui` for real: a scheduled run, executed by a worker and read back from the server."""

import shutil

import httpx
import numpy as np
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from tests.monitoring.rows import Log, draw, make_package


def test_a_scheduled_run_is_executed_and_can_be_read_back(house, chain):
    deployment = house.deployment()
    (weekly,) = deployment["schedules"]
    assert weekly["schedule"]["cron"] == "0 3 * * 1"
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployment["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    assert "stays" not in deployment["parameter_openapi_schema"]["properties"]["force"]
    for parameter in deployment["parameter_openapi_schema"]["properties"].values():
        assert parameter["description"]

    run = house.by_schedule(workspace=str(chain.root))
    assert (run["state_type"], run["name"]) == ("COMPLETED", "first run")
    assert house.tasks(run["id"]) == [(name, "Completed") for name in ("zero", "middle", "after")]
    assert chain.ran() == ["zero", "middle", "after"]
    house.until(lambda: "drawing" in house.lines(run["id"]), 20)

    again = house.wait(house.start(workspace=str(chain.root)))
    assert again["name"] == "nothing changed"
    assert {state for _, state in house.tasks(again["id"])} == {"Cached"}
    assert chain.ran() == []


def test_a_page_of_another_site_changes_nothing(house):
    """It could send what has no content type, and open a websocket: drift, say, that is none, which
    would start a retraining. One whose name leads here could read the answers, too."""
    strange, event = "https://evil.example", '{"event": "drift"}'
    for path, headers in {
        "events": {"Origin": strange},
        "deployments/filter": {"Origin": "null"},
        "flows/filter": {"Host": "evil.example", "Origin": "http://evil.example"},
    }.items():
        answer = httpx.post(f"{house.api}/{path}", content=event, headers=headers)
        assert answer.status_code == 403
    assert httpx.get(f"{house.api}/version", headers={"Host": "evil.example"}).status_code == 403
    events, own = f"{house.api}/events/in".replace("http", "ws", 1), house.api.removesuffix("/api")
    with pytest.raises(InvalidStatus, match="403"), connect(events, origin=strange):
        pass
    with connect(events, origin=own), connect(events):
        pass
    assert httpx.post(f"{house.api}/deployments/filter", headers={"Origin": own}).is_success


@pytest.mark.slow
def test_what_was_changed_in_the_ui_outlasts_a_restart(make_house):
    house = make_house()  # has switched its schedules off
    weekly, hourly = house.deployment(), house.deployment("monitoring/hourly")
    own = {"active": True, "schedule": {"cron": "0 5 1 1 *"}, "parameters": {"workspace": "mine"}}
    house.request("POST", f"deployments/{hourly['id']}/schedules", [own])
    house.patch(f"deployments/{weekly['id']}", paused=True)
    for automation in house.post("automations/filter"):
        house.patch(f"automations/{automation['id']}", enabled=False)

    for _ in range(2):
        house.down()
        house.up(quiet=False)
        weekly, hourly = house.deployment(), house.deployment("monitoring/hourly")
        assert (weekly["paused"], hourly["paused"]) == (True, False)
        (schedule,) = weekly["schedules"]
        assert (schedule["active"], schedule["schedule"]["cron"]) == (False, "0 3 * * 1")
        left = {each["schedule"]["cron"]: each for each in hourly["schedules"]}
        assert {cron: each["active"] for cron, each in left.items()} == {
            "7 * * * *": False,
            "0 5 1 1 *": True,
        }
        assert left["0 5 1 1 *"]["parameters"] == {"workspace": "mine"}
        automations = house.post("automations/filter")
        assert len(automations) == 2
        assert not any(each["enabled"] for each in automations)


@pytest.mark.slow
def test_two_workspaces_are_watched_by_one_server(house, tmp_path, root):
    """Their schedules make runs of one deployment at the same minute."""
    runs = []
    for name in ("one", "other"):
        workspace = tmp_path / name
        make_package(workspace / "models" / "package")
        shutil.copy(root / "params.yaml", workspace)
        Log(workspace / "logs").add(draw(300, np.random.default_rng(8)))
        runs.append(house.start("monitoring/hourly", workspace=str(workspace)))
    ended = [house.wait(run, seconds=150) for run in runs]
    assert [run["state"]["name"] for run in ended] == ["No drift", "No drift"]
