"""The whole pipeline, shrunken: every stage runs, and DVC knows what depends on what."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from mien.files import read_json
from mien.pipeline import Pipeline

TINY = yaml.safe_load((Path(__file__).parents[1] / "configs" / "tiny.yaml").read_text())


def mien_run(out: Path, *arguments: str) -> list[str]:
    """What ``mien run`` prints of the stages: their names, with what it says of them."""
    done = subprocess.run(
        [sys.executable, "-m", "mien", "run", "--out", out, *arguments],
        env={**os.environ, "BENTOML_HOME": str(out.parent / "bentoml"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return [line.split("] ")[1] for line in done.stdout.splitlines() if line.startswith("[")]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    out = folder / "out"
    ran = mien_run(out, "--params", str(folder / "tiny.yaml"))
    assert ran == Pipeline(out, lock=-1).stages()
    return out


def test_every_stage_leaves_its_outcome(workspace):
    evaluation = read_json(workspace / "metrics/evaluate.json")
    for model in ("pretrained", "final"):
        assert 0 <= evaluation["tiny"][model]["accuracy"] <= 1
    assert 0 <= read_json(workspace / "metrics/relabel.json")["coverage"] <= 1
    assert (workspace / "reports/evaluation/index.html").is_file()
    assert (workspace / "reports/validation/index.html").is_file()
    assert (workspace / "models/package/card.md").is_file()
    leftovers = [path for path in workspace.rglob(".partial-*") if ".dvc" not in path.parts]
    assert leftovers == []


def test_nothing_runs_again_and_then_exactly_what_a_setting_changes(workspace):
    stages = Pipeline(workspace, lock=-1).stages()
    assert mien_run(workspace) == [f"{stage}: up to date" for stage in stages]

    ran = mien_run(workspace, "--set", "relabel.coverage=0.5")
    assert ran == [
        "prepare: up to date",
        "validate: up to date",
        "pretrain: up to date",
        "cluster: up to date",
        "relabel",
        "finetune",
        "evaluate",
        "package",
    ]


def test_dvc_agrees_that_nothing_is_out_of_date(workspace):
    status = subprocess.check_output(
        [sys.executable, "-m", "dvc", "status", "--json"], cwd=workspace, text=True
    )
    assert status.strip() == "{}"
