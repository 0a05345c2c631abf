"""`make ui` for real: a scheduled run, executed by a worker and read back from the server."""

from datetime import UTC, datetime, timedelta

import httpx


def test_a_scheduled_run_is_executed_and_can_be_read_back(house, chain):
    deployment = house.deployment()
    (weekly,) = deployment["schedules"]
    assert weekly["schedule"]["cron"] == "0 3 * * 1"
    assert deployment["global_concurrency_limit"]["limit"] == 1
    assert deployment["concurrency_options"]["collision_strategy"] == "ENQUEUE"
    assert "stays" not in deployment["parameter_openapi_schema"]["properties"]["force"]
    for parameter in deployment["parameter_openapi_schema"]["properties"].values():
        assert parameter["description"]

    soon = (datetime.now(UTC) + timedelta(seconds=3)).isoformat()
    response = httpx.post(
        f"{house.api}/deployments/{deployment['id']}/schedules",
        json=[
            {
                "active": True,
                "schedule": {"interval": 86400, "anchor_date": soon},
                "parameters": {"workspace": str(chain.root)},
            }
        ],
    )
    response.raise_for_status()

    def scheduled():
        found = house.post("flow_runs/filter", flow_runs={"name": {"like_": "first run"}})
        return [run for run in found if run["state_type"] == "COMPLETED"]

    house.until(scheduled, 90)
    (run,) = scheduled()
    assert run["auto_scheduled"]
    assert house.tasks(run["id"]) == [(name, "Completed") for name in ("zero", "middle", "after")]
    assert chain.ran() == ["zero", "middle", "after"]
    house.until(lambda: "drawing" in house.lines(run["id"]), 20)

    again = house.wait(house.start(workspace=str(chain.root)))
    assert again["name"] == "nothing changed"
    assert {state for _, state in house.tasks(again["id"])} == {"Cached"}
    assert chain.ran() == []
