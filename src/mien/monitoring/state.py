"""What monitoring remembers between runs, in one file that changes in one step.

The mark, the bad windows so far and the event that is still to be sent change together: a run that
is killed before the change is as if it had not been, and its window comes again with the same
number; a run that is killed after it sends its event next time, with the same number.
"""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from mien.errors import MienError
from mien.files import read_json, write_json
from mien.monitoring.log import Mark, Window
from mien.monitoring.verdict import Verdict, volume

FOLDER, FILE = "monitoring", "state.json"
_HISTORY = 50


@dataclass(frozen=True)
class State:
    """Where monitoring stands."""

    window: int = 0
    """Number of the last window that was judged."""
    model: str | None = None
    mark: Mark = field(default_factory=dict)
    bad_windows: int = 0
    since: str = ""
    """When the first of the bad windows began, as its rows say."""
    volumes: list[float] = field(default_factory=list)
    """Pictures an hour in the last windows."""
    pending: dict[str, Any] | None = None
    """An event that must still be sent."""

    def watching(self, model: str) -> "State":
        """For this model: another one's bad windows and drift do not count against it."""
        if model == self.model:
            return self
        return replace(self, model=model, bad_windows=0, since="", pending=None)

    def after(self, window: Window, verdict: Verdict) -> "State":
        """Once a window has been judged."""
        now = volume(window)
        return State(
            window=self.window + 1,
            model=verdict.model,
            mark=window.mark,
            bad_windows=verdict.bad_windows,
            since=(self.since or verdict.start or "") if verdict.bad_windows else "",
            volumes=[*self.volumes, *([now] if now else [])][-_HISTORY:],
            pending=self.pending if verdict.bad_windows else None,
        )


def read_state(root: Path) -> State:
    """The state of a workspace; a new one where there is none.

    Raises:
        MienError: the file is broken.
    """
    path = root / FOLDER / FILE
    try:
        return State(**read_json(path))
    except FileNotFoundError:
        return State()
    except (ValueError, TypeError):
        raise MienError(
            f"{path}: not a state of monitoring; restore it, or remove it to judge the whole log "
            "anew"
        ) from None


def write_state(root: Path, state: State) -> None:
    """Replace the state in one step."""
    write_json(root / FOLDER / FILE, asdict(state))


@contextmanager
def alone(root: Path) -> Iterator[None]:
    """Keep other monitoring runs out of a workspace.

    Raises:
        MienError: another one is at work.
    """
    path = root / ".mien" / "monitoring.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise MienError(f"{root}: another monitoring run is at work here") from None
        yield
