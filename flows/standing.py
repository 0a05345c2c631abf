"""What people switched off or added in Prefect's UI outlasts the next `make ui`.

Deploying makes schedules, pauses and the automations of triggers anew, so that a training that
somebody had switched off would start by itself again.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import DeploymentScheduleCreate
from prefect.client.schemas.objects import DeploymentSchedule
from prefect.client.schemas.responses import DeploymentResponse


@contextmanager
def as_people_left_it() -> Iterator[None]:
    """Around a deployment: what was off before is off afterwards, added schedules are there.

    That also holds where the deployment fails half-way. ``prefect.yaml`` still says when its own
    schedules run, and which there are; they are those that have a slug.
    """
    with get_client(sync_client=True) as client:
        before = {each.id: each for each in client.read_deployments()}
        off = {each.name for each in client.read_automations() if not each.enabled}
    try:
        yield
    finally:
        with get_client(sync_client=True) as client:
            for deployment in client.read_deployments():
                if old := before.get(deployment.id):
                    _restore(client, deployment, old)
            for automation in client.read_automations():
                if automation.enabled and automation.name in off:
                    client.pause_automation(automation.id)


def _restore(client: SyncPrefectClient, now: DeploymentResponse, old: DeploymentResponse) -> None:
    if old.paused:
        client.pause_deployment(now.id)
    for schedule in old.schedules:
        same = next((each for each in now.schedules if _are_one(each, schedule)), None)
        if same is None and not schedule.slug:  # prefect.yaml has dropped one with a slug
            kept = schedule.model_dump(include=set(DeploymentScheduleCreate.model_fields))
            client.create_deployment_schedules(now.id, [DeploymentScheduleCreate(**kept)])
        elif same and same.active and not schedule.active:
            client.update_deployment_schedule(now.id, same.id, active=False)


def _are_one(new: DeploymentSchedule, old: DeploymentSchedule) -> bool:
    if new.slug and new.slug == old.slug:
        return True
    return (new.schedule, new.parameters) == (old.schedule, old.parameters)
