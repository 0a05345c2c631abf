"""What stands for a kill where a test cannot use a real one."""

from collections.abc import Callable
from typing import Any, NoReturn


class Killed(BaseException):
    """No code under test may catch it."""


def kill(*_: object) -> NoReturn:
    raise Killed


def killing(
    after: int | None, measure: Callable[[Any], dict[str, float]] = lambda net: {}
) -> Callable[[Any], dict[str, float]]:
    """What measures a network after each epoch, and is killed when asked once more than ``after``.

    None: never.
    """
    seen = 0

    def validate(net: Any) -> dict[str, float]:
        nonlocal seen
        seen += 1
        if after is not None and seen > after:
            kill()
        return measure(net)

    return validate
