"""Running a workspace's DVC pipeline stage by stage, alone in it, with every line as it comes.

A workspace is a folder with ``dvc.yaml``, ``params.yaml`` and ``.dvc``: the checkout itself, or one
that `mien.workspace` made. DVC decides what is out of date; this module only asks it and runs it.
"""

import fcntl
import os
import re
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mien.errors import MienError

TELEMETRY_OFF = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "BENTOML_DO_NOT_TRACK": "True",
    "GX_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
_TAIL = 12
"""Lines of a failing stage that its error repeats."""
_GRACE = 5.0
"""Seconds between SIGTERM and SIGKILL."""
_NARRATION = re.compile(
    "Running stage '|> |(Updating|Generating) lock file|Use `dvc push`|\t(git add|dvc config) |"
    "To (track the changes with git|enable auto staging), run:"
)
"""Lines in which DVC tells what it does and what one might do next."""
_DEATH = re.compile("ERROR: failed to reproduce '.*': failed to run: .*, (exited with -?[0-9]+)$")


class StageFailed(MienError):
    """A stage ended with an error; the message repeats the last lines that it printed."""

    def __init__(self, stage: str, lines: Iterable[str]) -> None:
        super().__init__("\n".join([f"stage '{stage}' failed:", *lines]))
        self.stage = stage


@dataclass(frozen=True)
class Pipeline:
    """The pipeline in ``root``, held by this process until `open_pipeline` ends."""

    root: Path
    lock: int
    """Descriptor of the locked file. DVC inherits it, so the workspace stays locked for as long
    as a stage writes there, even where the process that started it was killed outright."""

    def stages(self) -> list[str]:
        """All stages' names, each after those that it depends on; ties in alphabetical order."""
        import networkx as nx
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        try:
            with Repo(str(self.root)) as repo:
                graph = repo.index.graph.reverse(copy=False)
                order = nx.lexicographical_topological_sort(graph, key=lambda stage: stage.name)
                return [stage.name for stage in order]
        except DvcException as error:
            raise MienError(f"{self.root / 'dvc.yaml'}: {error}") from error

    def is_current(self, stage: str) -> bool:
        """Whether nothing that ``stage`` reads, runs or leaves has changed since its last run.

        Asked in this process: `dvc repro` would need 0.6 s to find out.
        """
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        try:
            with Repo(str(self.root)) as repo, repo.lock:
                (found,) = (known for known in repo.index.stages if known.name == stage)
                return not found.changed()
        except DvcException:
            return False  # `dvc repro` will fail on it, too, and say why

    def run(self, stage: str, emit: Callable[[str], None], *, force: bool = False) -> None:
        """Run one stage with ``dvc repro``, calling ``emit`` with each line that it prints.

        Whatever interrupts the caller (time-out, cancellation, Ctrl-C, SIGTERM made an exception)
        ends the whole process group: a signal to DVC alone would leave the stage writing on.

        Raises:
            StageFailed: the stage, or DVC before it, ended with a non-zero status.
        """
        command = [sys.executable, "-m", "dvc", "repro", "--single-item", stage]
        process = subprocess.Popen(
            [*command, "--force"] if force else command,
            cwd=self.root,
            env=environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            bufsize=1,
            start_new_session=True,
            pass_fds=[self.lock],
        )
        tail: deque[str] = deque(maxlen=_TAIL)
        try:
            for line in _stage_lines(process.stdout or ()):
                tail.append(line)
                emit(line)
            failed = process.wait() != 0
        except BaseException:
            _end_group(process)
            raise
        if failed:
            raise StageFailed(stage, tail)


@contextmanager
def open_pipeline(root: Path) -> Iterator[Pipeline]:
    """The pipeline in ``root``, for this process alone.

    Raises:
        MienError: ``root`` is no workspace, or another run is at work in it.
    """
    root = root.resolve()
    if not (root / "dvc.yaml").is_file() or not (root / ".dvc").is_dir():
        raise MienError(f"{root}: not a workspace: it needs dvc.yaml and .dvc")
    with locked(root) as lock:
        yield Pipeline(root, lock)


@contextmanager
def locked(root: Path) -> Iterator[int]:
    """Keep other runs out of ``root``; yields the descriptor of the locked file.

    The lock is the kernel's and goes with the processes that hold it: a crash leaves none behind.
    """
    path = root / ".mien" / "run.lock"
    path.parent.mkdir(exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read().strip() or "unknown"
            raise MienError(
                f"{root}: another run is at work here (started by process {holder}); "
                "wait for it to end, or stop it"
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield file.fileno()


def environment() -> dict[str, str]:
    """The stages' environment: this interpreter is ``python``, lines come at once, no telemetry."""
    binaries = str(Path(sys.executable).parent)
    return {
        **TELEMETRY_OFF,
        **os.environ,
        "PATH": os.pathsep.join([binaries, os.environ.get("PATH", os.defpath)]),
        "PYTHONUNBUFFERED": "1",
    }


def _stage_lines(lines: Iterable[str]) -> Iterator[str]:
    """What the stage printed, how it died, and what DVC has against running it."""
    for line in map(str.rstrip, lines):
        if death := _DEATH.match(line):
            yield death[1]
        elif line and not _NARRATION.match(line):
            yield line


def _end_group(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
