"""Stage `pretrain`: with and without a start without labels; killed between the two."""

import numpy as np
import pandas as pd
import pytest
import torch

from mien.data.manifest import read_manifest, write_manifest
from mien.data.synthetic.rendering import render
from mien.errors import MienError
from mien.files import read_json, write_json
from mien.learning import recognition
from mien.learning.face_mesh import FaceMesh
from mien.learning.recognition import load_recognition
from mien.model.accnn import ACCNN
from mien.model.weights import load_networks, load_weights, save_weights
from mien.stages import pretrain
from tests.killing import Killed, kill
from tests.stages.conftest import (
    accuracy_on_validation,
    kept_calls,
    same,
    state,
    validate_by_happy_faces,
)

SHORT = {"epochs": 2, "steps_per_epoch": 2, "batch_size": 8}


def pretraining(params, **changes):
    """The same settings with others of `pretrain`."""
    return params.model_copy(update={"pretrain": params.pretrain.model_copy(update=changes)})


def settings(params, epochs):
    start = params.pretrain.self_supervised.model_copy(update={**SHORT, "epochs": epochs})
    return pretraining(params, **SHORT, self_supervised=start)


def run(params, folder, name):
    write_json(folder / "verdict.json", {"success": True})
    pretrain.main(
        params,
        manifest=folder / "manifest.parquet",
        faces=folder / "faces.npy",
        verdict=folder / "verdict.json",
        checkpoints=folder / "checkpoints",
        weights=folder / f"{name}.safetensors",
        larger=folder / f"{name}-larger.safetensors",
        recognition=folder / f"{name}-recognition.safetensors",
        curves=folder / f"{name}.csv",
        report=folder / name,
        metrics=folder / f"{name}.json",
    )
    return state(folder / f"{name}.safetensors")


def test_a_start_without_labels_is_off_unless_asked_for(measured, params):
    validate_by_happy_faces(measured)
    off = run(settings(params, 0), measured, "off")
    assert not (measured / "off/self_supervised.svg").exists()
    figures = read_json(measured / "off.json")
    assert "self_supervised" not in figures
    told = accuracy_on_validation(measured, "off", params)
    assert figures["validation_accuracy"] == pytest.approx(told)

    on = run(settings(params, 3), measured, "on")
    curve = read_json(measured / "on.json")["self_supervised"]
    assert [record["epoch"] for record in curve] == [1, 2, 3]
    assert {"invariance", "variance", "covariance", "effective_rank"} <= set(curve[0])
    assert len(pd.read_csv(measured / "on/self_supervised.csv")) == 3
    assert len(pd.read_csv(measured / "on.csv")) == 2
    assert not same(off, on)
    assert not list((measured / "checkpoints").iterdir())


def test_a_start_without_labels_sees_all_training_faces_in_views_of_its_own(
    measured, params, monkeypatch
):
    tasks = kept_calls(monkeypatch, pretrain, "SelfSupervisedTask")
    asked = settings(params, 1)
    start = asked.pretrain.self_supervised.model_copy(update={"strength": 0.7})
    run(pretraining(asked, self_supervised=start), measured, "on")
    (task,) = tasks
    table = read_manifest(measured / "manifest.parquet")
    everyone = table[(table["split"] == "train") | (table["role"] == "unlabelled")]
    assert sorted(task.rows) == sorted(everyone["row"])
    assert task.augmentation.settings == params.augmentation.model_copy(update={"strong": 0.7})


def test_killed_in_the_supervised_part_it_goes_on(measured, params, monkeypatch):
    whole = run(settings(params, 2), measured, "whole")

    with monkeypatch.context() as broken, pytest.raises(Killed):
        broken.setattr(pretrain, "accuracy_on", kill)
        run(settings(params, 2), measured, "killed")
    assert len(list((measured / "checkpoints").iterdir())) == 1  # the start's
    assert same(run(settings(params, 2), measured, "killed"), whole)


