"""What GNU OpenMP, as torch brings it, has been told before a stage loads it."""

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="GNU OpenMP is Linux's")


def spins(**wanted):
    """The count that the library says it goes by."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    done = subprocess.run(
        [sys.executable, "-c", "import mien.stages.pretrain"],
        env=kept | {"OMP_DISPLAY_ENV": "verbose"} | wanted,
        capture_output=True,
        text=True,
        check=True,
    )
    line = next(line for line in done.stderr.splitlines() if "GOMP_SPINCOUNT" in line)
    return int(line.split("'")[1])


def test_threads_that_wait_soon_give_way():
    assert spins() == 1000


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [({"GOMP_SPINCOUNT": "77"}, 77), ({"OMP_WAIT_POLICY": "passive"}, 0)],
)
def test_who_says_how_to_wait_is_obeyed(wanted, expected):
    assert spins(**wanted) == expected
