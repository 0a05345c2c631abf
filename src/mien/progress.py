"""Progress of work on many things: a bar for a person, a line now and then for a log."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Never

    from tqdm import tqdm


class Lines:
    """A progress bar for logs: a plain line for every tenth."""

    def __init__(self, total: int, title: str, done: str) -> None:
        self.total, self.title, self.words = total, title, done
        self.done, self.next = 0, 0.0

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, count: int) -> None:
        """So many more are done."""
        self.done += count
        if self.done >= self.next * self.total or self.done == self.total:
            print(f"{self.title}: {self.done:,} of {self.total:,} {self.words}", flush=True)
            self.next = (10 * self.done // self.total + 1) / 10


def progress(total: int, title: str, *, unit: str, done: str) -> "tqdm[Never] | Lines":
    """A bar on a terminal, else lines such as ``title: 1,000 of 9,876 pictures read``.

    Args:
        total: of how many.
        title: what works.
        unit: what the bar counts, such as ``pictures``.
        done: what a line calls those that are done, such as ``pictures read``.
    """
    if not sys.stderr.isatty():
        return Lines(total, title, done)
    from tqdm import tqdm

    return tqdm(total=total, desc=title, unit=f" {unit}", unit_scale=True)