@pytest.mark.parametrize("upgraded", ["training_code", "__file__"])
def test_killed_before_an_upgrade_it_begins_anew(measured, params, monkeypatch, capsys, upgraded):
    modules = {path.name for path in pretrain.training_code(pretrain.__file__)}
    assert {"training.py", "losses.py", "augmentation.py", "pretrain.py"} <= modules
    code = measured / "training.py"
    changed = {"training_code": lambda stage: [code], "__file__": str(code)}
    monkeypatch.setattr(pretrain, upgraded, changed[upgraded])
    code.write_text("one way")
    with monkeypatch.context() as broken, pytest.raises(Killed):
        broken.setattr(pretrain, "accuracy_on", kill)
        run(settings(params, 2), measured, "killed")
    code.write_text("another way")
    run(settings(params, 2), measured, "killed")
    assert "going on" not in capsys.readouterr().out


def test_other_labels_give_the_same_start(measured, params):
    run(settings(params, 2), measured, "first")
    table = read_manifest(measured / "manifest.parquet")
    training = table["split"] == "train"
    table.loc[training, "label"] = table.loc[training, "label"].to_numpy()[::-1]
    write_manifest(measured / "manifest.parquet", table)
    run(settings(params, 2), measured, "second")
    curves = [
        read_json(measured / f"{name}.json")["self_supervised"] for name in ("first", "second")
    ]
    assert curves[0] == curves[1]


@pytest.fixture
def drawn(measured):
    """The same with drawn faces, which have landmarks; random pixels have none."""
    table = read_manifest(measured / "manifest.parquet")
    names = [f"person{number}/0" for number in range(len(table))]
    shown = table["label"].fillna(table["true_label"]).fillna("neutral")
    faces = render(names, list(shown), seed=0, size=24)
    np.save(measured / "faces.npy", faces)
    return measured


def begun_by_landmarks(params, **changes):
    small = {**SHORT, "components": 3, **changes}
    start = params.pretrain.landmarks.model_copy(update=small)
    return pretraining(params, **SHORT, landmarks=start)


def test_a_start_by_landmarks(drawn, params):
    off = run(settings(params, 0), drawn, "off")
    assert "landmarks" not in read_json(drawn / "off.json")
    on = run(begun_by_landmarks(params), drawn, "on")
    metrics = read_json(drawn / "on.json")
    assert 0.5 < metrics["landmarks_found"] <= 1
    curve = metrics["landmarks"]
    assert [record["epoch"] for record in curve] == [1, 2]
    assert {"loss", "shape_r2"} <= set(curve[0])
    assert (drawn / "on/landmarks.svg").exists()
    assert not same(off, on)
    assert not list((drawn / "checkpoints").iterdir())


def test_killed_after_the_landmarks_it_does_not_seek_them_again(drawn, params, monkeypatch):
    asked = begun_by_landmarks(params)
    whole = run(asked, drawn, "whole")
    with monkeypatch.context() as broken, pytest.raises(Killed):
        broken.setattr(pretrain, "shape_r2", lambda *_, **__: kill())
        run(asked, drawn, "killed")
    monkeypatch.setattr(FaceMesh, "__call__", kill)
    assert same(run(asked, drawn, "killed"), whole)


def test_a_larger_network_may_begin_by_landmarks(drawn, params):
    larger = with_larger(params).pretrain.larger
    asked = begun_by_landmarks(params, networks=["larger"])
    run(pretraining(asked, larger=larger), drawn, "on")
    assert (drawn / "on/larger_1_landmarks.csv").exists()
    assert "landmarks" not in read_json(drawn / "on.json")


def test_landmarks_go_on_from_what_views_have_taught(drawn, params):
    alone = run(begun_by_landmarks(params), drawn, "alone")
    both = begun_by_landmarks(params)
    views = settings(params, 2).pretrain.self_supervised
    after = run(pretraining(both, self_supervised=views), drawn, "after")
    assert {"self_supervised", "landmarks"} <= set(read_json(drawn / "after.json"))
    assert not same(alone, after)


def test_landmarks_of_what_shows_no_faces_are_refused(measured, params):
    with pytest.raises(MienError, match=r"set pretrain\.landmarks\.epochs to 0"):
        run(begun_by_landmarks(params), measured, "noise")


def with_larger(params, **changes):
    sizes = {"epochs": 3, "batch_size": 24, "stem": 8, "widths": [16, 32], "blocks": [1, 1],
             "weight": 0.5}  # fmt: skip
    larger = params.pretrain.larger.model_copy(update={**sizes, **changes})
    return pretraining(params, **SHORT, larger=larger)


