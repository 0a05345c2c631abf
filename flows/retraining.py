"""Renew the model: train a challenger on what there is now, and let the gate decide.

Started by the event of `flows.monitoring`, by a schedule, or by hand. What is served changes only
where a challenger passes: a bad one leaves a record in the list of releases, and without a champion
there is nothing to renew.
"""

import argparse
import fcntl
from datetime import UTC, datetime, timedelta
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.exceptions import FlowPauseTimeout
from prefect.flow_runs import pause_flow_run
from prefect.input import RunInput
from prefect.states import Completed, Failed

from flows.lifetime import End, run_by_hand
from flows.monitoring import log_folder
from flows.training import training
from mien.errors import MienError
from mien.files import read_json, write_json
from mien.lock import locked
from mien.monitoring.kept import list_kept, renew_reference
from mien.monitoring.renewal import gather
from mien.params import load_params
from mien.params.service import MonitoringSettings, PromotionSettings
from mien.promotion.commands import AlreadyChampion, carry_out, decide
from mien.promotion.releases import Record, require_prepared
from mien.promotion.renewals import GATHERED, RENEWAL, champion_workspace, why_not
from mien.serving.package import named_package
from mien.workspace import complete_params, make_workspace, workspace_params
from mien.yaml_files import merge, read_yaml

_HISTORY = 100


class Approval(RunInput):
    """What a person answers in Prefect's UI."""

    approve: bool = False
    reason: str = ""


@flow(name="retraining")
def retraining(
    workspace: Path = Path(),
    logs: Path | None = None,
    reason: str = "asked for",
    since: str = "",
    force: bool = False,
) -> State:
    """Train a challenger and put it through the gate.

    What is renewed is the champion: by the settings, and from the faces, of the workspace in which
    it was trained. Where the service has kept faces, they join as another unlabelled source, and
    labelled faces in their look as another labelled one, in a workspace of the challenger's own
    (``runs/renewal``); elsewhere the champion's workspace itself is brought up to date.

    Args:
        workspace: folder that holds ``params.yaml`` and ``releases/``.
        logs: the service's log folder; ``MIEN_LOG_DIR`` or ``logs`` in the workspace by default.
        reason: why; it stands in the release record.
        since: when the faces became what they are now (ISO; UTC where it names no zone). Those kept
            from then on show the new look, and later windows are compared with them; where it is
            empty, all kept ones.
        force: pay no heed to the cool-down and the daily limit, nor to a rollback.

    Returns:
        Completed, named *Promoted*, *Refused*, *Unchanged* (the challenger is the champion) or
        *Skipped* (too soon after the last one, or there is nothing to renew); Failed where training
        failed or another promotion was faster.
    """
    root = workspace.resolve()
    try:
        params = load_params(root / "params.yaml")
        since = _as_logged(since)
        if told := why_not(root, force):
            return Completed(name=End.SKIPPED, message=told)
        renewed = champion_workspace(root)
        if told := claim_turn(root, params.monitoring, force):
            return Completed(name=End.SKIPPED, message=told)
        kept = (logs or log_folder(root)).resolve()
        trained = gather_faces(root, renewed, kept, since)
        state = training(workspace=trained, return_state=True)
        if not state.is_completed():
            return Failed(message=f"no challenger: {state.message}")
        record = compare(root, trained)
        record["cause"] = reason
        if record["decision"] == "promoted" and params.promotion.approval == "manual":
            record |= _ask(record, params.promotion)
        if record["decision"] == "promoted":
            refer_to_kept(root, named_package(record["challenger"]), kept, since)
        conclude(root, record)
    except AlreadyChampion as error:
        return Completed(name=End.UNCHANGED, message=str(error))
    except MienError as error:
        return Failed(message=str(error))
    return Completed(
        name=End.PROMOTED if record["decision"] == "promoted" else End.REFUSED,
        message=f"{record['challenger']}: {record['reason']}",
    )


def _as_logged(since: str) -> str:
    """A time as the prediction log writes its own, with whose texts it is compared."""
    if not since:
        return ""
    try:
        time = datetime.fromisoformat(since)
    except ValueError:
        raise MienError(f"since: {since!r} is no time; write it as 2026-03-01T12:00") from None
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).astimezone(UTC).isoformat()


@task(cache_policy=NO_CACHE)
def claim_turn(root: Path, settings: MonitoringSettings, force: bool) -> str | None:
    """Note that a retraining starts, unless it is too soon; then say why not.

    The turn counts from the start, so that one that fails over and over is not tried over and over.
    """
    path = root / "monitoring" / "retrainings.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    with (root / "monitoring" / ".retrainings.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        starts = _starts(path)
        now = datetime.now(UTC)
        told = None if force else too_soon(starts, now, settings)
        if told is None:
            write_json(path, [each.isoformat() for each in [*starts, now][-_HISTORY:]])
    if told:
        get_run_logger().info(told)
    return told


def _starts(path: Path) -> list[datetime]:
    try:
        return [datetime.fromisoformat(each) for each in read_json(path)]
    except FileNotFoundError:
        return []
    except (ValueError, TypeError):
        raise MienError(
            f"{path}: not a list of times; restore it, or remove it to start counting anew"
        ) from None


def too_soon(starts: list[datetime], now: datetime, settings: MonitoringSettings) -> str | None:
    """Why no retraining may start now; None where one may."""
    cooldown = timedelta(hours=settings.cooldown_hours)
    # A start in the future is a clock that was wrong then; it must not block for ever.
    past = [each for each in starts if each <= now]
    if past and now - max(past) < cooldown:
        return (
            f"the last retraining began {now - max(past)} ago; the next may begin after "
            f"{settings.cooldown_hours:g} hours (monitoring.cooldown_hours)"
        )
    today = sum(now - each < timedelta(days=1) for each in past)
    if today >= settings.retrainings_per_day:
        return (
            f"{today} retrainings in the last 24 hours, "
            f"{settings.retrainings_per_day} are allowed (monitoring.retrainings_per_day)"
        )
    return None


