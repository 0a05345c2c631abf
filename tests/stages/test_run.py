"""How a stage ends when something is wrong: a plain message, status 1, nothing half-written."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

FULL_DISK = """
import shutil, sys, torch
import numpy as np
from pathlib import Path
from mien.files import write_text
from mien.model.weights import save_weights
from mien.params import load_params
from mien.model.accnn import ACCNN
from mien.stages import _run
from mien.stages.prepare import _write_store

def main(params, *, out: Path) -> None:
    \"\"\"Write {what}.\"\"\"
    if "{what}" == "text":
        write_text(out / "big.txt", "x" * 1_000_000)
    elif "{what}" == "faces":
        _write_store(out / "big.npy", np.zeros((100, 48, 48), np.uint8), np.arange(100))
    elif "{what}" == "copies":
        shutil.copytree("src/mien", out / "copies")  # as a package goes into the model store
    else:
        save_weights(out / "big.safetensors", ACCNN(params.model, 7), tuple(params.expressions), 48)

main.__module__ = "__main__"
spec = type("S", (), {{"name": "stages.fake"}})
_run.inspect.getmodule = lambda _: type("M", (), {{"__spec__": spec}})
_run.run_stage(main)
"""


def in_tiny_disk(script: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a script with ``folder`` on a file system of 100 kB of its own."""
    shell = (
        'mount -t tmpfs -o size=100k none "$1" && "$2" "$3" --out "$1"; '
        'echo "status $?"; ls -A "$1"'
    )
    path = folder.parent / "script.py"
    path.write_text(script)
    command = ["unshare", "-rm", "sh", "-c", shell, "sh", str(folder), sys.executable, str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def can_mount(folder: Path) -> bool:
    if not shutil.which("unshare"):
        return False
    probe = ["unshare", "-rm", "mount", "-t", "tmpfs", "none", str(folder)]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("what", ["text", "faces", "weights"])
def test_a_full_disk_is_said_plainly_and_leaves_nothing(tmp_path, what):
    folder = tmp_path / "small"
    folder.mkdir()
    if not can_mount(folder):
        pytest.skip("needs a user namespace in which a file system can be mounted")
    done = in_tiny_disk(FULL_DISK.format(what=what), folder)
    assert "fake: error: the disk is full" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.split() == ["status", "1"]  # and an empty folder


def test_copies_that_fill_the_disk_are_told(tmp_path):
    """The error of `shutil.copytree` has no number of its own."""
    folder = tmp_path / "small"
    folder.mkdir()
    if not can_mount(folder):
        pytest.skip("needs a user namespace in which a file system can be mounted")
    done = in_tiny_disk(FULL_DISK.format(what="copies"), folder)
    assert "fake: error: the disk is full" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_stage_outside_a_workspace_says_where_to_run(tmp_path):
    command = [sys.executable, "-m", "mien.stages.relabel"]
    for name in ("manifest", "faces", "assignments", "training-set", "report", "metrics"):
        command += [f"--{name}", "x"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "params.yaml: no such file" in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_that_change_under_a_stage_end_it(tmp_path):
    """DVC recorded the new ones beside what the old ones had made, and it was never made again."""
    script = """
import sys
from pathlib import Path
from mien.stages import _run

def main(params, *, out: Path) -> None:
    \"\"\"Change settings, as somebody does in an editor meanwhile.\"\"\"
    path = Path("params.yaml")
    path.write_text(path.read_text().replace(*sys.stdin.read().split(" -> ")))

main.__module__ = "__main__"
spec = type("S", (), {"name": "stages.relabel"})
_run.inspect.getmodule = lambda _: type("M", (), {"__spec__": spec})
_run.run_stage(main)
"""

    def run(change: str) -> subprocess.CompletedProcess[str]:
        for name in ("params.yaml", "dvc.yaml"):
            shutil.copy(ROOT / name, tmp_path)
        command = [sys.executable, "-c", script, "--out", "x"]
        return subprocess.run(
            command, input=change, cwd=tmp_path, capture_output=True, text=True, check=False
        )

    assert run("parity_faces: 256 -> parity_faces: 9").returncode == 0  # of a later stage
    done = run("coverage: 0.6 -> coverage: 0.5")
    assert done.returncode == 1
    assert "params.yaml: relabel changed while this stage ran" in done.stderr
    assert "Traceback" not in done.stderr