def test_a_larger_network_is_listened_to_where_asked_for(measured, params):
    off = run(settings(params, 0), measured, "off")
    assert "larger" not in read_json(measured / "off.json")
    on = run(with_larger(params), measured, "on")
    metrics = read_json(measured / "on.json")
    (larger,) = metrics["larger"]
    assert larger["epoch"] == 3
    assert larger["parameters"] > 2 * metrics["parameters"]
    assert len(pd.read_csv(measured / "on/larger_1.csv")) == 3
    assert {"labels", "distillation"} <= set(pd.read_csv(measured / "on.csv"))
    assert not same(off, on)
    assert same(off, run(with_larger(params, weight=0.0), measured, "unheard"))
    assert not list((measured / "checkpoints").iterdir())


def test_larger_networks_differ_and_can_be_ordinary(measured, params):
    one = run(with_larger(params), measured, "one")
    two = run(with_larger(params, networks=2, convolution="ordinary"), measured, "two")
    first, second = read_json(measured / "two.json")["larger"]
    (affinity,) = read_json(measured / "one.json")["larger"]
    assert first["loss"] != second["loss"]
    assert first["parameters"] > 2 * affinity["parameters"]
    assert {path.name for path in (measured / "two").glob("larger_*")} == {
        "larger_1.csv", "larger_1.svg", "larger_2.csv", "larger_2.svg"
    }  # fmt: skip
    assert not same(one, two)


def test_larger_networks_may_start_without_labels(measured, params):
    start = params.pretrain.self_supervised.model_copy(update=SHORT)

    def begun(*networks):
        schedule = start.model_copy(update={"networks": [*networks]})
        return pretraining(with_larger(params, networks=2), self_supervised=schedule)

    networks = {}
    for name, which in {"own": ["accnn"], "theirs": ["larger"], "all": ["accnn", "larger"]}.items():
        run(begun(*which), measured, name)
        networks[name] = [
            each.model.state_dict()
            for each in load_networks(measured / f"{name}-larger.safetensors")
        ]
        written = {path.name for path in (measured / name).glob("*self_supervised.csv")}
        larger = {"larger_1_self_supervised.csv", "larger_2_self_supervised.csv"}
        assert written == ({"self_supervised.csv"} if "accnn" in which else set()) | (
            larger if "larger" in which else set()
        )
        assert ("self_supervised" in read_json(measured / f"{name}.json")) == ("accnn" in which)
    for own, theirs, each in zip(*networks.values(), strict=True):
        assert same(theirs, each)
        assert not same(own, theirs)
    assert not list((measured / "checkpoints").iterdir())


def test_the_larger_networks_are_kept(measured, params):
    run(settings(params, 0), measured, "off")
    assert load_networks(measured / "off-larger.safetensors") == []
    several = with_larger(params, networks=2)
    run(several, measured, "on")
    kept = load_networks(measured / "on-larger.safetensors")
    assert [each.settings for each in kept] == [several.larger_model] * 2
    assert not same(*(each.model.state_dict() for each in kept))


def test_killed_after_the_larger_networks_it_goes_on(measured, params, monkeypatch):
    several = with_larger(params, networks=2)
    whole = run(several, measured, "whole")

    with monkeypatch.context() as broken, pytest.raises(Killed):
        broken.setattr(pretrain.AdvisedTask, "begin_epoch", kill)
        run(several, measured, "killed")
    assert len(list((measured / "checkpoints").iterdir())) == 2  # the larger networks'
    assert same(run(several, measured, "killed"), whole)


@pytest.fixture
def shipped(measured, params, monkeypatch):
    """Networks for faces of the tests' size in the place of those that ship."""
    folder = measured / "shipped"
    for seed, size in enumerate(("nano", "small")):
        torch.manual_seed(seed)
        network = ACCNN(params.model, len(params.expressions)).eval()
        save_weights(folder / size, network, tuple(params.expressions), 24)
    monkeypatch.setattr(pretrain, "shipped_weights", lambda size: folder / size)