@task(cache_policy=NO_CACHE)
def gather_faces(root: Path, renewed: Path, logs: Path, since: str = "") -> Path:
    """The workspace to train in: ``renewed``, or one where kept faces join what that learns from.

    See `mien.monitoring.renewal`. Nothing is gathered while another run reads what was, or makes
    anew what ``renewed`` has prepared.
    """
    trained, least = root / RENEWAL, load_params(root / "params.yaml").monitoring.min_faces
    made = workspace_params(renewed)  # None of a checkout
    values = read_yaml(renewed / "params.yaml") if made is None else complete_params(made)
    kept = list_kept(logs)
    if not kept[0]:
        get_run_logger().info("no kept faces in %s: training on the configured sources", logs)
        if made is not None:  # by an earlier version, perhaps
            make_workspace(renewed, values)
        return renewed
    trained.mkdir(parents=True, exist_ok=True)
    with locked(trained), locked(renewed):
        require_prepared(renewed)
        gathered = gather(renewed, root / GATHERED, logs, kept, since, least, values["seed"])
    changes = {
        "prepare": {
            "data": str((renewed / values["prepare"]["data"]).resolve()),
            "sources": [*values["prepare"]["sources"], *gathered.sources],
        }
    }
    make_workspace(trained, merge(values, changes))
    get_run_logger().info(
        "%d kept faces join as unlabelled, %d are held out, %d labelled ones were restyled (%s)",
        gathered.learned,
        gathered.held_out,
        gathered.restyled,
        gathered.look or "the new look is not known",
    )
    return trained


@task(cache_policy=NO_CACHE)
def refer_to_kept(root: Path, package: Path, logs: Path, since: str) -> None:
    """Have monitoring compare the next champion's windows with faces like those it learned.

    Before it is promoted: its first window must find them. ``package`` is the one in the model
    store: where it was trained another run may be at work by now.
    """
    params = load_params(root / "params.yaml")
    count = renew_reference(
        root,
        package,
        logs,
        since,
        least=params.monitoring.min_faces,
        most=params.package.reference_faces,
    )
    if count:
        get_run_logger().info("reference: %d kept faces that were not learned from", count)
    else:
        get_run_logger().info(
            "reference: the packaged one, for under %d kept faces are held out",
            params.monitoring.min_faces,
        )


@task(cache_policy=NO_CACHE)
def compare(root: Path, trained: Path) -> Record:
    """Champion against challenger on the same test faces."""
    return decide(root, trained, renewal=True)


@task(cache_policy=NO_CACHE)
def conclude(root: Path, record: Record) -> None:
    """Carry the decision out, and show it."""
    name = carry_out(root, record)
    lines = [
        f"# {record['challenger']}: {record['decision']}",
        f"{record['reason']}\n\nCompared with {record['champion'] or 'no champion'}; "
        f"cause: {record.get('cause', 'asked for')}. Record: `releases/{name}`.",
        "| check | passed | found |\n| --- | --- | --- |",
    ]
    table = "\n".join(
        f"| {each['name']} | {'yes' if each['passed'] else '**no**'} | {each['says']} |"
        for each in record["checks"]
    )
    create_markdown_artifact(
        "\n\n".join(lines) + "\n" + table, key="promotion", description=record["reason"]
    )


def _ask(record: Record, settings: PromotionSettings) -> Record:
    """Wait in Prefect's UI for a person; whoever does not answer in time has refused."""
    hours = f"{settings.approval_hours:g} hours"
    says = "\n".join(each["says"] for each in record["checks"])
    text = f"# Approve {record['challenger']}?\n\n{record['reason']}\n\n```\n{says}\n```"
    answer = approval(text, round(3600 * settings.approval_hours))
    if answer is None:
        return {"decision": "refused", "reason": f"nobody approved it within {hours}"}
    note = f": {answer.reason}" if answer.reason else ""
    if answer.approve:
        return {"reason": f"{record['reason']}; approved by a person{note}"}
    return {"decision": "refused", "reason": f"a person refused it{note}"}


@flow(name="approval")
def approval(text: str, seconds: int) -> Approval | None:
    """A person's answer; None where nobody gave one in time.

    A run of its own is paused for it. Were the retraining's, Prefect would give its deployment's
    slot free, miss the slot minutes later, and end the run.
    """
    create_markdown_artifact(text, key="approval", description="Resume the flow run to answer")
    try:
        return pause_flow_run(wait_for_input=Approval, timeout=seconds)
    except FlowPauseTimeout:
        return None


def main() -> None:
    """Run the flow from the command line; the exit status is 1 where no challenger came about."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.retraining", description="Train a challenger; the gate decides."
    )
    parser.add_argument("--workspace", type=Path, default=Path(), metavar="DIR")
    parser.add_argument("--logs", type=Path, metavar="DIR", help="default: MIEN_LOG_DIR or logs")
    parser.add_argument("--reason", default="asked for", help="stands in the record")
    parser.add_argument(
        "--since", default="", metavar="TIME", help="when faces became what they are now (ISO, UTC)"
    )
    parser.add_argument("--force", action="store_true", help="whatever cool-down or rollback says")
    options = parser.parse_args()
    state = run_by_hand(retraining, **vars(options))
    print(f"{state.name}: {state.message}", flush=True)


if __name__ == "__main__":
    main()
