"""What the data must satisfy before anything is learned from them, as Great Expectations suites.

Three tables are looked at: the faces of the manifest, the counts by expression, and the intake
(every picture seen, with what became of it). Rules that compare rows with each other (nobody on
both sides of a split) are computed here as columns that name the culprit, and must be null: a
failing row then says what it collides with.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from mien.data.duplicates import near_duplicates
from mien.data.manifest import COLUMNS, people
from mien.params import OTHER
from mien.params.faces import ValidateSettings

if TYPE_CHECKING:
    from great_expectations.data_context import EphemeralDataContext
    from great_expectations.expectations.expectation import Expectation

UNUSABLE = ("unreadable", "no_face")
"""Kinds of quarantined pictures that say something is wrong with the data."""
EXAMPLES = 10
"""Offending rows that are shown for each check."""


@dataclass(frozen=True)
class Offence:
    """A row that breaks an expectation: where it is, and the value that does it."""

    where: str
    value: str


@dataclass(frozen=True)
class Check:
    """One expectation and how it ended."""

    title: str
    passed: bool
    seen: int
    """Rows looked at."""
    failing: int
    """Rows that break the expectation; some may be allowed to."""
    allowed: float
    """Share of the rows that may break it."""
    examples: tuple[Offence, ...]
    expectation: str
    """Its type in Great Expectations."""


# --- the tables ---------------------------------------------------------------------------------


def face_table(manifest: pd.DataFrame, faces: NDArray[np.uint8], bits: int) -> pd.DataFrame:
    """The manifest with what each face collides with on another side of a split, else null.

    The sides are: training with unlabelled, validation, test. New columns: ``shared_identity``,
    ``shared_face``, ``near_duplicate``; people of different sources are different people.

    Args:
        manifest: as `read_manifest` gives it.
        faces: the store, uint8 ``[N, S, S]``.
        bits: see `near_duplicates`.
    """
    side = manifest["split"].replace({"none": "train"})
    near = near_duplicates(manifest, faces, bits)["near"]
    return manifest.assign(
        shared_identity=_shared(people(manifest), side),
        shared_face=_shared(manifest["face_id"].str.slice(stop=16), side),
        near_duplicate=near.astype(object).reindex(manifest.index),
    )


def _shared(key: pd.Series, side: pd.Series) -> pd.Series:
    """Where a key stands on several sides: the key and its sides, else null."""
    known = key.notna()
    sides = side[known].groupby(key[known])
    shared = sides.nunique().loc[lambda count: count > 1].index
    names = {name: f"{name} in {', '.join(sorted(set(sides.get_group(name))))}" for name in shared}
    return key.map(names).astype(object)


def expression_table(manifest: pd.DataFrame, expressions: Sequence[str]) -> pd.DataFrame:
    """Labelled training faces of each expression: ``expression``, ``faces``."""
    labels = manifest.loc[manifest["split"].eq("train"), "label"]
    counts = labels.value_counts().reindex(list(expressions), fill_value=0)
    return pd.DataFrame({"expression": list(expressions), "faces": counts.to_numpy()})


def intake_table(manifest: pd.DataFrame, quarantine: pd.DataFrame) -> pd.DataFrame:
    """Every picture seen: ``source``, ``path``, ``kind`` (``kept`` or the quarantine's).

    Of a photo's faces, ``photo.jpg#1`` and so on, the first stands for it.
    """
    kept = manifest[["source", "path"]].assign(kind="kept", reason="")
    table = pd.concat([kept, quarantine[list(kept)]], ignore_index=True)
    parts = table["path"].str.extract(r"(?s)^(.*)#(\d+)$")
    photo, first = table["source"] + "/" + parts[0], parts[1].eq("1")
    return table[first | ~photo.isin(photo[first])].reset_index(drop=True)


# --- the expectations ---------------------------------------------------------------------------


def validate_data(
    manifest: pd.DataFrame,
    quarantine: pd.DataFrame,
    faces: NDArray[np.uint8],
    *,
    expressions: Sequence[str],
    settings: ValidateSettings,
    near_duplicate_bits: int,
    data_docs: Path,
) -> list[Check]:
    """Hold the data against every expectation, and write Great Expectations' Data Docs.

    Args:
        manifest: as `read_manifest` gives it.
        quarantine: as `read_quarantine` gives it.
        faces: the store, uint8 ``[N, S, S]``.
        expressions: the labels in use.
        settings: the limits.
        near_duplicate_bits: as in ``prepare``; -1 leaves that check to pass.
        data_docs: an existing folder for the Data Docs.

    Returns:
        One check per expectation, in the order of the suites. A failed one raises nothing.
    """
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")  # read when the package is imported
    import great_expectations as gx

    context = gx.get_context(mode="ephemeral")
    _quieten(context, data_docs)
    tables = {
        "faces": (face_table(manifest, faces, near_duplicate_bits), "path"),
        "expressions": (expression_table(manifest, expressions), "expression"),
        "intake": (intake_table(manifest, quarantine), "path"),
    }
    suites = {
        "faces": _face_expectations(expressions, settings),
        "expressions": _expression_expectations(settings),
        "intake": _intake_expectations(settings),
    }
    checks: list[Check] = []
    source = context.data_sources.add_pandas("mien")
    for name, (table, key) in tables.items():
        suite = context.suites.add(gx.ExpectationSuite(name=name, expectations=list(suites[name])))
        batch = source.add_dataframe_asset(name).add_batch_definition_whole_dataframe(name)
        definition = context.validation_definitions.add(
            gx.ValidationDefinition(name=name, data=batch, suite=suite)
        )
        names = [column for column in ("source", key) if column in table]
        result = definition.run(
            batch_parameters={"dataframe": table},
            result_format={
                "result_format": "SUMMARY",
                "unexpected_index_column_names": names,
                "partial_unexpected_count": EXAMPLES,
            },
        )
        checks += [_check(outcome.to_json_dict(), len(table)) for outcome in result.results]
    context.build_data_docs(site_names=["local_site"])
    return checks


def _face_expectations(
    expressions: Sequence[str], settings: ValidateSettings
) -> "Iterator[Expectation]":
    import great_expectations.expectations as gxe

    tolerated = 1 - settings.max_out_of_range_share
    yield gxe.ExpectTableColumnsToMatchSet(
        column_set=list(COLUMNS), exact_match=False, description="The manifest has all its columns"
    )
    yield gxe.ExpectTableRowCountToBeBetween(min_value=1, description="There are faces")
    for column in ("face_id", "source", "path", "role", "split", "phash", "row"):
        yield gxe.ExpectColumnValuesToNotBeNull(
            column=column, description=f"Every face has its {column}"
        )
    yield gxe.ExpectColumnValuesToBeInSet(
        column="role",
        value_set=["labelled", "unlabelled", "test"],
        description="role is labelled, unlabelled or test",
    )
    yield gxe.ExpectColumnValuesToBeInSet(
        column="split",
        value_set=["train", "validation", "test", "none"],
        description="split is train, validation, test or none",
    )
    yield gxe.ExpectColumnValuesToBeInSet(
        column="label", value_set=list(expressions), description="Labels are known expressions"
    )
    yield gxe.ExpectColumnValuesToBeInSet(
        column="true_label",
        value_set=[*expressions, OTHER],
        description=f"True labels are known expressions, or {OTHER}",
    )
    yield gxe.ExpectColumnValuesToNotBeNull(
        column="label",
        row_condition='split != "none"',
        condition_parser="pandas",
        description="Every training, validation and test face has a label",
    )
    yield gxe.ExpectColumnValuesToBeNull(
        column="label",
        row_condition='split == "none"',
        condition_parser="pandas",
        description="No unlabelled face has a label",
    )
    for column in ("face_id", "row"):
        yield gxe.ExpectColumnValuesToBeUnique(
            column=column, description=f"No two faces have the same {column}"
        )
    yield gxe.ExpectCompoundColumnsToBeUnique(
        column_list=["source", "path"], description="No two faces have the same source and path"
    )
    for column, description in {
        "shared_identity": "No person is on two sides of a split",
        "shared_face": "No picture is on two sides of a split",
        "near_duplicate": "No training or unlabelled face nearly repeats a held-out one",
    }.items():
        yield gxe.ExpectColumnValuesToBeNull(column=column, description=description)
    low, high = settings.brightness
    yield gxe.ExpectColumnValuesToBeBetween(
        column="brightness",
        min_value=low,
        max_value=high,
        mostly=tolerated,
        description=f"Mean grey level from {low:g} to {high:g} (validate.brightness)",
    )
    yield gxe.ExpectColumnValuesToBeBetween(
        column="contrast",
        min_value=settings.min_contrast,
        mostly=tolerated,
        description=f"Contrast (standard deviation of grey levels) of {settings.min_contrast:g} up "
        "(validate.min_contrast)",
    )


def _expression_expectations(settings: ValidateSettings) -> "Iterator[Expectation]":
    import great_expectations.expectations as gxe

    least = settings.min_faces_per_expression
    yield gxe.ExpectColumnValuesToBeBetween(
        column="faces",
        min_value=least,
        description=f"At least {least} labelled training faces for each expression "
        "(validate.min_faces_per_expression)",
    )


def _intake_expectations(settings: ValidateSettings) -> "Iterator[Expectation]":
    import great_expectations.expectations as gxe

    share = settings.max_quarantine_share
    yield gxe.ExpectColumnValuesToNotBeInSet(
        column="kind",
        value_set=list(UNUSABLE),
        mostly=1 - share,
        description=f"At most {share:.1%} of the pictures seen are unreadable or show no face "
        "(validate.max_quarantine_share)",
    )


# --- dealing with Great Expectations -------------------------------------------------------------


def _quieten(context: "EphemeralDataContext", data_docs: Path) -> None:
    """No progress bars, and Data Docs in our folder instead of a temporary one."""
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context.variables.progress_bars = ProgressBarsConfig(globally=False, metric_calculations=False)
    context.update_data_docs_site(
        "local_site",
        {
            "class_name": "SiteBuilder",
            "show_how_to_buttons": False,
            "store_backend": {
                "class_name": "TupleFilesystemStoreBackend",
                "base_directory": str(data_docs.resolve()),
            },
            "site_index_builder": {"class_name": "DefaultSiteIndexBuilder"},
        },
    )


def _check(outcome: dict[str, Any], rows: int) -> Check:
    """A `Check` from one expectation's result in JSON."""
    configuration, result = outcome["expectation_config"], outcome["result"]
    error = outcome.get("exception_info", {})
    crashed = [e["exception_message"] for e in _exceptions(error)]
    failing = result.get("unexpected_count", 0 if outcome["success"] else rows)
    return Check(
        title=configuration["description"],
        passed=outcome["success"],
        seen=result.get("element_count", rows),
        failing=failing,
        allowed=round(1 - configuration["kwargs"].get("mostly", 1.0), 6),
        examples=tuple(_offences(result)) or tuple(Offence("", text) for text in crashed),
        expectation=configuration["type"],
    )


def _exceptions(info: dict[str, Any]) -> list[dict[str, Any]]:
    """Great Expectations gives one exception, or one for each metric."""
    found = [info] if "raised_exception" in info else list(info.values())
    return [one for one in found if one.get("raised_exception")]


def _offences(result: dict[str, Any]) -> Iterator[Offence]:
    for row in result.get("partial_unexpected_index_list") or []:
        places = [str(row[key]) for key in ("source", "path", "expression") if key in row]
        values = [str(row[key]) for key in row if key not in ("source", "path", "expression")]
        yield Offence("/".join(places), ", ".join(values))
