"""Joint learning: the step's terms, sampling, rounds, and going on after a kill."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mien.data.augmentation import Augmentation
from mien.data.dataset import LabelledRows
from mien.learning.checkpoint import Checkpoint
from mien.learning.clustering import guided_clustering
from mien.learning.embedding import embed_faces
from mien.learning.joint import (
    ClusterTask,
    JointData,
    JointTask,
    agreement,
    cluster_faces,
    keeping_statistics,
)
from mien.learning.training import fit, make_fabric
from mien.model.accnn import ACCNN
from mien.params.learning import ClusterSettings
from tests.killing import Killed, killing
from tests.learning.conftest import COMPUTE, GENTLE, MODEL

SETTINGS = ClusterSettings(
    epochs=2, steps_per_epoch=3, batch_size=6, learning_rate=0.01, weight_decay=0, ema_decay=0.5,
    label_smoothing=0, class_balance=1, rounds=2, unlabelled_batch_size=12, labelled_view="weak",
    pseudo_weight=1, consistency_weight=1, consistency_threshold=0.2, consistency_temperature=0,
    center_weight=0.1, island_weight=0.1, prototypes_per_expression=2, free_prototypes=2,
    networks=["accnn"], free_share=0.2, iterations=3, temperature=0.1, prior_steps=2,
    prior_strength=5, dustbin_similarity=0.2, neighbours=3, chunk=16,
)  # fmt: skip
AUGMENTATION = Augmentation(GENTLE)
CLASSES = 3


def data(labelled=12, unlabelled=40):
    rng = np.random.default_rng(0)
    faces = rng.integers(0, 256, (labelled + unlabelled, 16, 16), dtype=np.uint8)
    rows = np.arange(labelled)
    return JointData(faces, LabelledRows(rows, rows % CLASSES), np.arange(labelled, len(faces)))


def network():
    torch.manual_seed(0)
    return ACCNN(MODEL, CLASSES)


def one_step(settings, targets=None, weights=None):
    task = JointTask(network(), data(), settings, AUGMENTATION)
    if targets is not None:
        task.set_targets(targets, weights, np.full(CLASSES, 1 / 3, np.float32))
    rng = torch.Generator().manual_seed(0)
    teacher = network().eval()
    task.begin_epoch(0, 3, teacher, rng)
    return task, task(0, teacher, rng)


def even_targets(weight=1.0):
    targets = np.eye(CLASSES, dtype=np.float32)[np.arange(40) % CLASSES]
    return targets, np.full(40, weight, np.float32)


def test_the_loss_is_the_sum_of_its_terms():
    _, losses = one_step(SETTINGS, *even_targets(0.5))
    terms = {name: value for name, value in losses.items() if name != "loss"}
    assert set(terms) == {"labelled", "pseudo", "consistency", "center", "island"}
    torch.testing.assert_close(losses["loss"], sum(terms.values()))


@pytest.mark.parametrize(
    ("weight", "term"),
    [("pseudo_weight", "pseudo"), ("consistency_weight", "consistency")],
)
def test_weight_zero_switches_a_term_off(weight, term):
    _, losses = one_step(SETTINGS.model_copy(update={weight: 0.0}), *even_targets(0.5))
    assert term not in losses


def test_weights_scale_their_terms():
    _, once = one_step(SETTINGS, *even_targets(0.5))
    _, twice = one_step(SETTINGS.model_copy(update={"pseudo_weight": 2.0}), *even_targets(0.5))
    torch.testing.assert_close(twice["pseudo"], 2 * once["pseudo"])


def test_rejected_faces_have_no_label_but_must_be_consistent():
    _, rejected = one_step(SETTINGS, *even_targets(0.0))
    assert rejected["pseudo"] == 0 < rejected["consistency"]


@pytest.mark.parametrize("view", ["weak", "strong"])
def test_labelled_faces_are_seen_in_the_view_that_was_asked_for(view):
    seen = {"weak": [], "strong": []}

    class Watched(Augmentation):
        def weak(self, faces, rng):
            seen["weak"].append(len(faces))
            return super().weak(faces, rng)

        def strong(self, faces, rng):
            seen["strong"].append(len(faces))
            return super().strong(faces, rng)

    settings = SETTINGS.model_copy(update={"labelled_view": view})
    task = JointTask(network(), data(), settings, Watched(AUGMENTATION.settings))
    rng = torch.Generator().manual_seed(0)
    teacher = network().eval()
    task.begin_epoch(0, 3, teacher, rng)
    task(0, teacher, rng)
    labelled, unlabelled = SETTINGS.batch_size, SETTINGS.unlabelled_batch_size
    expected = {"weak": [unlabelled], "strong": [unlabelled]}
    expected[view] = [labelled, *expected[view]]
    assert labelled != unlabelled
    assert seen == expected


def test_only_confident_guesses_count():
    doubtful = SETTINGS.model_copy(update={"consistency_threshold": 1.0})
    _, losses = one_step(doubtful, *even_targets(1.0))
    assert losses["consistency"] == 0


def test_a_guess_may_hand_on_its_doubt():
    undecided = {"consistency_threshold": 0.0, "consistency_temperature": 1.0}
    task = JointTask(network(), data(), SETTINGS.model_copy(update=undecided), AUGMENTATION)
    teacher = network().eval()
    faces = torch.rand(12, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    guess, counted = task._sharpened(task._guess(faces, teacher))
    assert counted.all()
    # aligned to even shares, from an average that is that of these very faces
    probabilities = teacher(faces).softmax(dim=1)
    expected = probabilities / probabilities.mean(dim=0)
    torch.testing.assert_close(guess, expected / expected.sum(dim=1, keepdim=True))


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_what_clusters_say_is_asked_for_in_place_of_the_networks_own_guess(balance):
    soft = {"consistency_threshold": 0.0, "consistency_temperature": 1.0, "class_balance": balance}
    prior = np.array([0.64, 0.2, 0.16], np.float32)
    said = np.random.default_rng(0).dirichlet(np.ones(CLASSES), 40).astype(np.float32)
    task = JointTask(network(), data(), SETTINGS.model_copy(update=soft), AUGMENTATION)
    task.set_targets(*even_targets(), prior)
    task.set_guesses(said)
    # of the prior the power `class_balance` is taken out of the batches, and so out of the guess
    expected = said * prior**-balance
    expected /= expected.sum(axis=1, keepdims=True)
    torch.testing.assert_close(task.guesses, torch.from_numpy(expected))

    def refuse(*_):
        raise AssertionError("the network was asked for its own guess")

    task._guess = refuse
    rng = torch.Generator().manual_seed(0)
    task.begin_epoch(0, 3, network(), rng)
    spoken = []
    both = task.net.forward_both

    def listen(views):
        spoken.append(both(views)[1])
        return both(views)

    task.net.forward_both = listen
    losses = task(0, network().eval(), rng)
    of_unlabelled = spoken[1].log_softmax(dim=1)
    by_hand = -(task.guesses[task._unlabelled[0]] * of_unlabelled).sum(dim=1).mean()
    torch.testing.assert_close(losses["consistency"], by_hand)


def test_guesses_of_clusters_survive_a_kill(tmp_path):
    said = np.random.default_rng(0).dirichlet(np.ones(CLASSES), 40).astype(np.float32)

    def task(posterior):
        made = JointTask(network(), data(), SETTINGS, AUGMENTATION)
        made.set_targets(*even_targets(), np.full(CLASSES, 1 / 3, np.float32))
        made.set_guesses(posterior)
        return made

    before, after = task(said), task(said[::-1].copy())
    checkpoint = Checkpoint(tmp_path / "run.safetensors")
    adam = torch.optim.AdamW(before.parameters())
    checkpoint.save({"task": before}, adam, {})
    checkpoint.load({"task": after}, torch.optim.AdamW(after.parameters()))
    assert torch.equal(before.guesses, after.guesses)


@pytest.mark.parametrize("balance", [0.5, 1.0])
def test_rare_expressions_are_drawn_more_often_or_as_often_as_common_ones(balance):
    labels = np.array([0] * 30 + [1] * 4 + [2] * 6)
    changes = {"unlabelled_batch_size": 600, "class_balance": balance}
    settings = SETTINGS.model_copy(update=changes)
    task = JointTask(network(), data(), settings, AUGMENTATION)
    weights = np.ones(40, np.float32)
    task.set_targets(np.eye(3, dtype=np.float32)[labels], weights, np.full(3, 1 / 3, np.float32))
    task.begin_epoch(0, 3, network(), torch.Generator().manual_seed(0))
    drawn = np.bincount(labels[task._unlabelled.ravel()], minlength=3) / 1800
    left = np.array([30, 4, 6]) ** (1 - balance)
    np.testing.assert_allclose(drawn, left / left.sum(), atol=0.04)


def test_guesses_are_aligned_to_what_is_drawn_from_the_first_step_on():
    """Balanced batches: frequent expressions get no bonus, not even in the first step."""
    skewed = np.array([0.8, 0.1, 0.1], np.float32)
    guesses = {}
    for prior in (skewed, np.full(CLASSES, 1 / 3, np.float32)):
        task = JointTask(network(), data(), SETTINGS, AUGMENTATION)
        task.set_targets(*even_targets(), prior)
        faces = torch.rand(30, 1, 16, 16, generator=torch.Generator().manual_seed(1))
        teacher = network().eval()
        guesses[float(prior[0])], _ = task._sharpened(task._guess(faces, teacher))
        torch.testing.assert_close(task.average, teacher(faces).softmax(dim=1).mean(dim=0))
    first, second = guesses.values()
    assert torch.equal(first, second)


def test_rejected_faces_are_drawn_as_often_as_those_of_the_commonest_expression():
    labels = np.array([0] * 16 + [1] * 4 + [2] * 20)
    weights = np.array([1.0] * 20 + [0.0] * 20, np.float32)  # the last are rejected
    settings = SETTINGS.model_copy(update={"unlabelled_batch_size": 600})
    task = JointTask(network(), data(), settings, AUGMENTATION)
    task.set_targets(np.eye(3, dtype=np.float32)[labels], weights, np.full(3, 1 / 3, np.float32))
    task.begin_epoch(0, 3, network(), torch.Generator().manual_seed(0))
    drawn = np.bincount(labels[task._unlabelled.ravel()], minlength=3) / 1800
    # 16 faces of a sixteenth, 4 of a quarter, 20 of a sixteenth
    np.testing.assert_allclose(drawn, np.array([1, 1, 20 / 16]) / 3.25, atol=0.04)


def test_the_average_of_the_guesses_moves_by_a_hundredth():
    task = JointTask(network(), data(), SETTINGS, AUGMENTATION)
    for said in ([0.5, 0.3, 0.2], [0.1, 0.1, 0.8]):
        task._guess(torch.tensor([said]).log(), teacher=lambda logits: logits)
    torch.testing.assert_close(task.average, torch.tensor([0.496, 0.298, 0.206]))


def test_unlabelled_faces_leave_the_running_statistics_alone():
    """Faces from elsewhere once bent them, and with them the accuracy on the labelled kind."""
    net = network().train()
    before = {name: value.clone() for name, value in net.named_buffers() if "running" in name}
    with keeping_statistics(net):
        net(torch.rand(8, 1, 16, 16))
    after = dict(net.named_buffers())
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    net(torch.rand(8, 1, 16, 16))
    after = dict(net.named_buffers())
    assert not any(torch.equal(value, after[name]) for name, value in before.items())


def cluster(folder, kill_after=None):
    fabric = make_fabric(COMPUTE)  # first: it settles the number of threads, and so the last digits
    task = ClusterTask(network(), data(), SETTINGS, AUGMENTATION, 0)
    try:
        return task, fit(
            task, SETTINGS, epochs=4, seed=0, fabric=fabric,
            checkpoint=Checkpoint(folder / "run.safetensors"), title="test",
            validate=killing(kill_after),
        )  # fmt: skip
    except Killed:
        return task, None


@pytest.mark.parametrize("kill_after", [0, 1, 2, 3])
def test_rounds_go_on_after_a_kill_as_if_nothing_had_been(tmp_path, kill_after):
    whole_task, whole = cluster(tmp_path / "whole")
    cluster(tmp_path / "broken", kill_after)
    task, resumed = cluster(tmp_path / "broken")
    assert whole.history == resumed.history
    ours, theirs = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert torch.equal(whole_task.clusters, task.clusters)


def test_each_round_clusters_once_and_compares_with_the_last(tmp_path):
    task, fitted = cluster(tmp_path)
    assert [record["round"] for record in fitted.history] == [1, 1, 2, 2]
    assert ["nmi" in record for record in fitted.history] == [False, False, True, False]
    assert 0 <= fitted.history[2]["nmi"] <= 1
    assert task.targets.sum(dim=1).allclose(torch.ones(40), atol=1e-4)
    best, second = task.targets.topk(2, dim=1).values.T
    torch.testing.assert_close(task.weights, best - second)


def test_clustering_covers_every_unlabelled_face():
    found = cluster_faces(network().eval(), data(), SETTINGS, 0)
    assert found.clustering.cluster.shape == found.flip_agrees.shape == (40,)
    assert found.clustering.posterior.shape == (40, CLASSES)


@pytest.mark.parametrize("balance", [0.0, 0.25, 1.0])
def test_the_head_expects_what_balanced_softmax_leaves_of_the_shares(monkeypatch, balance):
    given = []

    def listen(*arguments):
        given.append(arguments)
        return guided_clustering(*arguments)

    monkeypatch.setattr("mien.learning.joint.guided_clustering", listen)
    uneven = replace(data(), labelled=LabelledRows(np.arange(12), np.repeat([0, 1, 2], [8, 3, 1])))
    settings = SETTINGS.model_copy(update={"class_balance": balance})
    cluster_faces(network().eval(), uneven, settings, 7)
    assert given[0][-1] == 7, "the seed"
    left = np.array([8, 3, 1]) ** (1 - balance)
    np.testing.assert_allclose(given[0][4], left / left.sum(), rtol=1e-5)


def test_a_face_and_its_mirror_image_count_alike():
    model, known = network().eval(), data()
    found = cluster_faces(model, known, SETTINGS, 0)
    turned = replace(known, faces=known.faces[:, :, ::-1].copy())
    mirrored = cluster_faces(model, turned, SETTINGS, 0)
    for name in ("embeddings", "logits"):
        ours, theirs = (getattr(each.embedded, name) for each in (found, mirrored))
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-6)
    plain = embed_faces(model, known.faces, known.unlabelled)
    other = embed_faces(model, known.faces, known.unlabelled, flip=True)
    np.testing.assert_allclose(found.embedded.logits, (plain.logits + other.logits) / 2, rtol=1e-5)
    # labelled faces, embeddings and the head's word are all seen from both sides
    ours, theirs = found.clustering, mirrored.clustering
    np.testing.assert_allclose(ours.posterior, theirs.posterior, atol=1e-3)
    np.testing.assert_allclose(ours.prior, theirs.prior, rtol=1e-5)


def test_a_face_and_its_mirror_image_agree_where_both_are_likeliest_the_same():
    model, known = network().eval(), data()
    typical = embed_faces(model, known.faces, known.unlabelled).embeddings.mean(axis=0)
    with torch.no_grad():  # no expression is favoured, so that noise decides
        model.head.bias.copy_(-model.head.weight @ torch.from_numpy(typical))
    said = [
        embed_faces(model, known.faces, known.unlabelled, flip=flip).logits.argmax(axis=1)
        for flip in (False, True)
    ]
    agrees = cluster_faces(model, known, SETTINGS, 0).flip_agrees
    np.testing.assert_array_equal(agrees, said[0] == said[1])
    assert set(agrees.tolist()) == {False, True}


def test_embedding_does_not_depend_on_the_chunk():
    model, known = network().eval(), data()
    rows = np.array([5, 3, 30])
    whole = embed_faces(model, known.faces, rows)
    parts = embed_faces(model, known.faces, rows, chunk=1)
    np.testing.assert_allclose(whole.embeddings, parts.embeddings, atol=1e-5)
    np.testing.assert_allclose(whole.probabilities.sum(axis=1), 1, rtol=1e-5)


def test_flip_embeds_the_mirror_image():
    model, known = network().eval(), data()
    mirrored = known.faces[:, :, ::-1].copy()
    np.testing.assert_allclose(
        embed_faces(model, known.faces, np.arange(4), flip=True).logits,
        embed_faces(model, mirrored, np.arange(4)).logits,
        atol=1e-5,
    )


def test_agreement_ignores_names():
    assert agreement(np.array([0, 0, 1, 1]), np.array([5, 5, 2, 2])) == pytest.approx(1)
    assert agreement(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1])) == pytest.approx(0, abs=1e-6)
