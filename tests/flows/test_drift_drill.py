"""The drift drill's small form: a real Prefect server, the real service, every step of the loop."""

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from mien.files import read_json
from tests.flows.conftest import free_port


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_from_the_first_drifted_request_to_the_new_champion(tmp_path):
    root = tmp_path / "drill"
    command = [sys.executable, "-m", "benchmarks.drift_drill", "--small", "--root", str(root)]
    done = subprocess.run(
        [*command, "--port", str(free_port())],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    steps = read_json(root / "drill.json")["steps"]
    told = {step["step"]: step for step in steps}
    assert [step["verdict"] for step in steps if "verdict" in step] == [
        "No drift",  # ordinary faces
        "Drift",
        "No drift",  # the drifted faces are what the new champion expects
        "Refused",
    ]
    first = told["the first champion is trained and promoted"]["tag"]
    second = told["the gate promotes the challenger"]["tag"]
    assert first != second
    assert f"mien:{told['it is served']['version']}" == first
    assert "accuracy" in told["a challenger spoilt on purpose"]["reason"]
    (pointer,) = (root / "releases").glob("champion.json")
    assert read_json(pointer)["tag"] == second
    left = [p.pid for p in psutil.process_iter(["cmdline"]) if str(root) in str(p.info["cmdline"])]
    assert left == []
