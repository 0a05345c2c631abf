"""DVC between people: the project's remote, a fresh clone, releases, and experiments."""

import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from mien.pipeline import environment, open_pipeline

IDENTITY = {
    f"GIT_{who}_{what}": value
    for who in ("AUTHOR", "COMMITTER")
    for what, value in {"NAME": "Tester", "EMAIL": "tester@example.org"}.items()
}


def run(*command: str, cwd: Path) -> str:
    done = subprocess.run(
        command,
        cwd=cwd,
        env={**environment(), **IDENTITY},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@pytest.fixture
def shared(chain, root):
    """The tiny pipeline in a Git repository with the project's own DVC settings; run once."""
    run("git", "init", "--quiet", "--initial-branch=main", cwd=chain.root)
    shutil.copy(root / ".dvc" / "config", chain.root / ".dvc" / "config")
    (chain.root / ".gitignore").write_text("*.txt\n.mien/\n")
    (chain.root / ".dvc" / ".gitignore").write_text("/tmp\n/cache\n/config.local\n")
    run("dvc", "repro", "--quiet", cwd=chain.root)
    run("git", "add", ".", cwd=chain.root)
    run("git", "commit", "--quiet", "--message", "First run", cwd=chain.root)
    chain.ran()
    return chain


def test_the_default_remote_works_at_once_and_a_fresh_clone_is_restored(shared, tmp_path):
    run("dvc", "push", "--quiet", "--run-cache", cwd=shared.root)
    assert (tmp_path / "mien-storage").is_dir()  # beside the checkout
    clone = tmp_path / "clone"
    run("git", "clone", "--quiet", str(shared.root), str(clone), cwd=tmp_path)
    run("dvc", "repro", "--pull", cwd=clone)
    assert [(clone / f"{name}.txt").read_text() for name in ("zero", "middle", "after")] == [
        "0\n"
    ] * 3
    assert not (clone / "ran.txt").exists()  # nothing was run again
    assert run("git", "status", "--porcelain", cwd=clone) == ""


def test_pictures_under_dvc_add_are_no_stage_and_come_with_a_clone(shared, root, tmp_path):
    """To DVC they are a stage without a name, at which the pipeline ended with a traceback."""
    raw = Path("data", "raw")
    (shared.root / raw / "mine").mkdir(parents=True)
    (shared.root / raw / "mine" / "1.png").write_text("a face")
    (shared.root / raw / ".gitkeep").touch()
    (shared.root / ".gitignore").write_text((root / ".gitignore").read_text() + "*.txt\n")
    run("dvc", "add", "--quiet", str(raw / "mine"), cwd=shared.root)
    shared.change("zero", deps=[str(raw)])
    with open_pipeline(shared.root) as pipeline:
        assert pipeline.stages() == ["zero", "middle", "after"]
        assert pipeline.changes()["zero"].inputs == (str(raw),)
        pipeline.run("zero", lambda line: None)
        assert all(map(pipeline.is_current, pipeline.stages()))
    run("git", "add", ".", cwd=shared.root)
    run("git", "commit", "--quiet", "--message", "Pictures", cwd=shared.root)
    run("dvc", "push", "--quiet", cwd=shared.root)
    clone = tmp_path / "clone"
    run("git", "clone", "--quiet", str(shared.root), str(clone), cwd=tmp_path)
    run("dvc", "repro", "--pull", cwd=clone)
    assert (clone / raw / "mine" / "1.png").read_text() == "a face"
    assert not (clone / "ran.txt").exists()


def test_a_release_is_a_git_tag(shared, root):
    artifacts = yaml.safe_load((root / "dvc.yaml").read_text())["artifacts"]
    assert artifacts["mien"]["path"] == "models/package"
    path = shared.root / "dvc.yaml"
    pipeline = yaml.safe_load(path.read_text()) | {"artifacts": artifacts}
    path.write_text(yaml.safe_dump(pipeline))
    run("git", "commit", "--all", "--quiet", "--message", "Artifacts", cwd=shared.root)
    run("gto", "register", "mien", "--version", "v1.0.0", cwd=shared.root)
    run("gto", "assign", "mien", "--version", "v1.0.0", "--stage", "prod", cwd=shared.root)
    assert run("git", "tag", cwd=shared.root).split() == ["mien#prod#1", "mien@v1.0.0"]
    assert run("gto", "show", "mien#prod", "--ref", cwd=shared.root).strip() == "mien@v1.0.0"


@pytest.mark.slow
def test_experiments_wait_in_a_queue_and_are_compared(shared):
    for value in (2, 3):
        run("dvc", "exp", "run", "--queue", "--set-param", f"middle={value}", cwd=shared.root)
    run("dvc", "exp", "run", "--run-all", cwd=shared.root)
    table = run("dvc", "exp", "show", "--csv", cwd=shared.root).splitlines()
    column = table[0].split(",").index("middle")
    values = {line.split(",")[column] for line in table[1:]}
    assert {"1", "2", "3"} <= values
    assert yaml.safe_load((shared.root / "params.yaml").read_text())["middle"] == 1
