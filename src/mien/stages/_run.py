"""What every stage's command line shares: arguments, settings, errors."""

import argparse
import inspect
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from mien.errors import MienError
from mien.files import full_disk
from mien.params import Params, load_params
from mien.yaml_files import read_yaml

_SETTINGS = Path("params.yaml")


def run_stage(main: Callable[..., None]) -> None:
    """Run ``main(params, *, name: Path, …)`` as a command: ``--name PATH`` for each keyword.

    Settings are read once, from ``params.yaml`` in the working folder. If those that the stage
    depends on are changed before it ends, it fails: DVC reads them again then, and would record
    that what the stage made came from them. A `MienError` and a full disk end with a plain message
    and exit status 1; anything else is a bug and keeps its traceback.
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
        params: Params = load_params(_SETTINGS)
        watched = _watched(stage)
        before = _values(watched)
        main(params, **arguments)
        _refuse_change(before, _values(watched))
    except MienError as error:
        sys.exit(f"{stage}: error: {error}")
    except Exception as error:
        if not (told := full_disk(error)):
            raise
        sys.exit(f"{stage}: error: {told}")
    print(f"{stage}: done in {time.monotonic() - started:.1f} s", flush=True)


def _watched(stage: str) -> list[str]:
    """The settings on which ``dvc.yaml`` in the working folder says that the stage depends."""
    if not Path("dvc.yaml").is_file():
        return []
    known = read_yaml(Path("dvc.yaml")).get("stages", {}).get(stage, {}).get("params", [])
    return [name for name in known if isinstance(name, str)]  # those of another file are not ours


def _values(names: Iterable[str]) -> dict[str, Any]:
    """Settings by their dotted names, as they stand now."""
    settings = read_yaml(_SETTINGS)
    return {name: _value(settings, name) for name in names}


def _value(settings: Any, name: str) -> Any:
    for key in name.split("."):
        settings = settings.get(key) if isinstance(settings, Mapping) else None
    return settings


def _refuse_change(before: Mapping[str, Any], after: Mapping[str, Any]) -> None:
    changed = [name for name, value in before.items() if after[name] != value]
    if changed:
        raise MienError(
            f"{_SETTINGS}: {', '.join(changed)} changed while this stage ran, and what it made is "
            "of the settings before; run again"
        )
