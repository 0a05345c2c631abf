"""Which model is served."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from mien.errors import MienError
from mien.packaging import register
from mien.serving import package as serving_package
from mien.serving.classifier import Classifier
from mien.serving.package import find_package, load_package


@pytest.fixture(autouse=True)
def _no_model(monkeypatch, tmp_path):
    monkeypatch.delenv("MIEN_MODEL", raising=False)
    monkeypatch.setattr(serving_package, "SHIPPED", tmp_path / "shipped")


def test_the_order(package, tmp_path, monkeypatch):
    with pytest.raises(MienError, match="no model to serve: run the pipeline"):
        find_package(tmp_path)
    shipped = tmp_path / "shipped/small"
    for size in ("nano", "small"):
        shutil.copytree(package, tmp_path / "shipped" / size)
    assert find_package(tmp_path) == shipped
    made = tmp_path / "models/package"
    shutil.copytree(package, made)
    assert find_package(tmp_path) == made
    tag = register(package, "mien")
    champion = tmp_path / "releases/champion.json"
    champion.parent.mkdir()
    champion.write_text(json.dumps({"tag": tag}))
    stored = find_package(tmp_path)
    assert stored not in (made, shipped)
    assert (stored / "model.onnx").read_bytes() == (package / "model.onnx").read_bytes()
    monkeypatch.setenv("MIEN_MODEL", str(package))
    assert find_package(tmp_path) == package
    assert find_package(tmp_path, str(made)) == made
    assert find_package(tmp_path, str(tmp_path)) == made  # of a workspace, whatever its champion is
    monkeypatch.setenv("MIEN_MODEL", tag)
    assert find_package(tmp_path) == stored


@pytest.mark.parametrize("text", ["{", "[]", "{}"])
def test_a_broken_champion_is_no_silent_fallback(package, tmp_path, text):
    shutil.copytree(package, tmp_path / "models/package")
    (tmp_path / "releases").mkdir()
    (tmp_path / "releases/champion.json").write_text(text)
    with pytest.raises(MienError, match="names no model; restore it from Git"):
        find_package(tmp_path)


@pytest.mark.parametrize("tag", ["mien:gone", "a b:c d"])
def test_a_champion_that_the_store_has_lost_is_told_with_the_way_out(tmp_path, tag):
    (tmp_path / "releases").mkdir()
    (tmp_path / "releases/champion.json").write_text(json.dumps({"tag": tag}))
    with pytest.raises(MienError, match=f"{tag} is not in the model store.*mien rollback --to"):
        find_package(tmp_path)


def test_an_empty_name_is_no_model(package, tmp_path, monkeypatch):
    """An unset variable of the shell must not answer with another model; a setting may be empty."""
    monkeypatch.setenv("MIEN_MODEL", "")
    shutil.copytree(package, tmp_path / "models/package")
    assert find_package(tmp_path) == tmp_path / "models/package"
    with pytest.raises(MienError, match="the model's name is empty"):
        find_package(tmp_path, "")


@pytest.mark.parametrize("name", ["nowhere", "mien:gone", "a b:c d"])
def test_unknown_models(tmp_path, name):
    with pytest.raises(MienError, match=name):
        find_package(tmp_path, name)


def test_a_folder_without_a_package_is_told(tmp_path):
    with pytest.raises(MienError, match=f"{tmp_path}: neither a package folder nor a workspace"):
        find_package(tmp_path, str(tmp_path))


@pytest.mark.parametrize("name", ["model.onnx", "metadata.json", "reference.parquet", "card.json"])
def test_a_package_with_a_broken_file(package, tmp_path, name):
    folder = tmp_path / "package"
    shutil.copytree(package, folder)
    (folder / name).write_bytes(b"broken")
    with pytest.raises(MienError, match="not a sound package"):
        load_package(folder)


def test_a_face_is_far_where_the_fifth_nearest_of_the_reference_is(package):
    classifier = Classifier(load_package(package))
    reference = classifier.package.reference / (classifier.package.reference.std(axis=0) + 1e-6)

    def fifth(points, places=4):
        return np.sort(np.linalg.norm(points[:, None] - reference[None], axis=2), axis=1)[:, places]

    limit = np.quantile(fifth(reference, places=5), 0.995)  # the nearest is the face itself
    points = np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32) * 3
    distances = fifth(points)
    clear = np.abs(distances / limit - 1) > 0.01
    far = classifier._far(points)
    assert far[clear].any()
    assert not far[clear].all()
    np.testing.assert_array_equal(far[clear], distances[clear] > limit)


def test_nothing_is_far_from_a_reference_of_a_few_faces(package):
    few = load_package(package)
    few = replace(few, reference=few.reference[:5])
    assert not Classifier(few)._far(np.full((3, 4), 1e6, np.float32)).any()


def test_abstains_below_the_threshold_and_far_away(package):
    classifier = Classifier(load_package(package))
    assert classifier._answer([0.39, 0.31, 0.30], strange=False).reason == "unsure"
    assert classifier._answer([0.41, 0.30, 0.29], strange=False).reason is None
    assert classifier._answer([1.0, 0.0, 0.0], strange=True).reason == "unfamiliar"
