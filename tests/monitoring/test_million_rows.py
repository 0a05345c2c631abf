"""A million rows in under a minute and a gigabyte."""

import subprocess
import sys

import pytest

from tests.monitoring.rows import draw

CODE = """
import sys, time
from pathlib import Path
from mien.monitoring.log import read_window
from mien.monitoring.reference import read_reference
from mien.monitoring.verdict import judge
from mien.params import load_params
logs, package, params = map(Path, sys.argv[1:])
reference = read_reference(package)
started = time.process_time()
window = read_window(logs, {}, reference)
verdict = judge(window, reference, load_params(params).monitoring, 0)
seconds = time.process_time() - started
# getrusage's peak would be that of the process that started this one, where that is larger
status = Path("/proc/self/status").read_text()
print(len(window.faces), verdict.status, seconds, int(status.split("VmHWM:")[1].split()[0]) / 1024)
"""


@pytest.mark.slow
def test_a_million_rows(log, package, root):
    import numpy as np

    faces = draw(10_000, np.random.default_rng(0)).to_dict("records")
    with log.path().open("w") as file:
        for _ in range(100):
            file.writelines(log.row(face) for face in faces)
    answer = subprocess.check_output(
        [sys.executable, "-c", CODE, log.root, package, root / "params.yaml"], text=True
    )
    count, status, seconds, megabytes = answer.split()
    assert (int(count), status) == (1_000_000, "ok")
    assert float(seconds) < 60
    assert float(megabytes) < 1024
