"""What a stage left, as artifacts in Prefect: figures, pictures, verdict, links to reports.

Everything is read from the outputs that DVC names for the stage; no stage is known here by name.
"""

import base64
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_table_artifact,
)

from mien.files import read_json
from mien.pipeline import Pipeline, flatten
from mien.workspace import all_drawn
from mien.yaml_files import read_yaml

SERVED = {"": Path("reports"), "monitoring/": Path("monitoring", "windows")}
"""Folders of a workspace in which `make ui` shows pages, by how their addresses begin."""
_MIME = {".svg": "image/svg+xml", ".png": "image/png"}
_WIDEST = 1600
"""Pixels; wider pictures of faces are made smaller, for Prefect keeps them in its database."""
_LARGEST = 1_000_000
"""Bytes; Prefect publishes no event over 1.5 MB, and a picture's holds all of it, in base64."""


def publish(pipeline: Pipeline, stage: str, show_faces: bool) -> None:
    """Create the artifacts of a stage that has run.

    Args:
        pipeline: of the workspace.
        stage: its name.
        show_faces: also the pictures in which people can be seen.
    """
    for output in pipeline.outputs(stage):
        if output.suffix == ".json" and output.is_file():
            _publish_figures(stage, read_json(output))
        elif output.is_dir():
            for picture in sorted(output.iterdir()):
                # What is drawn from figures is SVG; what shows faces is PNG.
                if picture.suffix == ".svg" or (picture.suffix == ".png" and show_faces):
                    create_image_artifact(
                        _data_uri(picture),
                        key=_key(stage, picture.stem),
                        description=f"{picture.relative_to(pipeline.root)}",
                    )
            if (page := output / "index.html").is_file():
                create_link_artifact(
                    address(pipeline.root, page),
                    key=_key(stage, "report"),
                    description=f"{page.relative_to(pipeline.root)}",
                )


def has_measured(pipeline: Pipeline, stage: str, since: float) -> bool:
    """Whether a stage has written its figures after ``since`` (seconds of the epoch).

    A failed validation has, and says there what is wrong. Figures of an earlier run, which DVC
    never came to remove, tell nothing of this one.
    """
    return any(
        output.suffix == ".json" and output.is_file() and output.stat().st_mtime >= since
        for output in pipeline.outputs(stage)
    )


def shows_no_people(root: Path) -> bool:
    """Whether all faces are drawn, so that pictures of them are nobody's."""
    return all_drawn(read_yaml(root / "params.yaml"))


def _publish_figures(stage: str, metrics: Mapping[str, Any]) -> None:
    if "success" in metrics and "checks" in metrics:
        create_markdown_artifact(
            verdict(metrics), key=_key(stage, "verdict"), description="Is the data fit to learn?"
        )
        if rows := list(failing_rows(metrics)):
            create_table_artifact(
                rows,
                key=_key(stage, "failing-rows"),
                description="Rows that break a check, the first of each",
            )
    figures = {
        key: value
        for key, value in flatten(metrics).items()
        if isinstance(value, int | float | str) or value is None
    }
    create_table_artifact(
        [{"measure": key, "value": _short(value)} for key, value in figures.items()],
        key=_key(stage, "metrics"),
        description=f"What '{stage}' measured",
    )


def verdict(metrics: Mapping[str, Any]) -> str:
    """A validation's outcome in words (Markdown)."""
    checks = f"{metrics['checks']} checks of {metrics['faces']:,} faces"
    if metrics["success"]:
        return f"**Passed**: all {checks}."
    failed = metrics["failed"]
    broken = [
        f"- {title}: {check['failing']:,} of {check['seen']:,} rows break this"
        for title, check in failed.items()
    ]
    return "\n".join([f"**Failed**: {len(failed)} of {checks}.\n", *broken])


def failing_rows(metrics: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows that a validation names, each with the check that it breaks; a check of the whole
    table names none and has one empty row."""
    for title, check in metrics["failed"].items():
        counts = {"check": title, "failing": check["failing"], "seen": check["seen"]}
        for offence in check["rows"] or [{"where": "", "value": ""}]:
            yield {**counts, "row": offence["where"], "value": offence["value"]}


def _short(value: Any) -> Any:
    return f"{value:.4g}" if isinstance(value, float) else value


def _key(stage: str, what: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", f"{stage}-{what}".lower()).strip("-")


def address(root: Path, page: Path) -> str:
    """Where a browser finds a page: at `make ui`'s own address, or as a file."""
    served, folder = os.environ.get("MIEN_REPORTS_URL"), os.environ.get("MIEN_REPORTS_ROOT")
    if served and folder and root == Path(folder).resolve():
        for name, inside in SERVED.items():
            if page.is_relative_to(root / inside):
                return f"{served}/{name}{page.relative_to(root / inside)}"
    return page.as_uri()


def _data_uri(picture: Path) -> str:
    content, mime = picture.read_bytes(), _MIME[picture.suffix]
    if picture.suffix == ".png":
        content, mime = _smaller(picture), "image/jpeg"
    return f"data:{mime};base64,{base64.b64encode(content).decode()}"


def _smaller(picture: Path) -> bytes:
    import io

    from PIL import Image

    with Image.open(picture) as image:
        shown = image.convert("RGB")
    size = float(_WIDEST)
    while True:
        shown.thumbnail((size, size * 4))
        buffer = io.BytesIO()
        shown.save(buffer, "JPEG", quality=80)
        if buffer.tell() <= _LARGEST:
            return buffer.getvalue()
        size = 0.9 * max(shown.width, shown.height / 4)
