"""Watch the model in service: read the prediction log, judge it, show it, tell of drift.

``python -m flows.monitoring`` looks once; a deployment looks every hour. A window that is drift
emits the event ``mien.drift.detected``, which starts `flows.retraining`.
"""

import argparse
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_image_artifact, create_link_artifact, create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State as RunState
from prefect.events import Event, Resource
from prefect.events.clients import get_events_client
from prefect.events.related import related_resources_from_run_context
from prefect.settings import PREFECT_API_URL
from prefect.states import Completed, Failed
from prefect.utilities.asyncutils import run_coro_as_sync

from flows.artifacts import address
from flows.lifetime import End, run_by_hand
from mien.errors import MienError
from mien.files import replacing_folder, write_json
from mien.monitoring import report
from mien.monitoring.log import Window, read_window
from mien.monitoring.reference import Reference, read_reference
from mien.monitoring.state import FOLDER, State, alone, read_state, write_state
from mien.monitoring.verdict import Verdict, judge
from mien.params import load_params
from mien.params.service import MonitoringSettings
from mien.serving.package import find_package

EVENT = "mien.drift.detected"
_NAMES = {"ok": End.NO_DRIFT, "watch": End.WATCH, "drift": End.DRIFT}


@flow(name="monitoring")
def monitoring(workspace: Path = Path(), logs: Path | None = None) -> RunState:
    """Judge what the service has logged since the last window.

    Args:
        workspace: folder that holds ``params.yaml`` and ``releases/``; gets ``monitoring/``.
        logs: the service's log folder; ``MIEN_LOG_DIR`` or ``logs`` in the workspace by default.

    Returns:
        Completed, named *No drift*, *Watch*, *Drift* or, with no log or too few faces, *Waiting*;
        the message is the reason. Failed where there is nothing to compare with.
    """
    root = workspace.resolve()
    try:
        settings = load_params(root / "params.yaml").monitoring  # first: `alone` makes a folder
        with alone(root):
            return _look(root, logs or log_folder(root), settings)
    except MienError as error:
        return Failed(message=str(error))


def log_folder(root: Path) -> Path:
    """Where the service of a workspace logs."""
    return Path(os.environ.get("MIEN_LOG_DIR") or root / "logs")


def _look(root: Path, logs: Path, settings: MonitoringSettings) -> RunState:
    reference = read_reference(find_package(root), root)
    state = _send_pending(root, read_state(root).watching(reference.version))
    window = read_rows(logs, state, reference)
    verdict = judge_window(window, reference, settings, state)
    get_run_logger().info("%s: %s", verdict.status, verdict.reason)
    number = state.window + 1
    if not verdict.judged:
        create_markdown_artifact(
            report.as_markdown(verdict, number),
            key="monitoring-verdict",
            description=verdict.reason,
        )
        return Completed(name=End.WAITING, message=verdict.reason)
    folder = write_page(root, window, reference, verdict, number)
    publish(root, folder, verdict, number)
    get_run_logger().info("window %s: %s", number, folder)
    state = state.after(window, verdict)
    if verdict.status == "drift":
        state = replace(state, pending=_event(root, logs, verdict, number, folder, state.since))
    write_state(root, state)  # from here on the rows are judged
    _send_pending(root, state)
    report.forget_pages(root / FOLDER, settings.pages_kept)
    return Completed(name=_NAMES[verdict.status], message=verdict.reason)


@task(cache_policy=NO_CACHE)
def read_rows(logs: Path, state: State, reference: Reference) -> Window:
    """All rows of the served model since the last mark."""
    return read_window(logs, state.mark, reference)


@task(cache_policy=NO_CACHE)
def judge_window(
    window: Window, reference: Reference, settings: MonitoringSettings, state: State
) -> Verdict:
    """Statistics, corrected together, and what follows from them."""
    return judge(window, reference, settings, state.bad_windows, state.volumes)


