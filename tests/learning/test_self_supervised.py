"""The start without labels: the loss by hand, no collapse, no label read, and it resumes."""

import numpy as np
import pytest
import torch

from mien.data.augmentation import Augmentation
from mien.data.dataset import LabelledRows, to_tensor
from mien.learning.checkpoint import Checkpoint
from mien.learning.self_supervised import SelfSupervisedTask, effective_rank, vicreg
from mien.learning.training import fit, make_fabric
from mien.model.accnn import ACCNN
from mien.params.learning import SelfSupervisedSettings
from tests.killing import Killed, killing
from tests.learning.conftest import COMPUTE, GENTLE, MODEL, Unreadable, stripes

SETTINGS = SelfSupervisedSettings(
    networks=["accnn"], epochs=3, steps_per_epoch=6, batch_size=16, learning_rate=0.01,
    weight_decay=0.01, ema_decay=0.8, strength=1, projection=16, invariance_weight=25,
    variance_weight=25, covariance_weight=1,
)  # fmt: skip
FACES, _ = stripes(np.arange(1, 81) % 2)
ROWS = np.arange(60)  # the last faces are not to be learned from


def make_task(settings=SETTINGS, faces=FACES):
    torch.manual_seed(3)
    labelled = LabelledRows(ROWS[:20], Unreadable())
    return SelfSupervisedTask(
        ACCNN(MODEL, 2), faces, labelled, ROWS, settings, Augmentation(GENTLE)
    )


def train(folder, *, settings=SETTINGS, kill_after=None, task=None):
    return fit(
        task or make_task(settings), settings, epochs=settings.epochs, seed=0,
        fabric=make_fabric(COMPUTE), checkpoint=Checkpoint(folder / "run.safetensors"),
        validate=killing(kill_after, lambda net: effective_rank(net, FACES, ROWS)), title="test",
    )  # fmt: skip


def test_the_terms_by_hand():
    # First view: mean (1, 2), deviations ±1 and ±2 together: variances 2 and 8, covariance 4.
    first = torch.tensor([[0.0, 0.0], [2.0, 4.0]])
    # Second view: the first dimension is constant: variance 0, so σ = 0.01; the other 0.5.
    second = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    terms = vicreg(first, second)
    assert terms.invariance.item() == pytest.approx((1 + 0 + 1 + 9) / 4)
    hinges = (1 - 0.01) + (1 - np.sqrt(0.5 + 1e-4))
    assert terms.variance.item() == pytest.approx(hinges / 2 / 2, rel=1e-5)
    assert terms.covariance.item() == pytest.approx(2 * 4**2 / 2)


def test_the_loss_is_of_two_strong_views_and_weighs_its_terms():
    class Alternating(Augmentation):
        """The first view is the face as it is, the second its half on its head."""

        views = 0

        def strong(self, faces, rng):
            self.views += 1
            return faces if self.views == 1 else faces.flip(-2) / 2

    weights = {"invariance": 3.0, "variance": 5.0, "covariance": 7.0}
    changes = {f"{name}_weight": weight for name, weight in weights.items()}
    task = make_task(SETTINGS.model_copy(update=changes))
    task.augmentation = Alternating(GENTLE)
    rng = torch.Generator().manual_seed(0)
    task.begin_epoch(0, 6, task.net, rng)
    losses = task(1, task.net, rng)
    _, faces = task.batch(1)
    both = task.projector(task.net.embed(torch.cat([faces, faces.flip(-2) / 2])))
    terms = vicreg(both[:16], both[16:])._asdict()
    for name, weight in weights.items():
        torch.testing.assert_close(losses[name], weight * terms[name])
    expected = sum(weight * terms[name] for name, weight in weights.items())
    torch.testing.assert_close(losses["loss"], expected)


def test_mixed_precision_leaves_the_terms_exact():
    """Of projections as wide as these the sum of squared covariances is infinite in float16."""

    class Wide(torch.nn.Module):
        def forward(self, z):
            return 100 * z.repeat(1, 64).half()

    task = make_task(SETTINGS)
    task.projector = Wide()
    task.begin_epoch(0, 6, task.net, torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.float16):
        losses = task(1, task.net, torch.Generator().manual_seed(0))
    assert all(term.dtype == torch.float32 and term.isfinite() for term in losses.values())


def test_a_collapsed_batch_costs_the_whole_variance_term():
    same = torch.ones(8, 5)
    terms = vicreg(same, same)
    assert terms.invariance == 0
    assert terms.covariance == 0
    assert terms.variance.item() == pytest.approx(0.99)


class FirstPixels(torch.nn.Module):
    """Embeds a face as its first three pixels."""

    embedding_size = 3

    def __init__(self):
        super().__init__()
        self.head = torch.nn.Linear(3, 2)

    def forward_both(self, faces):
        z = faces.flatten(1)[:, :3]
        return z, self.head(z)


def test_effective_rank_by_hand():
    faces = np.zeros((4, 2, 2), np.uint8)
    faces[:, 0, 0], faces[:, 0, 1] = [0, 200, 0, 200], [0, 0, 200, 200]
    rows = np.arange(4)
    # two equal singular values; the third dimension is constant
    assert effective_rank(FirstPixels(), faces, rows)["effective_rank"] == pytest.approx(2)
    assert effective_rank(FirstPixels(), faces * 0, rows) == {"effective_rank": 1.0}


def test_it_does_not_collapse_and_without_its_guards_it_does(tmp_path):
    settings = SETTINGS.model_copy(update={"epochs": 6, "steps_per_epoch": 10})
    bare = settings.model_copy(update={"variance_weight": 0.0, "covariance_weight": 0.0})
    deviation = {}
    for name, each in {"guarded": settings, "bare": bare}.items():
        task = make_task(each)
        train(tmp_path / name, settings=each, task=task)
        with torch.no_grad():
            z = task.projector(task.net.embed(to_tensor(FACES[ROWS])))
        deviation[name] = z.std(dim=0).mean().item()
    assert deviation["guarded"] > 3 * deviation["bare"]


def test_views_of_one_face_become_alike(tmp_path):
    history = train(tmp_path, settings=SETTINGS.model_copy(update={"epochs": 8})).history
    assert history[-1]["loss"] < history[0]["loss"]


@pytest.mark.parametrize("kill_after", [0, 2])
def test_killed_and_resumed_ends_with_the_same_weights(tmp_path, kill_after):
    whole = train(tmp_path / "whole")
    with pytest.raises(Killed):
        train(tmp_path / "broken", kill_after=kill_after)
    resumed = train(tmp_path / "broken")
    ours, theirs = whole.model.state_dict(), resumed.model.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert whole.history == resumed.history


def test_only_the_given_faces_are_seen(tmp_path):
    seen = set()

    class Watched(np.ndarray):
        def __getitem__(self, rows):
            seen.update(np.atleast_1d(rows).tolist())
            return np.asarray(self)[rows]

    train(tmp_path, task=make_task(faces=FACES.view(Watched)))
    assert seen == set(ROWS.tolist())
