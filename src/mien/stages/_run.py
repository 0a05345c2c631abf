"""What every stage's command line shares: arguments, settings, errors."""

import argparse
import errno
import inspect
import sys
import time
from collections.abc import Callable
from pathlib import Path

from mien.errors import MienError
from mien.params import Params, load_params


def run_stage(main: Callable[..., None]) -> None:
    """Run ``main(params, *, name: Path, …)`` as a command: ``--name PATH`` for each keyword.

    Settings are read once, from ``params.yaml`` in the working folder. A `MienError` and a full
    disk end with a plain message and exit status 1; anything else is a bug and keeps its traceback.
    """
    # a stage is run with `python -m`, which gives its module a spec
    stage = inspect.getmodule(main).__spec__.name.rpartition(".")[2]  # type: ignore[union-attr]
    parser = argparse.ArgumentParser(
        prog=f"python -m mien.stages.{stage}", description=main.__doc__
    )
    names = [name for name in inspect.signature(main).parameters if name != "params"]
    for name in names:
        parser.add_argument(f"--{name.replace('_', '-')}", type=Path, required=True, metavar="PATH")
    arguments = vars(parser.parse_args())
    started = time.monotonic()
    try:
        params: Params = load_params(Path("params.yaml"))
        main(params, **arguments)
    except MienError as error:
        sys.exit(f"{stage}: error: {error}")
    except Exception as error:
        if not disk_is_full(error):
            raise
        sys.exit(f"{stage}: error: the disk is full ({error}); free some space and run again")
    print(f"{stage}: done in {time.monotonic() - started:.1f} s", flush=True)


def disk_is_full(error: Exception) -> bool:
    """Whether an error says so; safetensors' own error type does it in words only."""
    code = getattr(error, "errno", None)
    return code == errno.ENOSPC or f"(os error {errno.ENOSPC})" in str(error)
