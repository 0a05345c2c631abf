"""Running a workspace's DVC pipeline stage by stage, alone in it, with every line as it comes.

A workspace is a folder with ``dvc.yaml``, ``params.yaml`` and ``.dvc``: the checkout itself, or one
that `mien.workspace` made. DVC decides what is out of date; this module only asks it and runs it.
"""

import getpass
import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mien.errors import MienError
from mien.guard import GRACE
from mien.lock import locked
from mien.yaml_files import read_yaml

if TYPE_CHECKING:
    from dvc.repo import Repo
    from dvc.stage import PipelineStage

TELEMETRY_OFF = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "BENTOML_DO_NOT_TRACK": "True",
    "GX_ANALYTICS_ENABLED": "false",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
}
try:
    getpass.getuser()
except (KeyError, OSError):  # a container's user that is a mere number; DVC asks for a name
    os.environ["USER"] = str(os.getuid())

_TAIL = 12
"""Lines of a failing stage that its error repeats."""
_NARRATION = re.compile(
    "Running stage '|> |(Updating|Generating) lock file|Use `dvc push`|\t(git add|dvc config) |"
    "To (track the changes with git|enable auto staging), run:"
)
"""Lines in which DVC tells what it does and what one might do next."""
_DEATH = re.compile("ERROR: failed to reproduce '.*': failed to run: .*, (exited with -?[0-9]+)$")
_PASSING = re.compile("exited with (-9|137)$|ERROR: .*(Unable to acquire lock|is busy)")
"""Ends that another try may not meet: killed from outside (for memory, mostly), and another DVC
command at work. Wrong data, wrong settings and bugs end otherwise."""


class StageFailed(MienError):
    """A stage ended with an error; the message repeats the last lines that it printed."""

    def __init__(self, stage: str, lines: Sequence[str]) -> None:
        super().__init__("\n".join([f"stage '{stage}' failed:", *lines]))
        self.passing = any(map(_PASSING.search, lines[-3:]))
        """Whether the same stage may well succeed when it is tried again."""


class DvcFailed(MienError):
    """A DVC command ended with an error; the message is the last lines that it printed."""

    def __init__(self, lines: Iterable[str]) -> None:
        self.lines = list(lines)
        super().__init__("\n".join(self.lines))


class TookTooLong(MienError):
    """A DVC command was ended, with all its processes, since its time was up."""