@task(cache_policy=NO_CACHE)
def write_page(
    root: Path, window: Window, reference: Reference, verdict: Verdict, number: int
) -> Path:
    """Evidently's page, the picture and the verdict, in a folder of the window's number."""
    target = root / FOLDER / "windows" / f"{number:06d}"
    with replacing_folder(target) as folder:
        write_json(folder / "verdict.json", asdict(verdict))
        (folder / "verdict.md").write_text(report.as_markdown(verdict, number), encoding="utf-8")
        if len(window.faces):
            (folder / "picture.png").write_bytes(report.draw_picture(window, reference, verdict))
            snapshot = report.make_report(window, reference, verdict, number)
            report.save_page(folder / "page.html", snapshot, verdict, number)
            report.add_to_workspace(root / FOLDER / "evidently", snapshot, number)
    return target


@task(cache_policy=NO_CACHE)
def publish(root: Path, folder: Path, verdict: Verdict, number: int) -> None:
    """Verdict, picture and the page's link as artifacts in Prefect."""
    create_markdown_artifact(
        report.as_markdown(verdict, number), key="monitoring-verdict", description=verdict.reason
    )
    if (folder / "picture.png").is_file():
        create_image_artifact(
            report.as_data_uri((folder / "picture.png").read_bytes()),
            key="monitoring-picture",
            description=f"Window {number}: {verdict.status}",
        )
        create_link_artifact(
            address(root, folder / "page.html"),
            link_text=f"window {number}",
            key="monitoring-page",
            description="The verdict and Evidently's page, on the machine that ran the flow",
        )


def _event(
    root: Path, logs: Path, verdict: Verdict, number: int, folder: Path, since: str
) -> dict[str, Any]:
    return {
        "id": str(uuid5(NAMESPACE_URL, f"mien/{root}/{verdict.model}/{number}")),
        "payload": {
            "workspace": str(root),
            "logs": str(logs.resolve()),
            "model": verdict.model,
            "window": number,
            "severity": verdict.severity,
            "reason": verdict.reason,
            "since": since,
            "drifted": [each.name for each in verdict.drifted],
            "groups": sorted({each.group for each in verdict.drifted}),
            "page": str(folder / "page.html"),
        },
    }


def _send_pending(root: Path, state: State) -> State:
    """Send the event that the last window left, also where that run died before it did.

    A look by hand without a server has a temporary one, where no deployment waits for the event:
    it stays for the next look.
    """
    if state.pending is None:
        return state
    if not PREFECT_API_URL.value():
        get_run_logger().warning("the drift's event waits for a look with PREFECT_API_URL set")
        return state
    # an event that an earlier version has left does not name the logs
    payload = {"logs": str(log_folder(root).resolve())} | state.pending["payload"]
    event = Event(
        event=EVENT,
        resource=Resource(
            {
                "prefect.resource.id": f"mien.model.{payload['model']}",
                "prefect.resource.name": f"Mien model {payload['model']}",
            }
        ),
        payload=payload,
        id=state.pending["id"],
    )
    run_coro_as_sync(send(event))
    state = replace(state, pending=None)
    write_state(root, state)
    return state


async def send(event: Event) -> None:
    """Wait until the server has the event; Prefect's ``emit_event`` leaves it to a thread."""
    async with get_client() as server:
        event.related += await related_resources_from_run_context(client=server)
    async with get_events_client(reconnection_attempts=2, checkpoint_every=1) as events:
        await events.emit(event)


def main() -> None:
    """Look once; the exit status is 1 where it could not, and 0 whatever it found."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.monitoring", description="Judge what the service has logged."
    )
    parser.add_argument("--workspace", type=Path, default=Path(), metavar="DIR")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="default: MIEN_LOG_DIR or logs")
    options = parser.parse_args()
    state = run_by_hand(monitoring, **vars(options))
    print(f"{state.name}: {state.message}", flush=True)


if __name__ == "__main__":
    main()
