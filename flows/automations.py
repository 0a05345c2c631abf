"""What Prefect's server does by itself when a run changes its state.

A run that falls silent is declared crashed. Telling people is off until the environment says where
to: ``MIEN_NOTIFY_WEBHOOK`` is an address that takes JSON by POST, ``MIEN_NOTIFY_MAIL`` a mail
address in Apprise's form (``mailto://user:password@host?to=team@example.org``). Both are secrets:
they are kept in encrypted blocks of the server and nowhere else.
"""

import os
from datetime import timedelta
from uuid import UUID

from prefect.automations import Automation
from prefect.blocks.notifications import SlackWebhook
from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import StateType
from prefect.events.actions import CallWebhook, ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import EventTrigger, Posture
from pydantic import SecretStr

from flows.lifetime import End

SILENT = timedelta(seconds=90)
"""Heartbeats come every 30 seconds: three are missing."""
_ENDS = {
    f"prefect.flow-run.{end}"
    for end in ("Completed", "Failed", "TimedOut", "Cancelled", "Crashed", *End)
}
_TROUBLE = {"prefect.flow-run.Failed", "prefect.flow-run.Crashed", "prefect.flow-run.TimedOut"}
_FIELDS = {
    "flow": "flow.name",
    "run": "flow_run.name",
    "state": "flow_run.state.name",
    "message": "flow_run.state.message",
    "url": "flow_run|ui_url",
}
_PAYLOAD = ", ".join(f'"{name}": {{{{ {value}|tojson }}}}' for name, value in _FIELDS.items())
_TEXT = "\n".join(f"{{{{ {_FIELDS[name]} }}}}" for name in ("run", "message", "url"))


def apply_automations() -> list[str]:
    """Bring the server's automations to what the environment asks for; returns their names."""
    automations = {SILENT_RUNS.name: SILENT_RUNS, **notifications()}
    with get_client(sync_client=True) as client:
        for known in client.read_automations():
            if known.name in (SILENT_RUNS.name, _BY_WEBHOOK, _BY_MAIL):
                client.delete_automation(known.id)
    for automation in automations.values():
        automation.create()
    return list(automations)


SILENT_RUNS = Automation(
    name="Runs that fall silent have crashed",
    description="Their machine is gone, or was killed with all that ran there.",
    trigger=EventTrigger(
        posture=Posture.Proactive,
        match={"prefect.resource.id": "prefect.flow-run.*"},
        for_each={"prefect.resource.id"},
        after={"prefect.flow-run.heartbeat"},
        expect={"prefect.flow-run.heartbeat", *_ENDS},
        threshold=1,
        within=SILENT,
    ),
    actions=[
        ChangeFlowRunState(
            name="Crashed",
            state=StateType.CRASHED,
            force=False,
            message="No sign of life: its machine or its process is gone. "
            "The next run goes on where it stopped.",
        )
    ],
)
_BY_WEBHOOK = "Tell a webhook of failed runs"
_BY_MAIL = "Mail failed runs"


def notifications() -> dict[str, Automation]:
    """The automations that tell people, by name; none where the environment names no place."""
    found = {}
    if webhook := os.environ.get("MIEN_NOTIFY_WEBHOOK"):
        hook = Webhook(method="POST", url=SecretStr(webhook))
        block = UUID(str(hook.save("mien-webhook", overwrite=True)))
        action = CallWebhook(block_document_id=block, payload=f"{{{_PAYLOAD}}}")
        found[_BY_WEBHOOK] = _on_trouble(_BY_WEBHOOK, action)
    if mail := os.environ.get("MIEN_NOTIFY_MAIL"):
        # Prefect hands this block's address to Apprise, which takes mail as well as Slack.
        mailer = SlackWebhook(url=SecretStr(mail))
        letter = UUID(str(mailer.save("mien-mail", overwrite=True)))
        subject = "{{ flow.name }}: {{ flow_run.state.name }}"
        notify = SendNotification(block_document_id=letter, subject=subject, body=_TEXT)
        found[_BY_MAIL] = _on_trouble(_BY_MAIL, notify)
    return found


def _on_trouble(name: str, action: CallWebhook | SendNotification) -> Automation:
    return Automation(
        name=name,
        trigger=EventTrigger(
            posture=Posture.Reactive,
            match={"prefect.resource.id": "prefect.flow-run.*"},
            expect=_TROUBLE,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[action],
    )
