"""Stage ``package``: the deployable, calibrated and checked, with its card and drift reference."""

import importlib.metadata
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.numpy import save_file
from scipy.special import softmax

from mien import packaging
from mien.data.dataset import Faces, labelled_rows, open_faces, to_input
from mien.data.manifest import read_manifest
from mien.evaluation.calibration import Calibration, calibrate
from mien.evaluation.card import build_card, render_card
from mien.evaluation.measures import Json
from mien.files import read_json, replacing_folder, write_json, write_text
from mien.learning.embedding import embed_faces
from mien.model.cost import count_cost
from mien.model.export import Deployable, check_parity, export_onnx
from mien.model.runtime import measure_latency, open_session
from mien.model.weights import Trained, load_weights
from mien.params import Params
from mien.stages._run import run_stage


def main(
    params: Params,
    *,
    manifest: Path,
    faces: Path,
    final: Path,
    evaluation: Path,
    audit: Path,
    lock: Path,
    package: Path,
    metrics: Path,
) -> None:
    """Export, calibrate and describe the final model, and register it in the model store."""
    settings = params.package
    lock_hash = packaging.hash_lock(lock)
    table, store = read_manifest(manifest), open_faces(faces)
    trained, results = load_weights(final), read_json(evaluation)
    if params.compute.threads:
        torch.set_num_threads(params.compute.threads)

    validation = labelled_rows(table, params.expressions, "validation")
    logits = embed_faces(trained.model, store, validation.rows).logits
    calibration = calibrate(logits, validation.labels, settings.abstention_risk)
    temperature = calibration.temperature if calibration else 1.0
    if calibration is None:
        print("no validation faces: the confidence is not calibrated", flush=True)

    with replacing_folder(package) as folder:
        shutil.copy(final, folder / packaging.WEIGHTS)
        cost = export(folder, trained, temperature, table, store, params)
        write_reference(folder, trained, temperature, table, store, params)
        threshold = calibration.abstention.threshold if calibration else 0.0
        metadata: Json = {
            "name": settings.name,
            "version": packaging.make_version(folder, threshold, lock_hash),
            "expressions": params.expressions,
            "image_size": trained.image_size,
            "embedding_size": trained.model.embedding_size,
            "temperature": temperature,
            "abstention_threshold": threshold,
            "accuracy": {name: each["final"]["accuracy"] for name, each in results.items()},
            "lock": lock_hash,
            "commit": packaging.find_commit(),
            "mien": importlib.metadata.version("mien"),
        }
        write_json(folder / packaging.METADATA, metadata)
        write_json(folder / packaging.LABELS, params.expressions)
        card = build_card(
            metadata=metadata,
            model=trained.settings,
            calibration=calibration,
            cost=cost,
            manifest=table,
            evaluation=results,
            audit=read_json(audit),
            params=params,
        )
        write_json(folder / packaging.CARD, card)
        write_text(folder / packaging.CARD_TEXT, render_card(card))

    tag = packaging.register(package, settings.name)
    write_json(metrics, summarise(tag, calibration, cost))
    print(f"model store: {tag}", flush=True)


def export(
    folder: Path,
    trained: Trained,
    temperature: float,
    table: pd.DataFrame,
    store: Faces,
    params: Params,
) -> Json:
    """Write the ONNX file, check it against PyTorch, and say what it costs."""
    path, settings = folder / packaging.ONNX, params.package
    deployable = Deployable(trained.model, temperature)
    export_onnx(path, deployable, trained.image_size, params.expressions)
    session = open_session(path)
    rows = packaging.draw_reference(table, settings.parity_faces, params.seed)["row"].to_numpy()
    checked = to_input(store[rows])
    cost = count_cost(trained.model, trained.image_size)
    return {
        "parameters": cost.parameters,
        "multiply_adds": cost.macs,
        "onnx_bytes": path.stat().st_size,
        "parity_difference": check_parity(session, deployable, checked, settings.parity_tolerance),
        "parity_faces": len(rows),
        "latency_ms": measure_latency(session, checked[:1]),
        "latency_conditions": "ONNX Runtime, one CPU thread of the machine that packaged it",
    }


def write_reference(
    folder: Path,
    trained: Trained,
    temperature: float,
    table: pd.DataFrame,
    store: Faces,
    params: Params,
) -> None:
    """Write the drift reference and the projection that made its components."""
    drawn = packaging.draw_reference(table, params.package.reference_faces, params.seed)
    embedded = embed_faces(trained.model, store, drawn["row"].to_numpy())
    projection = packaging.fit_projection(embedded.embeddings, params.package.components)
    save_file(projection, folder / packaging.PROJECTION)
    packaging.describe_reference(
        drawn,
        softmax(embedded.logits.astype(np.float64) / temperature, axis=1),
        embedded.embeddings,
        params.expressions,
        projection,
    ).to_parquet(folder / packaging.REFERENCE, index=False)


def summarise(tag: str, calibration: Calibration | None, cost: Json) -> Json:
    """The stage's metrics."""
    return {
        "tag": tag,
        "parity_difference": cost["parity_difference"],
        "size_bytes": cost["onnx_bytes"],
        "latency_ms": cost["latency_ms"],
        "temperature": calibration.temperature if calibration else 1.0,
        "validation_ece_before": calibration.ece_before if calibration else None,
        "validation_ece_after": calibration.ece_after if calibration else None,
    }


if __name__ == "__main__":
    run_stage(main)
