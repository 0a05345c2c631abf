"""Workspaces of their own for other data: a folder in which DVC runs the pipeline on it.

A workspace holds a whole ``params.yaml`` (the project's settings with the caller's laid over them)
and the project's ``dvc.yaml`` with its dependencies pointing at the installed package and at the
pictures themselves, so that editing either makes the right stages out of date. For the pictures
that CSVs name, which may lie anywhere and be many, a list of their sizes and times stands in.
"""

from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

import mien
from mien.errors import MienError
from mien.files import is_clutter, replacing_file, write_text
from mien.lock import locked
from mien.params import Params, parse_params
from mien.yaml_files import merge, read_yaml

if TYPE_CHECKING:
    from ruamel.yaml import YAML

_MARK = "# Made by `mien run`, which writes this file anew: give it the changes.\n"
_PACKAGE = Path(mien.__file__).parent
_HELD_OUT = 0.15
"""Share of a user's labelled faces kept for validation, and for testing where no test is given."""
_GONE = [("promotion", "bootstrap"), ("cluster", "network")]
"""Settings of earlier versions, by section and name."""


def default_params() -> dict[str, Any]:
    """The project's own settings."""
    return read_yaml(_project_file("params.yaml"))


def complete_params(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Every setting: the project's own with ``changes`` laid over them.

    The project's own suit the faces that it draws, which a short run tells apart. Where not all
    faces are drawn, ``configs/faces.yaml`` lies in between.
    """
    settings = merge(default_params(), changes)
    if all_drawn(settings):
        return settings
    real = read_yaml(_project_file("configs/faces.yaml"))
    return merge(merge(default_params(), real), changes)


def all_drawn(settings: Mapping[str, Any]) -> bool:
    """Whether there are sources and every one of them is drawn; ``settings`` need not be right."""
    sources = _sources(settings)
    return bool(sources) and all(
        isinstance(each, Mapping) and each.get("kind") == "synthetic" for each in sources
    )


def names_sources(settings: Mapping[str, Any]) -> bool:
    """Whether there is a setting ``prepare.sources``, right or not."""
    prepare = settings.get("prepare")
    return isinstance(prepare, Mapping) and "sources" in prepare


def relative_sources(settings: Mapping[str, Any]) -> bool:
    """Whether a source's path starts at ``prepare.data``; ``settings`` need not be right."""
    return any(
        isinstance(each, Mapping) and "path" in each and not Path(str(each["path"])).is_absolute()
        for each in _sources(settings)
    )


def _sources(settings: Mapping[str, Any]) -> list[Any]:
    """What ``prepare.sources`` lists, right or not; nothing where that is no list."""
    sources = settings["prepare"]["sources"] if names_sources(settings) else None
    return sources if isinstance(sources, list) else []


def workspace_params(root: Path) -> dict[str, Any] | None:
    """The settings of the workspace in ``root``; None where no earlier run made one.

    Without those that were settings when an earlier version made it, and are none any more.
    """
    if not _is_ours(root):
        return None
    settings = read_yaml(root / "params.yaml")
    cluster = settings.get("cluster")
    if isinstance(cluster, dict) and isinstance(one := cluster.get("network"), str):
        cluster.setdefault("networks", [one])  # once there was but one
    for section, name in _GONE:
        if isinstance(settings.get(section), dict):
            settings[section].pop(name, None)
    return settings


def folder_sources(labelled: Path, faces: Path, test: Path | None, find: bool) -> dict[str, Any]:
    """Settings for three folders of pictures.

    Args:
        labelled: a sub-folder for each expression.
        faces: many faces of unknown expression; sub-folders, if there are any, are people.
        test: like ``labelled``; without it a share of ``labelled`` is kept for testing.
        find: the pictures are photos in which faces are to be found, rather than face crops.
    """
    folders = {"labelled": labelled, "faces": faces} | ({"test": test} if test else {})
    for option, folder in folders.items():
        if not folder.is_dir():
            raise MienError(f"--{option} {folder}: no such folder")
    people = any(entry.is_dir() and not is_clutter(entry.name) for entry in faces.iterdir())
    kinds: dict[str, dict[str, Any]] = {
        "labelled": {
            "role": "labelled",
            "folders": "expression",
            "validation_share": _HELD_OUT,
            "test_share": 0.0 if test else _HELD_OUT,
        },
        "faces": {"role": "unlabelled", "folders": "identity" if people else "nothing"},
        "test": {"role": "test", "folders": "expression"},
    }
    sources = [
        {
            "name": name,
            "kind": "image_folder",
            "path": str(folder.resolve()),
            "faces": "detect" if find else "given",
            **kinds[name],
        }
        for name, folder in folders.items()
    ]
    return {"prepare": {"sources": sources}}


def assignment(text: str) -> dict[str, Any]:
    """``section.key=value`` (the value in YAML) as nested settings."""
    name, separator, value = text.partition("=")
    keys = name.strip().split(".")
    if not separator or not all(keys):
        raise MienError(f"--set {text}: expected section.key=value, such as pretrain.epochs=20")
    try:
        settings: Any = yaml.safe_load(value)
    except (yaml.YAMLError, ValueError) as error:  # the latter of 2024-02-30, say
        raise MienError(f"--set {text}: the value is not valid YAML: {error}") from None
    for key in reversed(keys):
        settings = {key: settings}
    return settings


def override(root: Path, overrides: Mapping[str, Any]) -> None:
    """Change settings in the ``params.yaml`` of ``root``; its comments stay.

    The change lasts, as that of `dvc exp run --set-param` does: the settings of a workspace are
    those that its results came from. The caller holds the workspace (`mien.lock.locked`).

    Args:
        root: a workspace.
        overrides: by dotted name (``pretrain.epochs``), or nested like ``params.yaml`` itself.

    Raises:
        MienError: no such setting, a value that it cannot have, or other pictures in a workspace
            that `make_workspace` made, whose ``dvc.yaml`` names them; nothing is changed then.
    """
    from ruamel.yaml import YAML

    path = root / "params.yaml"
    before = settings = read_yaml(path)
    for name, value in overrides.items():
        changes: Any = value
        for key in reversed(name.split(".")):
            changes = {key: changes}
        settings = merge(settings, changes)
    parse_params(settings, "overrides")
    if _is_ours(root):
        for name in ("data", "sources"):
            if settings["prepare"][name] != before["prepare"][name]:
                raise MienError(
                    f"overrides: prepare.{name}: {root / 'dvc.yaml'} names the pictures of before; "
                    f"give the change to `mien run --out {root}`"
                )
    keeper = YAML()  # unlike PyYAML it keeps comments
    keeper.preserve_quotes = True
    keeper.indent(mapping=2, sequence=4, offset=2)
    keeper.width = 1000
    kept = keeper.load(path)
    if _lay_over(kept, before, settings, keeper):
        with replacing_file(path) as temporary:
            keeper.dump(kept, temporary)


def _lay_over(
    kept: MutableMapping[str, Any], old: Mapping[str, Any], new: Mapping[str, Any], keeper: "YAML"
) -> bool:
    """Assign the values that differ, so that the others keep their comments and their layout.

    What PyYAML reads is compared, and what it would write is assigned: to ``keeper``, which knows
    YAML 1.2, ``1e-5`` is a number and ``yes`` a word.
    """
    changed = False
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict):
            changed |= _lay_over(kept[key], old[key], value, keeper)
        elif key not in old or old[key] != value:
            kept[key] = keeper.load(yaml.safe_dump(value, allow_unicode=True))
            changed = True
    return changed


