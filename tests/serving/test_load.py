"""`mien.load`: a shipped size, a folder, or a tag."""

import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

import mien
from mien.errors import MienError
from mien.packaging import register
from mien.serving import package as serving_package
from tests.serving.conftest import draw_faces


@pytest.fixture
def shipped(package, tmp_path, monkeypatch):
    """Two sizes, as an installed Mien holds them, and one folder that is no package."""
    folder = tmp_path / "shipped"
    for size in ("nano", "small"):
        shutil.copytree(package, folder / size)
    (folder / "broken").mkdir()
    monkeypatch.setattr(serving_package, "SHIPPED", folder)
    return folder


def test_by_size_by_folder_and_by_tag(package, shipped, tmp_path, monkeypatch):
    faces = draw_faces(6)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small").mkdir()  # a folder of that name does not stand in the way
    names = ("small", str(package), package, register(package, "mien"))
    loaded = [mien.load(name) for name in names]
    answers = [model.classify(faces).answers for model in loaded]
    assert all(each == answers[0] for each in answers)
    assert {answer.expression for answer in answers[0]} <= set(loaded[0].package.expressions)
    assert np.isclose(sum(answers[0][0].probabilities.values()), 1)


def test_an_unknown_name_says_what_there_is(shipped):
    with pytest.raises(MienError, match=r"base: neither .* ships \(here: nano, small\)"):
        mien.load("base")


def test_where_nothing_is_shipped_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(serving_package, "SHIPPED", tmp_path / "shipped")
    with pytest.raises(MienError, match=r"small: .*\(here: none\)"):
        mien.load("small")


def test_a_broken_package_is_named(tmp_path):
    (tmp_path / "metadata.json").write_text("{}")
    with pytest.raises(MienError, match="not a sound package"):
        mien.load(str(tmp_path))


@pytest.mark.parametrize(
    ("faces", "given"),
    [
        (np.zeros((48, 48), np.uint8), r"uint8 \[48, 48\]"),
        (np.zeros((2, 64, 64), np.uint8), r"uint8 \[2, 64, 64\]"),
        (np.zeros((2, 48, 48, 3), np.uint8), r"uint8 \[2, 48, 48, 3\]"),
        (np.zeros((2, 48, 48), np.float32), r"float32 \[2, 48, 48\]"),
        (np.zeros((2, 48, 48), bool), r"bool \[2, 48, 48\]"),
        ([[[0] * 48] * 48], "list"),
    ],
    ids=["one", "size", "colour", "float", "bool", "list"],
)
def test_faces_that_are_none_are_refused_in_plain_words(package, faces, given):
    with pytest.raises(MienError, match=rf"a uint8 array \[n, 48, 48\], not {given}$"):
        mien.load(package).classify(faces)


def test_many_faces_take_no_more_memory_than_some(package):
    classifier, given = mien.load(package), []
    network = classifier.package.session

    class Session:
        def run(self, names, inputs):
            given.append(len(inputs["faces"]))
            return network.run(names, inputs)

    faces = draw_faces(600)
    expected = [classifier.classify(each[None]).answers[0].confidence for each in faces]
    classifier.package = replace(classifier.package, session=Session())
    classified = classifier.classify(faces)
    assert [answer.confidence for answer in classified.answers] == pytest.approx(expected, abs=1e-6)
    assert len(classified.components) == sum(given) == 600
    assert max(given) == 256


def test_no_faces_have_no_answers(package):
    assert mien.load(package).classify(np.zeros((0, 48, 48), np.uint8)).answers == []


def test_importing_mien_stays_light():
    code = "import sys, mien; print({'torch', 'onnxruntime', 'pandas'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
