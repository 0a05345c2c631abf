"""From faces to an evaluated, packaged model: the DVC pipeline, one Prefect task a stage.

DVC says what is out of date and runs it; Prefect shows each stage's lines as they come.
``python -m flows.training`` needs no server: where none is set, Prefect starts a temporary one.
"""

import argparse
import sys
from pathlib import Path

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from mien.errors import MienError
from mien.pipeline import Pipeline, StageFailed, open_pipeline
from mien.results import summary


@task(task_run_name="{stage}", cache_policy=NO_CACHE)
def run_stage(pipeline: Pipeline, stage: str, force: bool) -> State:
    """Run one stage where it is out of date; its last lines are the message of a failure."""
    if not force and pipeline.is_current(stage):
        return Completed(name="Cached", message=f"'{stage}' is up to date")
    try:
        pipeline.run(stage, get_run_logger().info, force=force)
    except StageFailed as error:
        return Failed(message=str(error))
    return Completed(message=f"'{stage}' has run")


@flow(name="training")
def training(
    workspace: Path = Path(), stages: list[str] | None = None, force: bool = False
) -> State:
    """Bring the pipeline in ``workspace`` up to date, in the order of its DVC graph.

    Args:
        workspace: folder that holds ``dvc.yaml``, ``params.yaml`` and ``.dvc``.
        stages: only these; all of them by default.
        force: run them even where nothing has changed.

    Returns:
        Completed (the table of results stands in the artifact ``training-results``), or Failed with
        the failing stage's last lines; then no later stage has run.
    """
    try:
        with open_pipeline(workspace) as pipeline:
            for stage in _chosen(pipeline.stages(), stages):
                state = run_stage.with_options(name=stage)(
                    pipeline, stage, force, return_state=True
                )
                if not state.is_completed():
                    return Failed(message=state.message)
            results = summary(pipeline.root)
    except MienError as error:
        return Failed(message=str(error))
    if results:
        create_markdown_artifact(
            results, key="training-results", description=f"Pretrained and final model, {workspace}"
        )
    return Completed(message="all up to date")


def _chosen(order: list[str], wanted: list[str] | None) -> list[str]:
    if unknown := sorted(set(wanted or ()) - set(order)):
        raise MienError(f"no such stage: {', '.join(unknown)}; there are {', '.join(order)}")
    return [stage for stage in order if wanted is None or stage in wanted]


def main() -> None:
    """Run the flow from the command line; the exit status is 1 where a stage fails."""
    parser = argparse.ArgumentParser(
        prog="python -m flows.training", description="Bring the pipeline up to date."
    )
    parser.add_argument("--workspace", type=Path, default=Path(), metavar="DIR")
    parser.add_argument("--stages", nargs="+", metavar="STAGE", help="only these")
    parser.add_argument("--force", action="store_true", help="run stages that are up to date, too")
    options = parser.parse_args()
    state = training(**vars(options), return_state=True)
    if not state.is_completed():
        sys.exit(f"training: error: {state.message}")
    print(f"\n{summary(options.workspace.resolve())}\n", flush=True)


if __name__ == "__main__":
    main()