def make_workspace(root: Path, settings: Mapping[str, Any]) -> None:
    """Make ``root`` a workspace with these settings, or bring the one there up to date with them.

    Results that are there stay; DVC sees what has changed.

    Raises:
        MienError: a setting is wrong, a source is missing, ``root`` holds other things, or another
            run is at work in it.
    """
    params = _settled(parse_params(settings, "settings"))
    root = root.resolve()
    pictures, listed = _pictures(params), _listed(params)
    _refuse_unsuitable(root, pictures)
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MienError(f"--out {root}: cannot make this folder: {error.strerror}") from None
    values = params.model_dump(mode="json", by_alias=True)
    with locked(root):
        if listed:
            pictures.append(Path(_LISTED))
        # first what says whose folder this is, should this process be stopped here
        write_text(root / "dvc.yaml", _MARK + _as_yaml(_pipeline(params, pictures)))
        write_text(root / "params.yaml", _MARK + _as_yaml(values))
        if listed:
            write_text(root / _LISTED, listed)
        config = root / ".dvc" / "config"
        if not config.is_file():  # all that `dvc init` makes; stopped, that leaves half of it
            write_text(config, "[core]\n    no_scm = True\n")


def _settled(params: Params) -> Params:
    """With the folder that relative paths of pictures start from where it is now.

    The stages run in the workspace, and the next `mien run` may be called from elsewhere.
    """
    sources = (source for source in params.prepare.sources if source.kind != "synthetic")
    if all(source.path.is_absolute() for source in sources):
        return params
    prepare = params.prepare.model_copy(update={"data": params.prepare.data.resolve()})
    return params.model_copy(update={"prepare": prepare})


