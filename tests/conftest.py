"""What all tests share: quiet tools that keep to temporary folders, and a tiny pipeline."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from mien.pipeline import TELEMETRY_OFF

_HOME = Path(tempfile.mkdtemp(prefix="mien-tests-"))
os.environ.update(
    TELEMETRY_OFF,
    PREFECT_HOME=str(_HOME / "prefect"),
    BENTOML_HOME=str(_HOME / "bentoml"),
    MPLBACKEND="Agg",
)

_LONG = (
    "test_end_to_end.py",
    "flows/test_training.py",
    "flows/test_monitoring.py",
    "serving/test_service.py",
    "flows/test_retraining.py",
    "flows/test_served.py",
    "stages/test_pretrain.py",
    "test_pipeline.py",
    "stages/test_waiting.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files that take longest go first, so that none is left to one process at the end."""
    folder = Path(__file__).parent
    turn = {folder / name: number for number, name in enumerate(_LONG)}
    items.sort(key=lambda item: turn.get(item.path, len(_LONG)))


@pytest.fixture(scope="session", autouse=True)
def _tools_home() -> Iterator[None]:
    """Nothing that a test makes stays in the tester's own Prefect database or Bento store."""
    yield
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def root() -> Path:
    """The checkout."""
    return Path(__file__).parents[1]


_CHAIN = {
    # Named against the alphabet, so that only the graph can give the right order.
    "zero": {
        "cmd": "echo drawing; echo zero >> ran.txt; echo 0 > zero.txt",
        "params": ["zero"],
        "outs": ["zero.txt"],
    },
    "middle": {
        "cmd": "echo middle >> ran.txt; cat zero.txt > middle.txt",
        "deps": ["zero.txt"],
        "params": ["middle"],
        "outs": ["middle.txt"],
    },
    "after": {
        "cmd": "echo after >> ran.txt; cat middle.txt > after.txt",
        "deps": ["middle.txt"],
        "params": ["after"],
        "outs": ["after.txt"],
    },
}


class Chain:
    """A workspace of three shell stages, each of which notes in ``ran.txt`` that it ran."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir(parents=True)
        self.stages = {name: dict(stage) for name, stage in _CHAIN.items()}
        self.set(zero=1, middle=1, after=1)
        self.change("zero")
        (root / ".dvc").mkdir()
        (root / ".dvc" / "config").write_text("[core]\n    no_scm = True\n")

    def set(self, **settings: int) -> None:
        path = self.root / "params.yaml"
        old = yaml.safe_load(path.read_text()) if path.is_file() else {}
        path.write_text(yaml.safe_dump(old | settings))

    def change(self, stage: str, **parts: object) -> None:
        self.stages[stage] |= parts
        (self.root / "dvc.yaml").write_text(yaml.safe_dump({"stages": self.stages}))

    def ran(self) -> list[str]:
        """The stages that have run since the last time this was asked."""
        path = self.root / "ran.txt"
        names = path.read_text().split() if path.is_file() else []
        path.unlink(missing_ok=True)
        return names


@pytest.fixture
def chain(tmp_path: Path) -> Chain:
    return Chain(tmp_path / "chain")
