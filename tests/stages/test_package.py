"""The stage `package`: what the folder holds, what the model store holds, what is refused."""

import json
import shutil
from pathlib import Path

import bentoml
import numpy as np
import onnxruntime
import pandas as pd
import pytest
import yaml
from safetensors.numpy import load_file
from scipy.special import softmax

from mien import packaging
from mien.data.dataset import labelled_rows, to_tensor
from mien.data.manifest import read_manifest, write_manifest
from mien.errors import MienError
from mien.evaluation.card import find_empty
from mien.files import write_json
from mien.learning.embedding import embed_faces
from mien.model.weights import load_weights
from mien.pipeline import flatten
from mien.results import champion
from mien.stages.package import main


def _run(params, folder):
    main(
        params,
        manifest=folder / "manifest.parquet",
        faces=folder / "faces.npy",
        final=folder / "finetune.safetensors",
        evaluation=folder / "evaluate.json",
        audit=folder / "relabel.json",
        lock=folder / "dvc.lock",
        package=folder / "package",
        metrics=folder / "package.json",
    )


@pytest.fixture(scope="module")
def packaged(params, evaluated, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("packaged") / "work"
    shutil.copytree(evaluated, folder)
    _run(params, folder)
    return folder


def _json(path):
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_folder_is_whole(params, packaged):
    assert {path.name for path in (packaged / "package").iterdir()} == {
        "model.onnx",
        "weights.safetensors",
        "labels.json",
        "metadata.json",
        "card.json",
        "card.md",
        "reference.parquet",
        "projection.safetensors",
    }
    assert _json(packaged / "package/labels.json") == params.expressions


def test_the_onnx_file_answers_calibrated(packaged):
    metadata = _json(packaged / "package/metadata.json")
    faces = to_tensor(np.load(packaged / "faces.npy")[:7]).numpy()
    session = onnxruntime.InferenceSession(packaged / "package/model.onnx")
    probabilities, logits, embedding = session.run(
        ["probabilities", "logits", "embedding"], {"faces": faces}
    )
    expected = softmax(logits / metadata["temperature"], axis=1)
    assert probabilities == pytest.approx(expected, abs=1e-6)
    assert embedding.shape == (7, metadata["embedding_size"])
    held = session.get_modelmeta().custom_metadata_map
    assert json.loads(held["expressions"]) == metadata["expressions"]


def test_the_threshold_keeps_its_promise(params, packaged):
    """Recomputed from the weights: coverage and risk on the validation faces."""
    card = _json(packaged / "package/card.json")
    table = read_manifest(packaged / "manifest.parquet")
    faces = labelled_rows(table, params.expressions, "validation")
    trained = load_weights(packaged / "package/weights.safetensors")
    logits = embed_faces(trained.model, np.load(packaged / "faces.npy"), faces.rows).logits
    chances = softmax(logits.astype(float) / card["calibration"]["temperature"], axis=1)
    abstention = card["calibration"]["abstention"]
    answered = chances.max(axis=1) >= abstention["threshold"]
    assert answered.mean() == pytest.approx(abstention["coverage"])
    wrong = chances.argmax(axis=1) != faces.labels
    assert wrong[answered].mean() == pytest.approx(abstention["risk"])


def test_the_card_is_whole_and_says_where_not_to_use_it(packaged):
    card = _json(packaged / "package/card.json")
    assert find_empty(card) == []
    assert card["training"]["pretrain"]["refinery"]["networks"] == "none"
    text = (packaged / "package/card.md").read_text(encoding="utf-8")
    assert "| First weights | random |" in text
    final = _json(packaged / "evaluate.json")["synthetic"]["final"]
    figures, calibration = _json(packaged / "package.json"), card["calibration"]
    errors = [calibration["ece_before"], calibration["ece_after"]]
    assert errors == [figures["validation_ece_before"], figures["validation_ece_after"]]
    assert errors[0] != errors[1]
    assert f"{final['accuracy']:.1%} ({final['intervals']['accuracy']['low']:.1%}" in text
    assert "Art. 5(1)(f)" in text
    assert card["data"]["labels_used"]["angry"] == 5
    assert card["data"]["unlabelled_used"] == 25
    assert card["pseudo_labels"]["precision"].startswith("not measured")
    assert card["cost"]["parameters"] > 0


def test_the_reference_is_held_out_first(packaged):
    reference = pd.read_parquet(packaged / "package/reference.parquet")
    table = read_manifest(packaged / "manifest.parquet").set_index("face_id")
    assert len(reference) == 40
    assert set(table.loc[reference["face_id"], "split"]) == {"validation", "test"}
    assert (
        reference["brightness"].tolist() == table.loc[reference["face_id"], "brightness"].tolist()
    )
    components = reference[["component_1", "component_2", "component_3"]].to_numpy()
    assert components.mean(axis=0) == pytest.approx(0, abs=1e-5)
    assert np.cov(components.T) == pytest.approx(np.diag(components.var(axis=0, ddof=1)), abs=1e-6)
    assert load_file(packaged / "package/projection.safetensors")["components"].shape == (3, 8)
    # its confidences are those that the service will give, or drift would be told without any
    rows = table.loc[reference["face_id"], "row"].to_numpy()
    faces = np.load(packaged / "faces.npy")[rows]
    chances, _ = packaging.predict(packaged / "package", faces)
    assert _json(packaged / "package/metadata.json")["temperature"] != pytest.approx(1, abs=0.05)
    assert reference["confidence"].to_numpy() == pytest.approx(chances.max(axis=1), abs=1e-5)


def test_the_store_holds_it_with_its_evidence(packaged):
    metrics = _json(packaged / "package.json")
    metadata = _json(packaged / "package/metadata.json")
    model = bentoml.models.get(metrics["tag"])
    assert str(model.tag) == f"mien:{metadata['version']}"
    assert (
        model.info.labels["lock"] == metadata["lock"] == packaging.hash_lock(packaged / "dvc.lock")
    )
    assert model.info.metadata["accuracy"] == metadata["accuracy"]
    stored = Path(model.path_of("model.onnx")).read_bytes()
    assert stored == (packaged / "package/model.onnx").read_bytes()


def test_a_champion_tells_with_what_settings_it_was_trained(params, packaged, tmp_path):
    """As dvc.lock writes them, with which they are compared."""
    tag = _json(packaged / "package.json")["tag"]
    write_json(tmp_path / "releases/champion.json", {"tag": tag})
    told = champion(tmp_path).settings
    ours = flatten(params.model_dump(mode="json"))
    assert told == {name: ours[name] for name in told}
    assert {"seed", "expressions", "model.widths", "pretrain.refinery.networks"} <= set(told)


def test_registering_twice_keeps_the_tag(packaged):
    before = {str(model.tag) for model in bentoml.models.list("mien")}
    tag = packaging.register(packaged / "package", "mien")
    assert tag == _json(packaged / "package.json")["tag"]
    assert {str(model.tag) for model in bentoml.models.list("mien")} == before


def test_a_package_made_again_leaves_the_model_in_the_store_alone(packaged, tmp_path):
    """Its card tells of another latency; the model went from the store, under a service perhaps."""
    folder = shutil.copytree(packaged / "package", tmp_path / "package")
    card = _json(folder / "card.json")
    card["cost"]["latency_ms"] = 0.5
    (folder / "card.json").write_text(json.dumps(card))
    stored = Path(bentoml.models.get(_json(packaged / "package.json")["tag"]).path)
    before = stored.stat().st_ino, (stored / "card.json").read_text()
    packaging.register(folder, "mien")
    assert (stored.stat().st_ino, (stored / "card.json").read_text()) == before


@pytest.mark.parametrize("lost", ["model.onnx", "card.json", "model.yaml"])
def test_what_a_killed_process_has_left_in_the_store_is_replaced(packaged, lost):
    tag = _json(packaged / "package.json")["tag"]
    path = Path(bentoml.models.get(tag).path)
    (path / lost).unlink()
    assert packaging.register(packaged / "package", "mien") == tag
    stored = {each.name for each in Path(bentoml.models.get(tag).path).iterdir()}
    assert stored == {"model.yaml", *(each.name for each in (packaged / "package").iterdir())}


def test_the_version_follows_from_what_answers_and_what_it_is_compared_with(packaged, tmp_path):
    folder = tmp_path / "package"
    shutil.copytree(packaged / "package", folder)
    metadata = _json(folder / "metadata.json")
    known = (metadata["abstention_threshold"], metadata["lock"])
    assert packaging.make_version(folder, *known) == metadata["version"]
    seen = {metadata["version"], packaging.make_version(folder, 0.123, metadata["lock"])}
    for name in ("reference.parquet", "projection.safetensors"):
        with (folder / name).open("ab") as file:
            file.write(b" ")
        seen.add(packaging.make_version(folder, *known))
    assert len(seen) == 4


@pytest.mark.slow
def test_making_it_again_keeps_the_tag(params, packaged, tmp_path):
    shutil.copytree(packaged, tmp_path / "again")
    _run(params, tmp_path / "again")
    assert _json(tmp_path / "again/package.json")["tag"] == _json(packaged / "package.json")["tag"]


@pytest.mark.slow
def test_no_validation_faces_is_no_calibration(params, evaluated, tmp_path):
    folder = tmp_path / "work"
    shutil.copytree(evaluated, folder)
    table = read_manifest(folder / "manifest.parquet")
    table.loc[table["split"] == "validation", "split"] = "train"
    write_manifest(folder / "manifest.parquet", table)
    _run(params, folder)
    assert _json(folder / "package.json")["validation_ece_after"] is None
    text = (folder / "package/card.md").read_text(encoding="utf-8")
    assert "no validation faces" in text
    assert "probabilities [B, 7] (not calibrated), logits" in text


def test_nothing_is_left_when_parity_fails(params, evaluated, tmp_path):
    folder = tmp_path / "work"
    shutil.copytree(evaluated, folder)
    strict = params.package.model_copy(update={"parity_tolerance": 1e-30})
    with pytest.raises(MienError, match="parity_tolerance"):
        _run(params.model_copy(update={"package": strict}), folder)
    assert not (folder / "package").exists()
    assert not (folder / "package.json").exists()


def test_the_lock_hash_can_be_computed_after_the_run(tmp_path):
    lock = tmp_path / "dvc.lock"
    stages = {"prepare": {"cmd": "draw", "outs": [{"path": "a", "md5": "1"}]}}
    lock.write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))
    before = packaging.hash_lock(lock)
    lock.write_text(yaml.safe_dump({"stages": {"package": {"cmd": "pack"}, **stages}}))
    assert packaging.hash_lock(lock) == before
    stages["prepare"]["outs"][0]["md5"] = "2"
    lock.write_text(yaml.safe_dump({"stages": stages}))
    assert packaging.hash_lock(lock) != before


@pytest.mark.parametrize("content", [None, "", "stages: {}", "stages: {package: {}}", "[", "- 1"])
def test_no_lock_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "dvc.lock").write_text(content)
    with pytest.raises(MienError, match="dvc repro"):
        packaging.hash_lock(tmp_path / "dvc.lock")


def test_a_folder_that_is_no_package_is_refused(tmp_path):
    with pytest.raises(MienError, match=r"metadata\.json"):
        packaging.register(tmp_path, "mien")


def test_the_reference_is_filled_up_where_few_are_held_out():
    table = pd.DataFrame({"split": ["train"] * 6 + ["validation"] * 3, "row": range(9)})
    drawn = packaging.draw_reference(table, 5, seed=0)
    assert (drawn["split"] == "validation").sum() == 3
    assert len(drawn) == 5
    assert len(packaging.draw_reference(table, 99, seed=0)) == 9
