"""How well drift is detected: false alarms on undrifted windows, detection of ten kinds of drift.

Faces are drawn afresh, of people whom no model has seen, degraded in their pixels, and put through
the packaged network; windows are random draws from them. Beside the verdict stands Evidently's
data-drift preset with its default settings on the very same windows.

    python benchmarks/drift.py --package runs/…/models/package

Writes `benchmarks/results/drift.json` and `docs/images/drift.png`.
"""

import argparse
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _results import FOLDER, machine, write_result
from safetensors.numpy import load_file

from mien import packaging
from mien.data.manifest import measure
from mien.data.synthetic import render, synthetic_table
from mien.evaluation.degradations import DEGRADATIONS
from mien.monitoring.log import Window
from mien.monitoring.reference import Reference, read_reference
from mien.monitoring.verdict import judge
from mien.params import load_params
from mien.params.faces import SyntheticSource
from mien.params.service import MonitoringSettings

SIZES = (100, 300, 1000)
UNDRIFTED, PAIRS = 200, 10
PRESET_UNDRIFTED, PRESET_WINDOWS = 60, 3
POOL, DRIFTED_POOL, SEED = 12_000, 3_000, 4242
MIX = {"slight": 0.25, "clear": 0.5, "strong": 0.8}
"""Share of the faces that are replaced by happy ones, in each strength."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--package", type=Path, required=True, metavar="DIR")
    package = parser.parse_args().package
    settings = load_params(Path("params.yaml")).monitoring
    reference = read_reference(package)
    network = Network(package, reference)
    started = time.perf_counter()
    faces, shown = draw(POOL, reference.expressions)
    pool = network.describe(faces)
    print(f"{POOL} faces drawn and judged, {time.perf_counter() - started:.0f} s", flush=True)

    rng = np.random.default_rng(SEED)
    undrifted = list(false_alarms(pool, reference, settings, rng))
    drifted: list[dict[str, Any]] = []
    for kind, strength, described in degraded(network, faces, shown):
        drifted += detections(kind, strength, described, reference, settings, rng)
        print(f"{kind}, {strength}, {time.perf_counter() - started:.0f} s", flush=True)
    write_result(
        "drift",
        {
            "settings": settings.model_dump(),
            "model": reference.version,
            "windows": {"undrifted": UNDRIFTED, "pairs_of_drifted": PAIRS},
            "preset_windows": {"undrifted": PRESET_UNDRIFTED, "drifted": PRESET_WINDOWS},
            "undrifted": undrifted,
            "drifted": drifted,
            "seed": SEED,
            "machine": machine(),
        },
    )
    plot(drifted, FOLDER.parents[1] / "docs" / "images" / "drift.png")


class Network:
    """The packaged network, and what the log says of a face."""

    def __init__(self, package: Path, reference: Reference) -> None:
        self.package = package
        self.projection = load_file(package / packaging.PROJECTION)
        self.reference = reference

    def describe(self, faces: np.ndarray) -> pd.DataFrame:
        """The columns of the reference for faces ``[n, S, S]``."""
        probabilities, embeddings = packaging.predict(self.package, faces)
        table = measure(faces).assign(face_id="", width=faces.shape[2], height=faces.shape[1])
        described = packaging.describe_reference(
            table, probabilities, embeddings, self.reference.expressions, self.projection
        )
        described["face_size"] = np.float32(faces.shape[1])
        return described.rename(columns={"predicted": "expression"})[
            list(self.reference.faces.columns)
        ]


def draw(count: int, expressions: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """Faces like those of the reference, of new people; and what each shows."""
    source = SyntheticSource(
        name="new", kind="synthetic", seed=SEED, labelled=7, validation=7, test=count, unlabelled=0
    )
    table = synthetic_table(source, expressions)
    table = table[table["role"] == "test"]
    paths, labels = table["path"].tolist(), table["label"].tolist()
    return render(paths, labels, seed=SEED, size=48), np.array(labels, dtype=object)


def degraded(
    network: Network, faces: np.ndarray, shown: np.ndarray
) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """Each kind and strength, and what the network says of faces that are so."""
    some = faces[-DRIFTED_POOL:]
    for kind, changes in DEGRADATIONS.items():
        for strength, change in changes.items():
            yield kind, strength, network.describe(change(some))
    described = network.describe(some)
    happy = np.flatnonzero(shown[-DRIFTED_POOL:] == "happy")
    rng = np.random.default_rng(SEED)
    for strength, share in MIX.items():
        rows = np.arange(DRIFTED_POOL)
        replaced = rng.random(DRIFTED_POOL) < share
        rows[replaced] = rng.choice(happy, int(replaced.sum()))
        yield "other mix", strength, described.iloc[rows]


def window(pool: pd.DataFrame, size: int, rng: np.random.Generator) -> Window:
    """A random draw of faces, one a picture."""
    rows = pool.iloc[rng.choice(len(pool), size, replace=False)].reset_index(drop=True)
    return Window(
        rows,
        pictures=size,
        photos=size,
        photos_without_face=0,
        unfamiliar=0,
        start=None,
        end=None,
        files=1,
    )


def false_alarms(
    pool: pd.DataFrame,
    reference: Reference,
    settings: MonitoringSettings,
    rng: np.random.Generator,
) -> Iterator[dict[str, Any]]:
    """Windows without drift, one after the other."""
    for size in SIZES:
        bad, with_findings, alarms, preset = 0, 0, 0, 0
        names: dict[str, int] = {}
        for number in range(UNDRIFTED):
            rows = window(pool, size, rng)
            verdict = judge(rows, reference, settings, bad)
            bad = verdict.bad_windows
            with_findings += bool(verdict.drifted)
            alarms += verdict.status == "drift"
            for each in verdict.drifted:
                names[each.name] = names.get(each.name, 0) + 1
            if number < PRESET_UNDRIFTED:
                preset += preset_says_drift(rows, reference)
        found = {
            "size": size,
            "share_with_findings": with_findings / UNDRIFTED,
            "share_of_alarms": alarms / UNDRIFTED,
            "found": names,
            "preset_share_of_alarms": preset / PRESET_UNDRIFTED,
        }
        print(found, flush=True)
        yield found


def detections(
    kind: str,
    strength: str,
    described: pd.DataFrame,
    reference: Reference,
    settings: MonitoringSettings,
    rng: np.random.Generator,
) -> Iterator[dict[str, Any]]:
    """Pairs of drifted windows: is it called drift by the end of the second?"""
    for size in SIZES:
        alarms, first, preset, severities = 0, 0, 0, []
        for number in range(PAIRS):
            rows = [window(described, size, rng) for _ in range(2)]
            one = judge(rows[0], reference, settings, 0)
            two = judge(rows[1], reference, settings, one.bad_windows)
            first += bool(one.drifted)
            alarms += "drift" in (one.status, two.status)
            severities.append(one.severity)
            if number < PRESET_WINDOWS:
                preset += preset_says_drift(rows[0], reference)
        yield {
            "kind": kind,
            "strength": strength,
            "size": size,
            "alarm_within_two_windows": alarms / PAIRS,
            "found_in_the_first": first / PAIRS,
            "mean_severity": float(np.mean(severities)),
            "preset_alarm": preset / PRESET_WINDOWS,
        }


def preset_says_drift(rows: Window, reference: Reference) -> bool:
    """Evidently's default: at least half of the columns drifted, each by its default method."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.metrics import DriftedColumnsCount

    definition = DataDefinition(
        numerical_columns=reference.numbers, categorical_columns=["expression"]
    )
    sides = [Dataset.from_pandas(each, definition) for each in (rows.faces, reference.faces)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        snapshot = Report([DriftedColumnsCount()]).run(*sides)
    return bool(snapshot.dict()["metrics"][0]["value"]["share"] >= 0.5)


def plot(drifted: list[dict[str, Any]], path: Path) -> None:
    """Detection rates, a square for each kind, strength and size; ours beside the preset's."""
    import matplotlib.pyplot as plt

    kinds = list(dict.fromkeys(each["kind"] for each in drifted))
    columns = [(strength, size) for strength in MIX for size in SIZES]
    figure, axes = plt.subplots(1, 2, figsize=(11, 5), sharey=True, layout="constrained")
    titles = ("Mien's verdict, within two windows", "Evidently's preset, defaults, one window")
    for axis, key, title in zip(
        axes, ("alarm_within_two_windows", "preset_alarm"), titles, strict=True
    ):
        rates = {(e["kind"], e["strength"], e["size"]): e[key] for e in drifted}
        grid = np.array([[rates[kind, *column] for column in columns] for kind in kinds])
        shown = axis.imshow(grid, vmin=0, vmax=1, cmap="viridis", aspect="auto")
        for (row, column), rate in np.ndenumerate(grid):
            colour = "black" if rate > 0.6 else "white"
            text = f"{100 * rate:.0f}"
            axis.text(column, row, text, ha="center", va="center", color=colour, fontsize=8)
        axis.set_title(title)
        axis.set_xticks(range(len(columns)), [f"{size}\n{s}" for s, size in columns], fontsize=7)
        axis.set_yticks(range(len(kinds)), kinds)
        axis.set_xlabel("faces in the window, strength of the drift")
    figure.colorbar(shown, ax=axes, label="share of windows called drift")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)


if __name__ == "__main__":
    main()
