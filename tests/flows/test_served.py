"""`make ui` for real: a scheduled run, executed by a worker and read back from the server."""


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
