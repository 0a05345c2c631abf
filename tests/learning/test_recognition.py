"""The face-recognition network: it says what the original does, learns labels and goes on."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from mien.data.augmentation import Augmentation
from mien.data.dataset import LabelledRows, to_tensor
from mien.data.synthetic.rendering import render
from mien.errors import MienError
from mien.learning import recognition
from mien.learning.checkpoint import Checkpoint
from mien.learning.embedding import accuracy_on, embed_with_mirror
from mien.learning.recognition import (
    RecognitionNet,
    learn_labels,
    load_recognition,
    save_recognition,
    say,
)
from mien.learning.training import Fitted, class_log_prior, make_fabric
from mien.params.learning import RecognitionSettings
from tests.killing import Killed, killing
from tests.learning.conftest import COMPUTE, GENTLE

SETTINGS = RecognitionSettings(
    epochs=2, steps_per_epoch=4, batch_size=8, learning_rate=3e-4, weight_decay=0.05,
    ema_decay=0.5, label_smoothing=0.1, class_balance=0.5,
)  # fmt: skip


@pytest.fixture
def small(monkeypatch):
    """A fifth of the time: what the network knows of such small faces is enough for drawn ones."""
    monkeypatch.setattr(recognition, "_SIDE", 80)


def drawn(expressions, seed=0):
    names = sorted(set(expressions))
    faces = render([f"p{i}/0" for i in range(len(expressions))], expressions, seed=seed)
    labels = np.array([names.index(each) for each in expressions])
    return faces, LabelledRows(np.arange(len(labels)), labels)


def test_the_features_are_those_of_the_original(monkeypatch):
    # TensorFlow.js, at the side that the network was trained with, of three drawn faces: some
    # features of each block, and the sums of all
    monkeypatch.setattr(recognition, "_SIDE", 224)
    faces = render(["a/0", "b/1", "c/2"], ["happy", "sad", "surprise"], seed=0)
    net = RecognitionNet(7).eval()
    net.normalise(to_tensor(faces))
    with torch.no_grad():
        found = net.embed(to_tensor(faces)).numpy()
    expected = [[0.2197, 0.1711, 0.1208], [0.2916, 0.1541, 0.7218], [0.3852, 0.2033, 0.1036]]
    np.testing.assert_allclose(found[:, [0, 600, 2000]], expected, atol=0.01)
    np.testing.assert_allclose(found.sum(axis=1), [886.74, 864.49, 798.12], rtol=2e-3)


def test_what_it_sees_of_a_face_does_not_depend_on_the_others(small):
    net = RecognitionNet(7).eval()
    faces = to_tensor(drawn(["happy", "sad"] * 5)[0])  # more than its lower half takes at once
    assert len(faces) > recognition._CACHED
    with torch.no_grad():
        alone = torch.cat([net.embed(face) for face in faces.split(1)])
        torch.testing.assert_close(net.embed(faces), alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("side", "stride"), [(8, 1), (8, 2), (7, 1), (7, 2)])
def test_borders_are_tensorflows(side, stride):
    # "SAME": ⌈side / stride⌉ places, what is lacking shared out, the odd one below and right
    layer = torch.nn.Conv2d(1, 1, 3, stride)
    maps = torch.ones(1, 1, side, side)
    padded = recognition._padded(maps, layer)
    places = -(-side // stride)
    lacking = (places - 1) * stride + 3 - side
    expected = functional.pad(maps, [lacking // 2, lacking - lacking // 2] * 2)
    torch.testing.assert_close(padded, expected)
    assert layer(padded).shape[-1] == places


def test_the_batch_norms_change_nothing_at_first(small):
    faces, _ = drawn(["happy", "sad"] * 4)
    plain, normal = RecognitionNet(2).eval(), RecognitionNet(2).eval()
    for norm in plain.norms:
        norm.eps = 0.0  # of mean 0 and deviation 1 nothing is left to do
    normal.normalise(to_tensor(faces[:4]))
    with torch.no_grad():
        torch.testing.assert_close(
            normal.embed(to_tensor(faces[4:])), plain.embed(to_tensor(faces[4:])), atol=1e-3, rtol=0
        )


def test_embeddings_can_be_standardised_again(small):
    faces, _ = drawn(["happy", "sad"] * 4)
    net = RecognitionNet(2).eval()
    with torch.no_grad():
        raw = net.embed(to_tensor(faces)).numpy()
        told = net.standardise(raw)
        np.testing.assert_allclose(net.embed(to_tensor(faces)).numpy(), told, atol=1e-4)
        np.testing.assert_allclose(told.mean(axis=0), 0, atol=1e-5)
        used = raw.std(axis=0) > 0.05  # of seldom used maps less is made
        np.testing.assert_allclose(told.std(axis=0)[used], 0.05, rtol=0.2)
        again = net.standardise(told * 3 + 1)  # as if the network had said that
    np.testing.assert_allclose(again.mean(axis=0), 0, atol=1e-5)


def learned(tmp_path, faces, labelled, validate=lambda _: {}, name="run"):
    return learn_labels(
        faces,
        labelled,
        2,
        SETTINGS,
        Augmentation(GENTLE),
        seed=0,
        fabric=make_fabric(COMPUTE),
        checkpoint=Checkpoint.of(tmp_path, {"name": name}, []),
        validate=validate,
    )


def told(net, faces, rows, folder, name="told"):
    checkpoint = Checkpoint.of(folder, {"name": name}, [])
    return say(net, faces, rows, fabric=make_fabric(COMPUTE), checkpoint=checkpoint)


def test_it_begins_with_a_fitted_head_and_learns(tmp_path, small, monkeypatch):
    faces, labelled = drawn(["happy"] * 30 + ["sad"] * 10)
    others, truth = drawn(["happy", "sad"] * 20, seed=1)
    both = np.concatenate([faces, others])
    rows = np.arange(len(faces), len(both))
    with monkeypatch.context() as unlearned:
        unlearned.setattr(recognition, "fit", lambda task, *_, **__: Fitted(task.net, []))
        begun = learned(tmp_path, both, labelled, name="begun").model
    said = told(begun, both, rows, tmp_path)
    np.testing.assert_allclose(said.sum(axis=1), 1, rtol=1e-5)
    assert (said.argmax(axis=1) == truth.labels).mean() > 0.7
    prior = class_log_prior(labelled.labels, 2, 0.5)  # its head is a balanced one
    torch.testing.assert_close(begun.log_prior, prior)
    embedded = embed_with_mirror(begun.eval(), both, rows)
    odds = np.diff(embedded.logits + prior.numpy())[:, 0]
    np.testing.assert_allclose(np.log(said[:, 1] / said[:, 0]), odds, atol=1e-4)
    with torch.no_grad():
        views = to_tensor(both[rows[:3]])
        expected = (begun(views) + prior).softmax(dim=1)
        torch.testing.assert_close(begun.probabilities(views), expected)

    truth = LabelledRows(rows, truth.labels)
    fitted = learned(tmp_path, both, labelled, lambda net: accuracy_on(net, both, truth))
    assert [record["epoch"] for record in fitted.history] == [1, 2]
    assert fitted.history[-1]["validation_accuracy"] > 0.7
    before, after = begun.state_dict(), fitted.model.state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert {"head.weight", "layers.13.weight", "norms.13.weight"} <= changed
    assert not {f"layers.{number}.weight" for number in range(13)} & changed


def test_killed_it_learns_what_it_would_have_learned(tmp_path, small):
    faces, labelled = drawn(["happy", "sad"] * 8)
    whole = learned(tmp_path, faces, labelled, name="whole").model.state_dict()
    torch.rand(5)  # whatever others have drawn meanwhile
    with pytest.raises(Killed):
        learned(tmp_path, faces, labelled, killing(1))
    for name, tensor in learned(tmp_path, faces, labelled).model.state_dict().items():
        torch.testing.assert_close(tensor, whole[name], atol=1e-5, rtol=1e-4)


def test_killed_it_goes_on_with_what_it_has_said(tmp_path, small, monkeypatch):
    faces, labelled = drawn(["happy", "sad"] * 8)
    monkeypatch.setattr(recognition, "_BLOCK", 6)
    torch.manual_seed(0)
    net = RecognitionNet(2)
    whole = told(net, faces, labelled.rows, tmp_path, "whole")

    embedded, seen = recognition._embedded, []

    def looking(net, faces, rows, fabric):
        seen.append(list(rows))
        if len(seen) == 2:
            raise Killed
        return embedded(net, faces, rows, fabric)

    monkeypatch.setattr(recognition, "_embedded", looking)
    with pytest.raises(Killed):
        told(net, faces, labelled.rows, tmp_path)
    np.testing.assert_allclose(told(net, faces, labelled.rows, tmp_path), whole, atol=1e-5)
    assert [rows[0] for rows in seen] == [0, 6, 6, 12]


def test_what_it_has_learned_is_kept(tmp_path, small):
    faces, labelled = drawn(["happy", "sad"] * 8)
    net = learned(tmp_path, faces, labelled).model.eval()
    path = tmp_path / "recognition.safetensors"
    save_recognition(path, net, ("happy", "sad"), 48)
    again = load_recognition(path)
    for name, tensor in again.state_dict().items():
        torch.testing.assert_close(tensor, net.state_dict()[name], msg=name)
    views = to_tensor(faces[:4])
    with torch.no_grad():
        torch.testing.assert_close(again.probabilities(views), net.probabilities(views))
    save_recognition(path, None, ("happy", "sad"), 48)
    assert load_recognition(path) is None
    save_recognition(path, net, ("happy", "sad", "calm"), 48)
    with pytest.raises(MienError, match="its header and its tensors are not of one network"):
        load_recognition(path)
    path.write_bytes(b"not safetensors")
    with pytest.raises(MienError, match="not a safetensors file"):
        load_recognition(path)
