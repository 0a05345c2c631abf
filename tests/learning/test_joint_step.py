"""A step of joint learning against section 4 of docs/method.md, written out."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import torch
from torch.nn.functional import normalize

from mien.data.augmentation import Augmentation
from mien.data.dataset import LabelledRows, to_tensor
from mien.learning.clustering import margin, unit
from mien.learning.joint import ClusterTask, JointTask, cluster_faces
from mien.model.accnn import ACCNN
from tests.learning.conftest import GENTLE, MODEL
from tests.learning.test_joint import AUGMENTATION, CLASSES, SETTINGS, data, network


class Plain(Augmentation):
    """A weak view is the face as it is, a strong one stands on its head."""

    def weak(self, faces, rng):
        return faces

    def strong(self, faces, rng):
        return faces.flip(-2)


def another_network(seed=5):
    torch.manual_seed(seed)
    return ACCNN(MODEL, CLASSES).eval()


def cross_entropy(targets, logits):
    return -(targets * logits.log_softmax(dim=1)).sum(dim=1)


def statistics(net):
    return {name: value for name, value in net.named_buffers() if "running" in name}


def test_a_step_is_what_its_equations_say():
    counts = np.array([7, 3, 2])
    known = replace(data(), labelled=LabelledRows(np.arange(12), np.repeat(np.arange(3), counts)))
    smoothing, balance, threshold = 0.1, 0.5, 0.475
    settings = SETTINGS.model_copy(
        update={
            "label_smoothing": smoothing, "class_balance": balance,
            "consistency_threshold": threshold, "consistency_temperature": 0.5,
            "pseudo_weight": 0.7, "consistency_weight": 1.3, "center_weight": 0.6,
            "island_weight": 0.2,
        }
    )  # fmt: skip
    random = np.random.default_rng(1)
    targets = random.dirichlet(np.ones(CLASSES), 40).astype(np.float32)
    weights = random.choice([0, 0.4, 0.9], 40).astype(np.float32)
    prior = np.array([0.6, 0.3, 0.1], np.float32)

    net, teacher = network(), another_network()
    with torch.no_grad():  # so that some guesses are sure enough and some are not
        teacher.head.weight *= 30
        still = deepcopy(net).eval()
        embeddings = still.embed(to_tensor(known.faces[known.labelled.rows])).numpy()
    start = deepcopy(net).train()
    task = JointTask(net, known, settings, Plain(GENTLE))
    task.set_targets(targets, weights, prior)
    rng = torch.Generator().manual_seed(0)
    task.begin_epoch(0, 3, teacher, rng)
    losses = task(2, teacher, rng)

    chosen, others = task._labelled[2], task._unlabelled[2]
    labels = torch.from_numpy(known.labelled.labels[chosen])
    t, w, pi = (torch.from_numpy(each) for each in (targets[others], weights[others], prior))
    unknown = to_tensor(known.faces[known.unlabelled[others]])
    z, ours = start.forward_both(to_tensor(known.faces[chosen]))
    seen = deepcopy(statistics(start))
    z_others, theirs = start.forward_both(unknown.flip(-2))

    smoothed = (1 - smoothing) * torch.eye(CLASSES)[labels] + smoothing / CLASSES
    shares = torch.from_numpy(counts / counts.sum()).float()
    p = teacher(unknown).softmax(dim=1)
    guess = p * pi ** (1 - balance) / p.mean(dim=0)
    guess /= guess.sum(dim=1, keepdim=True)
    sure = guess.amax(dim=1) >= threshold
    assert 0 < sure.sum() < len(sure)
    sharp = guess**2 / (guess**2).sum(dim=1, keepdim=True)

    of_labels = known.labelled.labels
    points = unit(embeddings)
    c = torch.from_numpy(np.stack([points[of_labels == k].mean(axis=0) for k in range(CLASSES)]))
    away = normalize(torch.cat([z, z_others]), dim=1) - c[torch.cat([labels, t.argmax(dim=1)])]
    both = torch.cat([torch.ones(len(labels)), w])
    d = normalize(c - c.mean(dim=0), dim=1)
    pairs = [d[j] @ d[k] + 1 for j in range(CLASSES) for k in range(CLASSES) if j != k]
    expected = {
        "labelled": cross_entropy(smoothed, ours + balance * shares.log()).mean(),
        "pseudo": 0.7 * (w * cross_entropy(t, theirs)).mean(),
        "consistency": 1.3 * (sure * cross_entropy(sharp, theirs)).mean(),
        "center": 0.6 * (both * away.square().sum(dim=1)).sum() / 2 / both.sum(),
        "island": 0.2 * torch.stack(pairs).mean(),
    }
    for name, value in expected.items():
        torch.testing.assert_close(losses[name], value, msg=lambda told, of=name: f"{of}: {told}")
    # faces from elsewhere leave no trace in what the averaged network guesses by
    for name, value in statistics(task.net).items():
        torch.testing.assert_close(value, seen[name])


def test_a_round_takes_what_the_averaged_network_finds():
    task, teacher = ClusterTask(network(), data(), SETTINGS, AUGMENTATION, 3), another_network()
    task.begin_epoch(0, 3, teacher, torch.Generator().manual_seed(0))
    found = cluster_faces(teacher, data(), SETTINGS, 3).clustering
    for ours, theirs in (
        (task.targets, found.posterior),
        (task.weights, margin(found.posterior)),
        (task.prior, found.prior),
        (task.clusters, found.cluster),
    ):
        torch.testing.assert_close(ours, torch.from_numpy(theirs))