def refined_by(params, *networks, **changes):
    refinery = params.pretrain.refinery.model_copy(update={"networks": [*networks], **changes})
    pretrain = params.pretrain.model_copy(update={**SHORT, "refinery": refinery})
    return params.model_copy(update={"pretrain": pretrain})


@pytest.mark.usefixtures("shipped")
def test_networks_that_ship_refine_the_labels_where_asked_for(measured, params):
    off = run(settings(params, 0), measured, "off")
    on = run(refined_by(params, "nano", "small", views=2), measured, "on")
    assert {"labels", "distillation"} <= set(pd.read_csv(measured / "on.csv"))
    assert not same(off, on)
    assert not same(on, run(refined_by(params, "nano", views=2), measured, "one"))
    assert same(off, run(refined_by(params, "nano", weight=0.0), measured, "unheard"))


def recognising(params):
    taught = params.pretrain.recognition.model_copy(
        update={"epochs": 2, "steps_per_epoch": 2, "batch_size": 8}
    )
    return pretraining(params, **SHORT, recognition=taught)


@pytest.mark.usefixtures("shipped")
def test_a_recognition_network_learns_and_refines_where_asked_for(measured, params, monkeypatch):
    monkeypatch.setattr(recognition, "_SIDE", 64)
    off = run(settings(params, 0), measured, "off")
    assert load_recognition(measured / "off-recognition.safetensors") is None
    learning = recognising(params)
    assert same(off, run(learning, measured, "learning")), "it is asked by nobody here"
    figures = read_json(measured / "learning.json")["recognition"]
    assert figures["epoch"] == 2
    assert 0 < figures["validation_accuracy"] < 1
    assert len(pd.read_csv(measured / "learning/recognition.csv")) == 2
    assert (measured / "learning/recognition.svg").is_file()
    kept = load_recognition(measured / "learning-recognition.safetensors")
    assert kept.head.out_features == len(params.expressions)

    asked = refined_by(learning, "recognition", views=1)
    said = kept_calls(monkeypatch, pretrain, "refined_labels")
    assert not same(off, run(asked, measured, "asked"))
    with_others = refined_by(learning, "recognition", "nano", views=1)
    run(with_others, measured, "both")
    run(refined_by(params, "nano", views=1), measured, "nano")
    alone, both, nano = said
    torch.testing.assert_close(both, (alone + nano) / 2, atol=0.02, rtol=0)


def test_killed_after_the_recognition_network_it_goes_on(measured, params, monkeypatch):
    monkeypatch.setattr(recognition, "_SIDE", 64)
    asked = refined_by(recognising(params), "recognition", views=1)
    whole = run(asked, measured, "whole")
    with monkeypatch.context() as broken, pytest.raises(Killed):
        broken.setattr(pretrain.AdvisedTask, "begin_epoch", kill)
        run(asked, measured, "killed")
    assert sorted((measured / "checkpoints").glob("*recognition*"))
    monkeypatch.setattr(recognition.RecognitionTask, "begin_epoch", kill)  # nothing is left to it
    assert same(run(asked, measured, "killed"), whole)
    assert not list((measured / "checkpoints").iterdir())


@pytest.mark.usefixtures("shipped")
def test_killed_while_learning_from_refined_labels_it_goes_on(measured, params, monkeypatch):
    whole = run(refined_by(params, "nano"), measured, "whole")
    begin = pretrain.AdvisedTask.begin_epoch

    def end_in_the_second(task, epoch, *others):
        return begin(task, epoch, *others) if epoch == 0 else kill()

    with monkeypatch.context() as broken, pytest.raises(Killed):
        broken.setattr(pretrain.AdvisedTask, "begin_epoch", end_in_the_second)
        run(refined_by(params, "nano"), measured, "killed")
    views = params.pretrain.refinery.views  # each is kept, and the training
    assert len(list((measured / "checkpoints").iterdir())) == views + 1
    monkeypatch.setattr(pretrain, "shipped_voice", lambda *_: kill)  # to be asked for nothing more
    assert same(run(refined_by(params, "nano"), measured, "killed"), whole)
    assert not list((measured / "checkpoints").iterdir())