def _pipeline(params: Params, pictures: list[Path]) -> dict[str, Any]:
    """The project's ``dvc.yaml``, whose dependencies are this package and these pictures."""
    pipeline = read_yaml(_project_file("dvc.yaml"))
    for stage in pipeline["stages"].values():
        stage["deps"] = [path for dep in stage["deps"] for path in _dependency(dep, pictures)]
    return pipeline


_DATA = "${prepare.data}"
_LISTED = "pictures.txt"
_SOURCE = "src/mien/"


def _dependency(path: str, pictures: list[Path]) -> Iterator[str]:
    if path == _DATA:
        yield from map(str, pictures)
    elif path.startswith(_SOURCE):
        # Files one by one: DVC would hash the compiled files in a folder outside the workspace.
        module = _PACKAGE / path.removeprefix(_SOURCE)
        yield from map(str, _source_files(module) if module.is_dir() else [module])
    else:
        yield path


def _source_files(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    )


def _pictures(params: Params) -> list[Path]:
    """Where the sources' pictures lie; each must be there. DVC follows no link to a folder."""
    from mien.data.sources.pictures import linked_folders, walk

    paths = []
    for source in params.prepare.sources:
        if source.kind == "synthetic":
            continue
        path = (params.prepare.data / source.path).resolve()
        if not path.exists():
            raise MienError(f"source '{source.name}': {path} does not exist; name its folder")
        files = list(walk(path))
        _refuse_names(source.name, path, files)
        paths += [path, *linked_folders(path, files)]
    return paths


def _listed(params: Params) -> str:
    """Size, time of the last change and path of each picture that a CSV names and that is there.

    DVC takes half a minute for ten thousand dependencies.
    """
    from mien.data.sources.csv_file import listed_pictures

    lines = []
    for source in params.prepare.sources:
        if source.kind == "csv":
            for path in listed_pictures(params.prepare.data / source.path):
                with suppress(OSError, ValueError):  # a name may be of anything
                    stat = path.stat()
                    lines.append(f"{stat.st_size} {stat.st_mtime_ns} {path}\n")
    return "".join(lines)


def _refuse_names(source: str, path: Path, files: list[str]) -> None:
    """Refuse what DVC would end at with a traceback or with words about its own syntax, and pipes,
    for whose end it would wait."""
    if "${" in str(path):
        raise MienError(f"source '{source}': {path}: DVC cannot read '${{' in a name; rename it")
    for name in [str(path), *files]:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise MienError(
                f"source '{source}': {path}: the name {name!r} is not UTF-8; rename it, or unpack "
                "the archive that it came from with the right encoding"
            ) from None
        target = path / name
        if not target.is_file() and not target.is_dir():
            raise MienError(f"source '{source}': {target}: a link to nothing, or a pipe; remove it")


def _refuse_unsuitable(root: Path, pictures: list[Path]) -> None:
    for path in pictures:
        if root.is_relative_to(path):
            raise MienError(
                f"--out {root}: lies inside the pictures' folder {path}; choose another"
            )
    if set("{}") & set(str(root)):  # it ends at them when the stage has done its work
        raise MienError(f"--out {root}: DVC cannot work under a name with braces; choose another")
    if root.exists() and not root.is_dir():
        raise MienError(f"--out {root}: is a file; name a folder")
    others = root.is_dir() and any(entry.name != ".mien" for entry in root.iterdir())
    if others and not _is_ours(root):
        raise MienError(
            f"--out {root}: this folder holds other things; "
            "name a new or empty one, or one that `mien run` made"
        )


def _is_ours(root: Path) -> bool:
    try:
        return (root / "dvc.yaml").read_text(encoding="utf-8").startswith(_MARK)
    except (OSError, UnicodeDecodeError):
        return False


def _project_file(name: str) -> Path:
    """A file of the project: packed beside the modules in a wheel, at the root of a checkout."""
    packed = _PACKAGE / name
    return packed if packed.is_file() else _PACKAGE.parents[1] / name


def _as_yaml(values: Mapping[str, Any]) -> str:
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=100)
