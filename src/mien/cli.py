"""The ``mien`` command: the pipeline on one's own data, its model's card and answers."""

import argparse
import functools
import io
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import mien
from mien.errors import MienError
from mien.files import full_disk

_RUN_EXAMPLES = """\
examples:
  mien run --labelled faces/labelled --faces faces/many --out runs/mine
      faces/labelled/happy/… and so on, a folder per expression; faces/many: the unlabelled ones

  mien run --labelled actors --faces photos --find-faces --out runs/actors \\
      --set 'expressions=[amused, puzzled, calm]' --params configs/transfer.yaml
      expressions of one's own, in photos whose faces are found first; few labels, so the network
      begins with weights that ship

  mien run --params configs/fer2013-lfw.yaml --data ../shared/datasets --out runs/fer2013-lfw
      sources named in a settings file

  mien run --out runs/mine --set finetune.epochs=20
      an earlier run again with another setting: what does not depend on it is not run again
"""
_PROMOTE_EXAMPLES = """\
examples:
  mien promote --trained runs/mine
      the package that the run in runs/mine made, against the champion of this folder

  mien rollback --reason 'complaints about dark rooms'
"""
_CARD_EXAMPLE = """\
example:
  mien card --model runs/mine
"""
_MODEL = "a package folder, a workspace that holds one, a size that ships or a tag mien:…"

_PREDICT_EXAMPLES = """\
examples:
  mien predict photo.jpg photos/ 'more/*.png' --format jsonl
  mien predict --crop faces/ --format csv > faces.csv
  mien predict - --url http://127.0.0.1:3000 < photo.jpg
"""


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; errors of use and of files end it with a plain message and status 1."""
    options = _parser().parse_args(arguments)
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names may be of bytes that are no text
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        options.command(options)
        sys.stdout.flush()
    except OSError as error:
        _drop_unwritten()
        gone = isinstance(error, BrokenPipeError)  # whoever read along (`| head`)
        sys.exit(1 if gone else f"mien {options.name}: error: {full_disk(error) or error}")
    except MienError as error:
        sys.exit(f"mien {options.name}: error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)


def _drop_unwritten() -> None:
    """What can't be written to standard output must not fail again when Python ends."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mien", description=(mien.__doc__ or "").split("\n")[0])
    parser.add_argument("--version", action="version", version=f"mien {mien.__version__}")
    commands = parser.add_subparsers(dest="name", required=True, metavar="COMMAND")
    add = functools.partial(
        commands.add_parser, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    purpose = "run the pipeline on one's own faces; run again, it goes on where it stopped"
    run = add("run", help=purpose, description=purpose, epilog=_RUN_EXAMPLES)
    run.set_defaults(command=_run)
    run.add_argument("--out", type=Path, required=True, metavar="DIR", help="the run's folder")
    pictures = run.add_argument_group("faces in folders")
    pictures.add_argument(
        "--labelled", type=Path, metavar="DIR", help="labelled faces: a sub-folder per expression"
    )
    pictures.add_argument(
        "--faces", type=Path, metavar="DIR", help="unlabelled faces, perhaps in a folder per person"
    )
    pictures.add_argument(
        "--test", type=Path, metavar="DIR", help="test faces; 15%% of the labelled ones otherwise"
    )
    pictures.add_argument(
        "--find-faces", action="store_true", help="the pictures are photos, not face crops"
    )
    settings = run.add_argument_group("settings")
    settings.add_argument(
        "--params",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="YAML laid over an earlier run's settings, or, where faces are named anew, over the "
        "project's params.yaml and, unless faces are drawn, configs/faces.yaml; may be given "
        "again, the last one wins",
    )
    settings.add_argument(
        "--data", type=Path, metavar="DIR", help="where the sources' paths in FILE start"
    )
    settings.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="one setting; repeatable"
    )

    card = add("card", help="print a model's card", epilog=_CARD_EXAMPLE)
    card.set_defaults(command=_card)
    card.add_argument(
        "--model", "--package", metavar="MODEL",
        help=f"{_MODEL} (default: the one that `mien predict` takes)",
    )  # fmt: skip

    _add_releases(add)

    purpose = "say what the faces in pictures show"
    predict = add("predict", help=purpose, description=purpose, epilog=_PREDICT_EXAMPLES)
    predict.set_defaults(command=_predict)
    predict.add_argument(
        "paths", nargs="+", metavar="PATH", help="pictures, folders, globs; - is standard input"
    )
    predict.add_argument("--format", choices=["table", "jsonl", "csv"], default="table")
    predict.add_argument("--crop", action="store_true", help="each picture is a face already")
    where = predict.add_mutually_exclusive_group()
    where.add_argument("--model", metavar="MODEL", help=_MODEL)
    where.add_argument("--url", metavar="URL", help="ask this service; MIEN_API_KEY is its key")
    return parser


