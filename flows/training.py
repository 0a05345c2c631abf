"""From faces to an evaluated, packaged model: the DVC pipeline, one Prefect task a stage.

DVC says what is out of date and runs it; Prefect shows each stage's lines as they come.
``python -m flows.training`` needs no server: where none is set, Prefect starts a temporary one.
"""

import argparse
import functools
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from prefect import Task, flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from pydantic import Field

from flows.artifacts import address, has_measured, publish, shows_no_people
from flows.lifetime import end_with_worker, run_by_hand
from mien.errors import MienError
from mien.pipeline import (
    Changes,
    DvcFailed,
    Pipeline,
    StageFailed,
    TookTooLong,
    flatten,
    open_pipeline,
)
from mien.results import REPORT, champion, comparison, previous_run, remember, summary, this_run
from mien.workspace import assignment, override
from mien.yaml_files import merge

RETRY_DELAYS = [10.0, 60.0]
"""Seconds before the second and the third try of what may pass by itself."""
_PASSING = "Interrupted"
"""Name of a failed state after which another try can help."""
_REMOTE_IS_WRONG = (
    "config file error",
    "is not supported",
    "missing cache files",
    "missing files",
)
"""What DVC says of a remote that another try will not mend."""
_NAMED = 3
"""Changes that a run's name tells."""


def may_pass(task: Task[..., Any], run: TaskRun, state: State) -> bool:
    """Whether a failure is worth another try: never one of wrong data or settings, a bug, or a
    time-out."""
    return state.name == _PASSING


@task(
    task_run_name="{stage}",
    cache_policy=NO_CACHE,
    retries=len(RETRY_DELAYS),
    retry_condition_fn=may_pass,
)
def run_stage(pipeline: Pipeline, stage: str, force: bool, show_faces: bool, hours: float) -> State:
    """Run one stage where it is out of date; its last lines are the message of a failure."""
    if not force and pipeline.is_current(stage):
        return Completed(name="Cached", message=f"'{stage}' is up to date")
    started = time.time()
    try:
        pipeline.run(stage, get_run_logger().info, force=force, limit=3600 * hours)
    except TookTooLong:
        message = f"stage '{stage}' took longer than {hours:g} h and was ended"
        return Failed(name="TimedOut", message=message)
    except StageFailed as error:
        if has_measured(pipeline, stage, started):  # a verdict and its rows, a report
            publish(pipeline, stage, show_faces)
        return Failed(name=_PASSING if error.passing else None, message=str(error))
    publish(pipeline, stage, show_faces)
    return Completed(message=f"'{stage}' has run")


@task(
    task_run_name="{direction}",
    cache_policy=NO_CACHE,
    retries=len(RETRY_DELAYS),
    retry_condition_fn=may_pass,
)
def transfer(pipeline: Pipeline, direction: str) -> State:
    """`dvc pull` or `dvc push` with the run cache; networks fail, so it is tried again."""
    options = ["--allow-missing"] if direction == "pull" else []
    try:
        pipeline.dvc(direction, "--run-cache", *options, emit=get_run_logger().info)
    except DvcFailed as error:
        text = str(error)
        hopeless = any(cause in text.lower() for cause in _REMOTE_IS_WRONG)
        message = f"'dvc {direction}' failed:\n{text}\n`dvc remote list` shows where to."
        return Failed(name=None if hopeless else _PASSING, message=message)
    return Completed(message=f"'dvc {direction}' is done")


@flow(name="training")
def training(
    workspace: Path = Path(),
    overrides: dict[str, Any] = {},  # noqa: B006
    stages: list[str] = [],  # noqa: B006
    force: bool = False,
    pull: bool = False,
    push: bool = False,
    stage_hours: Annotated[float, Field(gt=0)] = 24,
    show_faces: bool = False,
) -> State:
    """Bring the pipeline in ``workspace`` up to date, in the order of its DVC graph.

    Args:
        workspace: folder that holds ``dvc.yaml``, ``params.yaml`` and ``.dvc``.
        overrides: settings by dotted name, such as {"relabel.coverage": 0.5}. They are written to
            the workspace's ``params.yaml`` and stay; `git checkout params.yaml` takes them back.
        stages: only these; all of them where the list is empty.
        force: run them even where nothing has changed, and over outputs that were edited by hand.
        pull: first get from the DVC remote what others have made already.
        push: at the end send what was made to the DVC remote.
        stage_hours: a stage that takes longer is ended, with all its processes.
        show_faces: put pictures of people's faces into the artifacts, too. Prefect's database keeps
            them and whoever sees its UI sees them. Drawn faces are always shown.

    Returns:
        Completed (the artifact ``training-results`` compares it with the run before and with the
        champion), or Failed with the failing stage's last lines; then no later stage has run.
    """
    end_with_worker()
    try:
        with open_pipeline(workspace) as pipeline:
            return _bring_up_to_date(
                pipeline, overrides, stages, force, pull, push, stage_hours, show_faces
            )
    except MienError as error:
        get_run_logger().error(str(error))
        return Failed(message=str(error))


