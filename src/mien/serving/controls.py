"""BentoML's supervisor of the workers, which takes no commands from other processes."""

from collections.abc import Callable
from functools import partial
from typing import Any
from uuid import uuid4


def hide() -> None:
    """Leave the supervisors that BentoML starts from now on in this process without ports.

    Circus, which BentoML 1.4.39 has for one, does what it is told at a port of loopback, such as
    to start a program, and it asks nobody who he is: any user of the machine could act as the one
    who serves.
    """
    from bentoml._internal.utils import circus

    circus.Arbiter = partial(_start, circus.Arbiter)
    circus.ThreadedArbiter = partial(_start, circus.ThreadedArbiter)


def _start(arbiter: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    if not options.get("plugins"):  # `bentoml serve --reload`: they are processes that command
        name = uuid4().hex
        # ZeroMQ's way to itself, which no other process has
        options["endpoint"] = f"inproc://{name}-commands"
        options["pubsub_endpoint"] = f"inproc://{name}-events"
    return arbiter(*arguments, **options)