@pytest.mark.usefixtures("shipped")
def test_what_other_weights_have_refined_does_not_go_on(measured, params, monkeypatch):
    with monkeypatch.context() as broken, pytest.raises(Killed):
        broken.setattr(pretrain.AdvisedTask, "begin_epoch", kill)
        run(refined_by(params, "nano"), measured, "killed")
    other = pretrain.shipped_weights("small")
    with monkeypatch.context() as released:
        released.setattr(pretrain, "shipped_weights", lambda size: other)
        renewed = run(refined_by(params, "nano"), measured, "killed")
    assert same(renewed, run(refined_by(params, "small"), measured, "whole"))


def test_it_begins_with_weights_that_ship(measured, params, monkeypatch):
    """The shipped ones' part is played by a network that this stage has made."""
    run(settings(params, 0), measured, "shipped")
    monkeypatch.setattr(pretrain, "shipped_weights", lambda size: measured / f"{size}.safetensors")
    (measured / "shipped.safetensors").rename(measured / "nano.safetensors")
    begun = {"first_weights": "nano", "learning_rate": 1e-9, "ema_decay": 0.0}
    still = params.pretrain.model_copy(update=SHORT | begun)
    found = run(params.model_copy(update={"pretrain": still}), measured, "begun")
    theirs = load_weights(measured / "nano.safetensors").model.state_dict()
    body = [name for name in theirs if name.endswith("weight") and name != "head.weight"]
    assert body
    for name in body:
        torch.testing.assert_close(found[name], theirs[name], atol=1e-6, rtol=1e-4)


def test_what_was_learned_is_averaged_with_what_it_began_from(
    measured, params, monkeypatch, capsys
):
    run(settings(params, 0), measured, "nano")
    monkeypatch.setattr(pretrain, "shipped_weights", lambda size: measured / f"{size}.safetensors")
    begun = params.pretrain.model_copy(
        update=SHORT | {"first_weights": "nano", "learning_rate": 0.1}
    )
    found = {}
    for share in (0.0, 0.5, 1.0):  # of 1, which settings may not have, the first ones are left
        averaged = begun.model_copy(update={"first_weights_share": share})
        changed = params.model_copy(update={"pretrain": averaged})
        found[share] = run(changed, measured, f"share-{share}")
    learned = {name for name in found[0.0] if "running" not in name and "batches" not in name}
    assert any((found[0.0][name] - found[1.0][name]).abs().max() > 0.01 for name in learned)
    for name in learned:
        mean = (found[0.0][name] + found[1.0][name]) / 2
        torch.testing.assert_close(found[0.5][name], mean, atol=1e-6, rtol=1e-5)
    assert capsys.readouterr().out.count("mean with the first weights: validation_accuracy") == 2
    figures = read_json(measured / "share-0.5.json")
    told = accuracy_on_validation(measured, "share-0.5", params)
    assert figures["validation_accuracy"] == pytest.approx(told)


def test_weights_of_another_network_are_refused(measured, params):
    begun = params.pretrain.model_copy(update=SHORT | {"first_weights": "nano"})
    with pytest.raises(MienError, match=r"first_weights: these need a model of"):
        run(params.model_copy(update={"pretrain": begun}), measured, "refused")
    assert not (measured / "refused.safetensors").exists()


def test_what_is_refused_is_refused_before_anything_is_learned(measured, params, capsys):
    """Hours later it was, after larger networks or a start without labels."""
    larger = with_larger(params).pretrain.model_copy(update={"first_weights": "nano"})
    with pytest.raises(MienError, match=r"first_weights: these need a model of"):
        run(params.model_copy(update={"pretrain": larger}), measured, "refused")
    other = params.model_copy(update={"expressions": [*"abcdefg"]})
    manifest = measured / "manifest.parquet"
    table = read_manifest(manifest)
    names = dict(zip(params.expressions, other.expressions, strict=True))
    write_manifest(manifest, table.assign(label=table["label"].map(names, na_action="ignore")))
    refinery = params.pretrain.refinery.model_copy(update={"networks": ["nano"]})
    begun = settings(other, 3).pretrain.model_copy(update={"refinery": refinery})
    with pytest.raises(MienError, match=r"refinery\.networks: they know angry"):
        run(other.model_copy(update={"pretrain": begun}), measured, "refused")
    assert capsys.readouterr().out == ""
    assert not (measured / "checkpoints").exists()