@dataclass(frozen=True)
class Changes:
    """What DVC finds different from a stage's last run."""

    inputs: tuple[str, ...]
    """Settings (``relabel.coverage=0.5``) and files."""
    outputs: tuple[str, ...]
    """Outputs that are there and not as the stage left them."""
    new: bool
    """Whether the stage has never ended."""
    command: bool


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

        with self._repo() as repo:
            graph = repo.index.graph.subgraph(_stages(repo)).reverse(copy=False)
            order = nx.lexicographical_topological_sort(graph, key=lambda stage: stage.name)
            return [stage.name for stage in order]

    def outputs(self, stage: str) -> list[Path]:
        """Where a stage's outputs lie, its metrics and plots among them."""
        with self._repo() as repo:
            (found,) = (known for known in _stages(repo) if known.name == stage)
            return [Path(out.fs_path) for out in found.outs]

    def changes(self) -> dict[str, Changes]:
        """What has changed for each stage that is out of date, one level deep: a stage whose inputs
        another is about to make anew is not among them."""
        with self._repo() as repo, repo.lock:
            stages = _stages(repo)
            found = {stage.name: stage.status() for stage in stages}
            remade = {str(out) for s in stages if found[s.name] for out in s.outs}
        locked_stages = self._locked_stages()
        changes = {}
        for name, status in found.items():
            if not status:
                continue
            (entries,) = status.values()
            parts: dict[str, Any] = {}
            for entry in entries:
                parts |= entry if isinstance(entry, dict) else {entry: True}
            inputs = {
                name: state
                for name, state in parts.pop("changed deps", {}).items()
                if state != "deleted" and name not in remade
            }
            if not inputs and not parts:
                continue
            old = locked_stages.get(name, {}).get("params", {})
            changes[name] = Changes(
                inputs=tuple(_inputs(self.root, inputs, old)),
                outputs=tuple(
                    path
                    for path, state in parts.get("changed outs", {}).items()
                    if state == "modified"
                ),
                new=name not in locked_stages,
                command="changed command" in parts,
            )
        return changes

    def edited(self, changes: Mapping[str, Changes]) -> list[str]:
        """Outputs that somebody changed by hand: running their stages would lose it.

        A stage that was stopped leaves outputs that nobody edited; those are not counted.
        """
        return [
            path
            for stage, change in changes.items()
            if not (change.inputs or change.new or change.command or self._mark(stage).exists())
            for path in change.outputs
        ]

    def require_remote(self) -> None:
        """Refuse a workspace that has no place to pull from or to push to.

        Raises:
            MienError: no default remote, or one that is not defined.
        """
        with self._repo() as repo:
            name, known = repo.config["core"].get("remote"), sorted(repo.config["remote"])
        if name not in known:
            trouble = f"the default remote '{name}' is not defined" if name else "no default remote"
            raise MienError(
                f"{self.root}: {trouble}; `dvc remote add --default NAME URL` names one"
            )

    def unfinished(self) -> list[str]:
        """Stages that were started and did not end well: they go on from their checkpoints."""
        folder = self.root / ".mien" / "unfinished"
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def is_current(self, stage: str) -> bool:
        """Whether nothing that ``stage`` reads, runs or leaves has changed since its last run.

        Asked in this process: `dvc repro` would need 0.6 s to find out. One that was stopped and
        has been brought to its end by hand counts as unfinished no more.
        """
        try:
            with self._repo() as repo, repo.lock:
                (found,) = (known for known in _stages(repo) if known.name == stage)
                current = not found.changed()
        except MienError:
            return False  # `dvc repro` will fail on it, too, and say why
        if current:
            self._mark(stage).unlink(missing_ok=True)
        return current

    def run(
        self,
        stage: str,
        emit: Callable[[str], None],
        *,
        force: bool = False,
        limit: float | None = None,
    ) -> None:
        """Run one stage with ``dvc repro``, calling ``emit`` with each line that it prints.

        Whatever interrupts the caller (time-out, cancellation, Ctrl-C, SIGTERM made an exception)
        ends the whole process group: a signal to DVC alone would leave the stage writing on.

        Raises:
            StageFailed: the stage, or DVC before it, ended with a non-zero status.
            TookTooLong: it was ended after ``limit`` seconds.
        """
        options = ["--single-item", *(["--force"] if force else [])]
        mark = self._mark(stage)
        mark.parent.mkdir(exist_ok=True)
        mark.touch()
        try:
            self.dvc("repro", *options, stage, emit=emit, limit=limit)
        except DvcFailed as error:
            raise StageFailed(stage, error.lines) from None
        mark.unlink()

    def dvc(self, *arguments: str, emit: Callable[[str], None], limit: float | None = None) -> None:
        """Run a DVC command in a process group that ends with this process, whatever ends it.

        Raises:
            DvcFailed: it ended with a non-zero status.
            TookTooLong: it was ended after ``limit`` seconds.
        """
        late = threading.Event()
        watched, held = os.pipe()  # `held` closes with this process, even by SIGKILL
        guard = [sys.executable, "-m", "mien.guard", str(watched), str(self.lock)]
        tail: deque[str] = deque(maxlen=_TAIL)
        try:
            process = subprocess.Popen(
                [*guard, sys.executable, "-m", "dvc", *arguments],
                cwd=self.root,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                bufsize=1,
                start_new_session=True,
                pass_fds=[watched, self.lock],
            )

            def expire() -> None:
                late.set()
                _end_group(process)

            # A timer of our own: Prefect raises its time-out as an OSError wherever this thread
            # happens to be, and what it interrupts (logging, DVC) may take that for its own.
            timer = threading.Timer(limit or threading.TIMEOUT_MAX, expire)
            timer.daemon = True
            timer.start()
            try:
                for line in _stage_lines(process.stdout or ()):
                    tail.append(line)
                    emit(line)
                failed = process.wait() != 0
            except BaseException:
                _end_group(process)
                raise
            finally:
                timer.cancel()
        finally:
            os.close(watched)
            os.close(held)
        if late.is_set():
            raise TookTooLong(f"`dvc {' '.join(arguments)}` was ended after {limit:g} s")
        if failed:
            raise DvcFailed(tail)

    def _mark(self, stage: str) -> Path:
        """A file that is there from a stage's start to its good end."""
        return self.root / ".mien" / "unfinished" / stage

    def drop_cut_lock(self) -> None:
        """Remove a ``dvc.lock`` that DVC was stopped while writing, if DVC cannot read it.

        It would end at it ever after. What the stages made is found again in DVC's cache.
        """
        from dvc.dvcfile import LOCK_FILE, Lockfile
        from dvc.utils.serialize import ParseError
        from dvc.utils.strictyaml import YAMLValidationError

        path = self.root / LOCK_FILE
        with self._repo() as repo:
            try:
                Lockfile(repo, str(path)).load()
            except (ParseError, YAMLValidationError):
                path.unlink()

    def _locked_stages(self) -> dict[str, Any]:
        path = self.root / "dvc.lock"
        return read_yaml(path).get("stages", {}) if path.is_file() else {}

    @contextmanager
    def _repo(self) -> "Iterator[Repo]":
        from dvc.exceptions import DvcException
        from dvc.repo import Repo

        try:
            with Repo(str(self.root)) as repo:
                yield repo
        except DvcException as error:
            raise MienError(f"{self.root}: DVC cannot work here: {error}") from error


def _stages(repo: "Repo") -> "list[PipelineStage]":
    """The stages of ``dvc.yaml``: to DVC what is under ``dvc add`` is a stage as well, nameless."""
    from dvc.stage import PipelineStage

    return [stage for stage in repo.index.stages if isinstance(stage, PipelineStage)]


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
        pipeline = Pipeline(root, lock)
        if pipeline.unfinished():
            pipeline.drop_cut_lock()
        yield pipeline


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


def _inputs(root: Path, changed: Mapping[str, Any], old: Mapping[str, Any]) -> Iterator[str]:
    """Changed settings with their new values, then changed files."""
    for file in sorted(changed, key=lambda name: not isinstance(changed[name], dict)):
        if not isinstance(changed[file], dict):
            yield file
            continue
        new = read_yaml(root / file) if (root / file).is_file() else {}
        before, after = flatten(old.get(file, {})), flatten(new)
        names = tuple(changed[file])
        for key in sorted(before.keys() | after.keys()):
            ours = any(key == name or key.startswith(f"{name}.") for name in names)
            if ours and before.get(key) != after.get(key):
                yield f"{key}={after[key]}" if key in after else f"{key} (gone)"


def flatten(values: Mapping[str, Any]) -> dict[str, Any]:
    """Nested settings as ``section.key``; lists and what DVC stores under a dotted key stay."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= {f"{key}.{inner}": leaf for inner, leaf in flatten(value).items()}
        else:
            flat[str(key)] = value
    return flat


def _end_group(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
