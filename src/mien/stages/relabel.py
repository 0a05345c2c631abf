"""Stage `relabel`: accept or reject each pseudo-label; the updated training set."""

from pathlib import Path

import numpy as np
import pandas as pd

from mien.data.dataset import open_faces
from mien.data.manifest import read_manifest
from mien.errors import MienError
from mien.evaluation.pictures import write_contact_sheet
from mien.files import replacing_file, write_json
from mien.learning.pseudo_labels import PseudoLabels, accept, audit
from mien.params import Params
from mien.stages._run import run_stage


def main(
    params: Params,
    *,
    manifest: Path,
    faces: Path,
    assignments: Path,
    training_set: Path,
    report: Path,
    metrics: Path,
) -> None:
    """Accept or reject the pseudo-labels and write the updated training set."""
    table = read_manifest(manifest)
    rows = pd.read_parquet(assignments)
    pseudo = accept(rows, params.expressions, params.relabel)
    if not pseudo.accepted.any():
        raise MienError(
            "params.yaml: relabel: no face passes these floors; lower min_posterior, min_margin "
            "or min_purity, or raise coverage"
        )
    truth = table.set_index("face_id")["true_label"].reindex(rows["face_id"])
    figures = audit(pseudo, truth, params.expressions)
    with replacing_file(training_set) as temporary:
        updated_set(table, rows, pseudo, params.expressions).to_parquet(temporary, index=False)
    draw_accepted(report / "pseudo_labels.png", rows, pseudo, open_faces(faces), params.expressions)
    write_json(metrics, figures)
    print(summary(figures), flush=True)


def updated_set(
    manifest: pd.DataFrame, rows: pd.DataFrame, pseudo: PseudoLabels, expressions: list[str]
) -> pd.DataFrame:
    """Labelled training faces (weight 1) and accepted ones: face_id, row, label, weight, origin."""
    labelled = manifest[(manifest["split"] == "train") & manifest["label"].notna()]
    true = labelled[["face_id", "row", "label"]].assign(weight=1.0, origin="labelled")
    names = np.asarray(expressions, dtype=object)[pseudo.labels]
    found = rows[["face_id", "row"]].assign(label=names, weight=pseudo.weights, origin="pseudo")
    return pd.concat([true, found[pseudo.accepted]], ignore_index=True)


def draw_accepted(
    path: Path, rows: pd.DataFrame, pseudo: PseudoLabels, store: np.ndarray, expressions: list[str]
) -> None:
    """Contact sheet: for each expression the surest and the least sure faces that were accepted."""
    sheet = []
    for index, name in enumerate(expressions):
        own = np.flatnonzero(pseudo.accepted & (pseudo.labels == index))
        order = own[np.argsort(-pseudo.weights[own], kind="stable")]
        places = rows["row"].to_numpy()
        sheet.append((f"{name}\nsurest", store[places[order[:16]]]))
        sheet.append((f"{name}\nleast sure", store[places[order[::-1][:16]]]))
    write_contact_sheet(path, sheet, columns=16)


def summary(figures: dict[str, object]) -> str:
    """One line for people."""
    line = f"relabel: {figures['accepted']} of {figures['faces']} faces accepted"
    if (precision := figures["precision"]) is not None:
        line += f", {precision:.1%} of those of known truth rightly"
    return line


if __name__ == "__main__":
    run_stage(main)