def _bring_up_to_date(
    pipeline: Pipeline,
    overrides: Mapping[str, Any],
    stages: list[str],
    force: bool,
    pull: bool,
    push: bool,
    stage_hours: float,
    show_faces: bool,
) -> State:
    order = pipeline.stages()
    chosen = _chosen(order, stages)
    if pull or push:
        pipeline.require_remote()
    if overrides:
        override(pipeline.root, overrides)
    if pull and not (state := _transfer(pipeline, "pull")).is_completed():
        return Failed(message=state.message)
    found = pipeline.changes()
    changes = {stage: found[stage] for stage in order if stage in found}
    if not force and (edited := pipeline.edited(changes)):
        raise MienError(
            f"{', '.join(edited)}: changed by hand since the stage ran, or of another commit; "
            "`dvc checkout --force` brings back what dvc.lock says, `dvc commit` keeps the change, "
            "and a run with force makes it anew"
        )
    name = run_name(changes, overrides, force, pipeline.unfinished())
    _rename(name)
    show_faces = show_faces or shows_no_people(pipeline.root)
    for stage in chosen:
        state = run_stage.with_options(name=stage, retry_delay_seconds=RETRY_DELAYS)(
            pipeline, stage, force, show_faces, stage_hours, return_state=True
        )
        if not state.is_completed():
            return Failed(message=state.message)
    # after some stages alone the figures may be those of earlier models
    if "evaluate" not in set(order) - set(chosen) or pipeline.is_current("evaluate"):
        _publish_results(pipeline.root, name)
    if push and not (state := _transfer(pipeline, "push")).is_completed():
        return Failed(message=state.message)
    return Completed(message=f"all up to date: {name}")


def run_name(
    changes: Mapping[str, Changes],
    overrides: Mapping[str, Any],
    force: bool,
    unfinished: list[str],
) -> str:
    """What a run is about to do: the settings and files that changed, the first few of them."""
    what = ["forced"] if force else []
    what += [f"{key}={value}" for key, value in flatten(overrides).items()]
    what += [f"{stage} goes on" for stage in unfinished]
    if changes and all(change.new for change in changes.values()) and not unfinished:
        what.append("first run")
        changes = {}
    for stage, change in changes.items():
        if change.new:
            what += [] if stage in unfinished else [f"new: {stage}"]
            continue
        what += [item if "=" in item else Path(item).name for item in change.inputs]
        what += [f"command of {stage}"] if change.command else []
        if not change.inputs and not change.command and stage not in unfinished:
            what.append(f"restore {stage}")
    what = list(dict.fromkeys(what)) or ["nothing changed"]
    more = f" and {len(what) - _NAMED} more" if len(what) > _NAMED else ""
    return ", ".join(what[:_NAMED]) + more


def _rename(name: str) -> None:
    with suppress(Exception), get_client(sync_client=True) as client:  # a name is worth no failure
        client.update_flow_run(flow_run.id, name=name)


def _transfer(pipeline: Pipeline, direction: str) -> State:
    return transfer.with_options(name=direction, retry_delay_seconds=RETRY_DELAYS)(
        pipeline, direction, return_state=True
    )


def _publish_results(root: Path, name: str) -> None:
    results = summary(root, report=address(root, root / REPORT))
    if not results:
        return
    run = this_run(root, name)
    beside = comparison(run, {"previous run": previous_run(root), "champion": champion(root)})
    create_markdown_artifact(
        f"{results}\n\n## Beside the run before and the champion\n\n{beside}",
        key="training-results",
        description=f"{name} in {root.name}",
    )
    remember(root, run)


def _chosen(order: list[str], wanted: list[str]) -> list[str]:
    if unknown := sorted(set(wanted) - set(order)):
        raise MienError(f"no such stage: {', '.join(unknown)}; there are {', '.join(order)}")
    return [stage for stage in order if not wanted or stage in wanted]


def main() -> None:
    """Run the flow from the command line; the exit status is 1 where a stage fails."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.training", description="Bring the pipeline up to date."
    )
    parser.add_argument("--workspace", type=Path, default=Path(), metavar="DIR")
    parser.add_argument("--stages", nargs="+", default=[], metavar="STAGE", help="only these")
    parser.add_argument("--force", action="store_true", help="run stages that are up to date, too")
    parser.add_argument("--pull", action="store_true", help="first `dvc pull`")
    parser.add_argument("--push", action="store_true", help="at the end `dvc push`")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="one setting; repeatable"
    )
    options = vars(parser.parse_args())
    try:
        settings = map(assignment, options.pop("set"))
        overrides: dict[str, Any] = functools.reduce(merge, settings, {})
    except MienError as error:
        sys.exit(f"training: error: {error}")
    run_by_hand(training, **options, overrides=overrides)
    print(f"\n{summary(options['workspace'].resolve())}\n", flush=True)


if __name__ == "__main__":
    main()
