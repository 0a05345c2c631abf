"""Learning from other networks: the losses written out, and those networks left as they are."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mien.data.augmentation import Augmentation
from mien.data.dataset import LabelledRows, to_tensor
from mien.errors import MienError
from mien.learning.checkpoint import Checkpoint
from mien.learning.distillation import (
    AdvisedTask,
    larger_networks,
    refined,
    refined_labels,
    shipped_voice,
)
from mien.learning.embedding import embed_faces
from mien.learning.training import SupervisedTask, fit, make_fabric
from mien.model.accnn import ACCNN
from mien.model.weights import Trained
from mien.params.learning import TrainingSettings
from tests.killing import Killed
from tests.learning.conftest import COMPUTE, GENTLE, MODEL, stripes

LARGER = MODEL.model_copy(update={"stem": 8, "widths": [16, 32]})
LABELS = (np.arange(60) % 3 == 0).astype(np.int64)  # twice as many of the former
TRAINING = TrainingSettings(
    epochs=6, steps_per_epoch=12, batch_size=16, learning_rate=0.01, weight_decay=0.01,
    ema_decay=0.8, label_smoothing=0.1, class_balance=1.0,
)  # fmt: skip


def make_task(weight, larger, labels=None):
    faces, labelled = stripes(LABELS)
    if labels is not None:
        labelled = LabelledRows(labelled.rows, labels)
    return advised(faces, labelled, larger_networks([larger]), weight)


def advised(faces, labelled, adviser, weight):
    torch.manual_seed(1)
    return AdvisedTask(
        ACCNN(MODEL, 2), faces, labelled, TRAINING, Augmentation(GENTLE),
        adviser=adviser, weight=weight,
    )  # fmt: skip


def make_larger():
    torch.manual_seed(2)
    return ACCNN(LARGER, 2)


def train(task, folder):
    return fit(
        task, TRAINING, epochs=TRAINING.epochs, seed=0, fabric=make_fabric(COMPUTE),
        checkpoint=Checkpoint(folder / "run.safetensors"), validate=lambda net: {}, title="test",
    )  # fmt: skip


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_loss_written_out(weight):
    task = make_task(weight, make_larger())
    larger = make_larger()
    task.begin_epoch(0, 2, task.net, torch.Generator().manual_seed(0))
    losses = task(1, task.net, torch.Generator().manual_seed(5))

    views, labels = task.batch(1, torch.Generator().manual_seed(5))
    prior = torch.tensor([40 / 60, 20 / 60]).log()
    logs = (task.net(views) + prior).log_softmax(dim=1)
    said = (larger.eval()(views) + prior).softmax(dim=1)
    smoothed = torch.full((16, 2), 0.05)
    smoothed[torch.arange(16), labels] = 0.95
    targets = (1 - weight) * smoothed + weight * said
    expected = -(targets * logs).sum(dim=1).mean()
    torch.testing.assert_close(losses["loss"], expected)


def test_the_larger_network_stays_as_it_is(tmp_path):
    larger = make_larger()
    task = make_task(0.5, larger)
    before = {name: tensor.clone() for name, tensor in larger.state_dict().items()}
    ours = {id(p) for p in task.parameters()}
    assert not any(id(p) in ours for p in larger.parameters())
    assert set(task.state_dict()) == {
        "log_prior", *(f"net.{name}" for name in task.net.state_dict())
    }  # fmt: skip
    train(task, tmp_path)
    assert not larger.training
    assert all(torch.equal(before[name], tensor) for name, tensor in larger.state_dict().items())


def test_several_larger_networks_take_turns():
    say = larger_networks([saying(0.0, 9.0).model, saying(9.0, 0.0).model])
    views, prior = torch.rand(3, 1, 24, 24), torch.zeros(2)
    first = [say(np.array([chosen, 8, 9]), views, prior)[:, 0] for chosen in range(4)]
    expected = torch.tensor([0.0, 1.0, 0.0, 1.0]).unsqueeze(1).expand(4, 3)
    torch.testing.assert_close(torch.stack(first), expected, atol=1e-3, rtol=0)


def test_it_learns_what_the_labels_do_not_say(tmp_path):
    faces, labelled = stripes(LABELS)
    torch.manual_seed(0)
    right = SupervisedTask(
        ACCNN(LARGER, 2), faces, labelled, TRAINING, Augmentation(GENTLE)
    )  # fmt: skip
    larger = train(right, tmp_path / "larger").model
    noise = np.random.default_rng(1).permutation(labelled.labels)
    learned = train(make_task(1.0, larger, noise), tmp_path / "net").model
    predicted = embed_faces(learned, faces, labelled.rows).logits.argmax(axis=1)
    assert (predicted == labelled.labels).mean() > 0.95


def saying(*logits, expressions=("calm", "glad")):
    """A network that says the same of every face."""
    net = ACCNN(MODEL, len(logits))
    torch.nn.init.zeros_(net.head.weight)
    net.head.bias.data = torch.tensor(logits)
    return Trained(net.eval(), expressions, 16)


PRIOR = torch.tensor([0.5, 0.25]).log()


def voice(network, expressions=("calm", "glad")):
    return shipped_voice(network, expressions, 16, PRIOR)


def refine(networks, folder, labelled=None, *, views=2, seed=0):
    faces, all_rows = stripes(LABELS)
    return refined_labels(
        [voice(each) for each in networks], faces, labelled or all_rows,
        augmentation=Augmentation(GENTLE), views=views, seed=seed, fabric=make_fabric(COMPUTE),
        checkpoint=Checkpoint.of(folder, {"views": views, "seed": seed}, []),
    )  # fmt: skip


def test_refined_labels_by_hand(tmp_path):
    log = float(np.log(2))
    # e^z times the prior (1/2, 1/4): 1 to 1 and 4 to 1; the second names calm last, and one more
    first = saying(0.0, log)
    second = saying(-9.0, 0.0, log, expressions=("cross", "glad", "calm"))
    said = refine([first, second], tmp_path)
    assert said.shape == (60, 2)
    torch.testing.assert_close(said, torch.tensor([[0.65, 0.35]]).expand(60, 2))


def test_labels_are_refined_by_strong_views(tmp_path):
    class Halved(Augmentation):
        def strong(self, faces, rng):
            return faces / 2

    faces, labelled = stripes(LABELS)
    seen = []

    def listening(views):
        seen.append(views)
        return views.flatten(1)[:, :2]

    said = refined_labels(
        [listening], faces, labelled, augmentation=Halved(GENTLE), views=1, seed=0,
        fabric=make_fabric(COMPUTE), checkpoint=Checkpoint.of(tmp_path, {}, []),
    )  # fmt: skip
    torch.testing.assert_close(torch.cat(seen), to_tensor(faces) / 2)
    torch.testing.assert_close(said, to_tensor(faces).flatten(1)[:, :2] / 2)


def test_refined_labels_follow_the_faces_and_the_seed(tmp_path):
    torch.manual_seed(0)
    net = Trained(ACCNN(MODEL, 2).eval(), ("calm", "glad"), 16)
    said = refine([net], tmp_path / "one")
    assert torch.equal(said, refine([net], tmp_path / "two"))
    assert not torch.equal(said, refine([net], tmp_path / "two", seed=1))
    assert not torch.equal(said, refine([net], tmp_path / "two", views=3))
    torch.testing.assert_close(said.sum(dim=1), torch.ones(60))


def test_killed_they_go_on_with_the_views_that_were_shown(tmp_path):
    faces, labelled = stripes(LABELS)
    seen = []

    def counting(views):
        seen.append(views)
        if len(seen) == 2:
            raise Killed
        return voice(saying(0.0, 1.0))(views)

    def refined_by_it(folder):
        return refined_labels(
            [counting], faces, labelled, augmentation=Augmentation(GENTLE), views=2, seed=0,
            fabric=make_fabric(COMPUTE), checkpoint=Checkpoint.of(folder, {}, []),
        )  # fmt: skip

    with pytest.raises(Killed):
        refined_by_it(tmp_path)
    said = refined_by_it(tmp_path)
    assert len(seen) == 3
    assert torch.equal(seen[1], seen[2])
    assert not torch.equal(seen[0], seen[1])
    assert said.shape == (60, 2)


def test_an_expression_that_they_do_not_know_is_named():
    with pytest.raises(MienError, match=r"refinery.networks: they know calm, glad, not bored;"):
        voice(saying(0.0, 0.0), ("calm", "bored"))


def test_faces_of_another_size_than_they_know_are_refused():
    known = replace(saying(0.0, 0.0), image_size=48)
    with pytest.raises(MienError, match=r"know faces of 48 pixels, and prepare\.image_size is 16"):
        voice(known)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_loss_with_refined_labels_written_out(weight):
    faces, labelled = stripes(LABELS)
    said = torch.rand(60, 2, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    task = advised(faces, labelled, refined(said), weight)
    assert set(task.state_dict()) == {
        "log_prior", *(f"net.{name}" for name in task.net.state_dict())
    }  # fmt: skip
    task.begin_epoch(0, 2, task.net, torch.Generator().manual_seed(0))
    losses = task(1, task.net, torch.Generator().manual_seed(5))

    views, labels = task.batch(1, torch.Generator().manual_seed(5))
    prior = torch.tensor([40 / 60, 20 / 60]).log()
    logs = (task.net(views) + prior).log_softmax(dim=1)
    smoothed = torch.full((16, 2), 0.05)
    smoothed[torch.arange(16), labels] = 0.95
    targets = (1 - weight) * smoothed + weight * said[task._batches[1]]
    torch.testing.assert_close(losses["loss"], -(targets * logs).sum(dim=1).mean())


def test_refined_labels_are_learned_against_wrong_ones(tmp_path):
    faces, labelled = stripes(LABELS)
    torch.manual_seed(0)
    right = SupervisedTask(ACCNN(LARGER, 2), faces, labelled, TRAINING, Augmentation(GENTLE))
    larger = train(right, tmp_path / "larger").model
    noise = np.random.default_rng(1).permutation(labelled.labels)
    order = np.random.default_rng(2).permutation(60)  # rows in another order than the store's
    shuffled = LabelledRows(labelled.rows[order], noise)
    known = Trained(larger, ("calm", "glad"), 16)
    said = refine([known], tmp_path / "labels", shuffled, views=3)
    learned = train(advised(faces, shuffled, refined(said), 1.0), tmp_path / "net").model
    predicted = embed_faces(learned, faces, labelled.rows).logits.argmax(axis=1)
    assert (predicted == labelled.labels).mean() > 0.95