def _add_releases(add: Callable[..., argparse.ArgumentParser]) -> None:
    purpose = "put a package through the gate; it becomes the champion where it passes"
    promote = add("promote", help=purpose, description=purpose, epilog=_PROMOTE_EXAMPLES)
    promote.set_defaults(command=_promote)
    promote.add_argument(
        "--trained", type=Path, metavar="DIR", help="the run that made it (default: the workspace)"
    )
    purpose = "make an earlier champion the champion again"
    rollback = add("rollback", help=purpose, description=purpose, epilog=_PROMOTE_EXAMPLES)
    rollback.set_defaults(command=_rollback)
    rollback.add_argument("--reason", required=True, help="why; it stands in the record")
    rollback.add_argument("--to", metavar="TAG", help="mien:…; by default the one before this one")
    purpose = "list every release and refusal"
    shown = add("releases", help=purpose, description=purpose, epilog="example:\n  mien releases\n")
    shown.set_defaults(command=_releases)
    for command in (promote, rollback, shown):
        command.add_argument(
            "--workspace", type=Path, default=Path(), metavar="DIR",
            help="folder that holds releases/ (default: this one)",
        )  # fmt: skip


def _run(options: argparse.Namespace) -> None:
    from mien.pipeline import StageFailed, open_pipeline
    from mien.results import summary
    from mien.workspace import make_workspace

    signal.signal(signal.SIGTERM, _stop)
    make_workspace(options.out, _settings(options))
    with open_pipeline(options.out) as pipeline:
        stages = pipeline.stages()
        for number, stage in enumerate(stages, start=1):
            current = pipeline.is_current(stage)
            print(
                f"[{number}/{len(stages)}] {stage}{': up to date' if current else ''}", flush=True
            )
            if not current:
                try:
                    pipeline.run(stage, lambda line: print(f"  {line}", flush=True))
                except StageFailed:
                    # Its lines have just been shown.
                    raise MienError(f"stage '{stage}' failed; nothing after it was run") from None
        print(f"\n{summary(pipeline.root)}")


def _settings(options: argparse.Namespace) -> dict[str, Any]:
    """The project's settings (or an earlier run's, where no faces are named), with the changes."""
    from mien.workspace import (
        all_drawn,
        assignment,
        complete_params,
        folder_sources,
        names_sources,
        relative_sources,
        workspace_params,
    )
    from mien.yaml_files import merge, read_yaml

    given = [(f"--params {path}", read_yaml(path)) for path in options.params]
    if options.data:
        if not options.data.is_dir():
            raise MienError(f"--data {options.data}: no such folder")
        given.append(("--data", {"prepare": {"data": str(options.data.resolve())}}))
    given += [(f"--set {text}", assignment(text)) for text in options.set]
    namers = [option for option, settings in given if names_sources(settings)]

    base: dict[str, Any] = {}
    if options.labelled or options.faces:
        if not (options.labelled and options.faces):
            raise MienError("--labelled and --faces go together: give both")
        if namers:
            raise MienError(
                "--labelled and --faces name the faces, and so does prepare.sources in "
                f"{namers[-1]}: leave one of them out"
            )
        if options.data:
            raise MienError(
                "--data is where the paths of prepare.sources start; --labelled and --faces name "
                "whole folders: leave --data out"
            )
        base = folder_sources(options.labelled, options.faces, options.test, options.find_faces)
    elif options.test or options.find_faces:
        raise MienError("--test and --find-faces need --labelled and --faces")
    elif not namers:  # What came with a later version, an earlier run has not named.
        base = workspace_params(options.out) or {}
    settings = complete_params(functools.reduce(merge, [each for _, each in given], base))
    if options.data and not relative_sources(settings):
        raise MienError(
            "--data is where the paths of prepare.sources start, and no source has a path that "
            "does not start at / already: leave --data out, or name sources with --params"
        )
    if not (base or namers) and all_drawn(settings):
        print(
            f"no faces are named, and {options.out} holds no earlier run: this one learns from "
            "drawn faces (--labelled and --faces name yours)",
            flush=True,
        )
    return settings


def _card(options: argparse.Namespace) -> None:
    from mien.serving.package import find_package

    path = find_package(Path(), options.model) / "card.md"
    if not path.is_file():
        raise MienError(f"{path}: no such file; name a packaged model with --model")
    print(path.read_text(encoding="utf-8"))


def _promote(options: argparse.Namespace) -> None:
    from mien.promotion import commands

    commands.promote(options.workspace, options.trained or options.workspace)


def _rollback(options: argparse.Namespace) -> None:
    from mien.promotion import commands

    commands.rollback(options.workspace, options.reason, options.to)


def _releases(options: argparse.Namespace) -> None:
    from mien.promotion import commands

    commands.show_releases(options.workspace)


def _predict(options: argparse.Namespace) -> None:
    from mien.serving.predict import run

    run(options)


def _stop(signum: int, frame: object) -> NoReturn:
    """SIGTERM as an exception, so that the running stage is ended, too."""
    sys.exit(128 + signum)
