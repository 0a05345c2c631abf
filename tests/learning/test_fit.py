"""The training loop written out, on a network of three numbers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from mien.data.dataset import LabelledRows
from mien.learning.checkpoint import Checkpoint
from mien.learning.training import Fitted, Task, fit, generator, make_fabric, one_cycle
from mien.model.accnn import FaceNetwork
from mien.params.learning import ScheduleSettings
from tests.learning.conftest import COMPUTE

SEED, EPOCHS, STEPS = 3, 2, 4
SCHEDULE = ScheduleSettings(
    epochs=EPOCHS, steps_per_epoch=STEPS, batch_size=5, learning_rate=0.3, weight_decay=0.2,
    ema_decay=0.7,
)  # fmt: skip
AIM = torch.tensor([[1.0, 2.0]])


class Line(FaceNetwork):
    """Its buffer is the sum of all points that it has seen."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(2, 1)
        self.register_buffer("seen", torch.zeros(()))


class LineTask(Task[Line]):
    """Learns, beside the network, something of two dimensions that is no filter."""

    def __init__(self, net: Line) -> None:
        super().__init__(
            net, np.zeros((1, 2, 2), np.uint8), LabelledRows(np.arange(1), np.arange(1))
        )
        self.aim = nn.Parameter(AIM.clone())
        self.modes: list[tuple[bool, bool]] = []

    def begin_epoch(self, epoch, steps, teacher, rng):
        self.points = torch.rand(steps, 5, 2, generator=rng)
        return {"begun": float(epoch)}

    def forward(self, step, teacher, rng):
        self.modes.append((self.net.training, teacher.training))
        points = self.points[step] + torch.rand(5, 2, generator=rng)
        self.net.seen += points.sum()
        return losses(points, self.net.head.weight, self.net.head.bias, self.aim)


def losses(points, weight, bias, aim):
    first = (points @ weight.T + bias - 1).square().mean()
    second = (points - aim).square().mean()
    return {"loss": first + second, "first": first}


def fitted(folder: Path, net: Line) -> tuple[Fitted[Line], LineTask]:
    task = LineTask(net)
    return fit(
        task, SCHEDULE, epochs=EPOCHS, seed=SEED, fabric=make_fabric(COMPUTE),
        checkpoint=Checkpoint(folder / "run.safetensors"), title="test",
        validate=lambda net: {"weight": net.head.weight[0, 0].item(), "seen": net.seen.item()},
    ), task  # fmt: skip


def test_the_loop_written_out(tmp_path):
    torch.manual_seed(0)
    net = Line()
    weight, bias, aim = (
        nn.Parameter(each.detach().clone()) for each in (net.head.weight, net.head.bias, AIM)
    )
    found, _ = fitted(tmp_path, net)

    adam = torch.optim.AdamW(
        [{"params": [weight], "weight_decay": 0.2}, {"params": [bias, aim], "weight_decay": 0.0}]
    )
    seen, average, history = torch.zeros(()), [], []
    for epoch in range(EPOCHS):
        rng = generator(SEED, epoch)
        epoch_points = torch.rand(STEPS, 5, 2, generator=rng)
        told = []
        for step in range(STEPS):
            points = epoch_points[step] + torch.rand(5, 2, generator=rng)
            seen = seen + points.sum()
            for group in adam.param_groups:
                group["lr"] = 0.3 * one_cycle((epoch * STEPS + step) / (EPOCHS * STEPS))
            adam.zero_grad()
            loss = losses(points, weight, bias, aim)
            loss["loss"].backward()
            adam.step()
            told.append({name: value.item() for name, value in loss.items()})
            now = [each.detach().clone() for each in (weight, bias, seen)]
            average = [0.7 * a + 0.3 * n for a, n in zip(average or now, now, strict=True)]
        history.append(
            {
                "epoch": epoch + 1,
                "begun": epoch,
                **{name: np.mean([each[name] for each in told]) for name in told[0]},
                "weight": average[0][0, 0].item(),
                "seen": average[2].item(),
            }
        )
    for ours, theirs in zip(found.history, history, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-4)
    torch.testing.assert_close(found.model.head.weight.detach(), average[0])
    torch.testing.assert_close(found.model.head.bias.detach(), average[1])


def test_a_network_that_was_asked_before_learns_in_training_mode(tmp_path):
    """What was read from disk, or has learned before, comes in evaluation mode."""
    found, task = fitted(tmp_path, Line().eval())
    assert task.modes == [(True, False)] * EPOCHS * STEPS
    assert not found.model.training


def test_each_part_of_a_run_draws_for_itself():
    draws = [float(torch.rand((), generator=generator(*key))) for key in ((0, 0), (0, 1), (1, 0))]
    assert len(set(draws)) == 3
    assert float(torch.rand((), generator=generator(0, 1))) == draws[1]
