"""The terms of the combined loss against numbers worked out by hand."""

import math

import torch

from mien.model.losses import (
    CenterLoss,
    align,
    balanced_cross_entropy,
    island,
    sharpen,
    weighted_cross_entropy,
)


def test_balanced_cross_entropy_by_hand():
    # logits (0, 0), shares (3/4, 1/4): softmax(log share) = the shares themselves
    log_prior = torch.tensor([0.75, 0.25]).log()
    loss = balanced_cross_entropy(torch.zeros(2, 2), torch.tensor([0, 1]), log_prior)
    expected = -(math.log(0.75) + math.log(0.25)) / 2
    torch.testing.assert_close(loss, torch.tensor(expected))


def test_without_prior_it_is_cross_entropy():
    logits, targets = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    torch.testing.assert_close(
        balanced_cross_entropy(logits, targets, torch.zeros(4), 0.1),
        torch.nn.functional.cross_entropy(logits, targets, label_smoothing=0.1),
    )


def test_weighted_cross_entropy_by_hand():
    logits = torch.tensor([[0.0, 0.0], [0.0, math.log(3)]])
    targets = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    # H = log 2 for the first, log 4 for the second; weights 1 and 1/2; mean over both faces
    loss = weighted_cross_entropy(logits, targets, torch.tensor([1.0, 0.5]))
    expected = (math.log(2) + 0.5 * math.log(4)) / 2
    torch.testing.assert_close(loss, torch.tensor(expected))


def test_rejected_faces_do_not_count():
    logits = torch.randn(3, 4, requires_grad=True)
    targets = torch.eye(4)[:3]
    weighted_cross_entropy(logits, targets, torch.tensor([1.0, 0.0, 1.0])).backward()
    assert logits.grad is not None
    assert logits.grad[1].abs().max() == 0 < logits.grad[0].abs().max()


def test_center_loss_by_hand():
    criterion = CenterLoss(2, 2)
    with torch.no_grad():
        criterion.centers.copy_(torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    embeddings = torch.tensor([[3.0, 0.0], [0.0, 2.0], [0.0, 5.0]])  # unit: (1,0) (0,1) (0,1)
    labels = torch.tensor([0, 0, 1])
    # squared distances 0, 2, 1; weights 1, 1, 2: (0 + 2 + 2) / (2 · 4)
    center, _ = criterion(embeddings, labels, torch.tensor([1.0, 1.0, 2.0]))
    torch.testing.assert_close(center, torch.tensor(0.5))


def test_center_loss_of_no_accepted_face_is_zero():
    center, island_loss = CenterLoss(2, 2)(
        torch.rand(3, 2), torch.tensor([0, 1, 0]), torch.zeros(3)
    )
    assert center == 0
    assert torch.isfinite(island_loss)


def test_island_by_hand():
    # three centers at the corners of an equilateral triangle: cosines of -1/2 from their mean
    angles = torch.tensor([0.0, 2 * math.pi / 3, 4 * math.pi / 3])
    centers = torch.stack([angles.cos(), angles.sin()], dim=1) + 10
    torch.testing.assert_close(island(centers), torch.tensor(0.5), rtol=1e-4, atol=1e-4)


def test_island_pushes_centers_apart():
    centers = torch.tensor([[1.0, 0.1], [1.0, -0.1], [0.0, 1.0]], requires_grad=True)
    before = island(centers)
    before.backward()
    assert centers.grad is not None
    assert island(centers.detach() - 0.05 * centers.grad) < before


def test_alignment_by_hand():
    probabilities = torch.tensor([[0.5, 0.5]])
    # the network says the first class twice as often as it should
    aligned = align(probabilities, torch.tensor([0.8, 0.2]), torch.tensor([0.4, 0.6]))
    # 0.5·0.5 : 0.5·3 = 1 : 6
    torch.testing.assert_close(aligned, torch.tensor([[1 / 7, 6 / 7]]))


def test_alignment_to_its_own_average_changes_nothing():
    probabilities = torch.rand(5, 3).softmax(dim=1)
    average = torch.tensor([0.2, 0.3, 0.5])
    torch.testing.assert_close(align(probabilities, average, average), probabilities)


def test_alignment_of_what_is_never_said_stays_a_number():
    aligned = align(torch.tensor([[1.0, 0.0]]), torch.tensor([1.0, 0.0]), torch.tensor([0.5, 0.5]))
    torch.testing.assert_close(aligned, torch.tensor([[1.0, 0.0]]))


def test_sharpening_by_hand():
    guess = torch.tensor([[0.6, 0.3, 0.1]])
    torch.testing.assert_close(sharpen(guess, 0), torch.tensor([[1.0, 0, 0]]))
    torch.testing.assert_close(sharpen(guess, 1), guess)
    squares = torch.tensor([[0.36, 0.09, 0.01]]) / 0.46
    torch.testing.assert_close(sharpen(guess, 0.5), squares)
    impossible = sharpen(torch.tensor([[1.0, 0.0]]), 0.5)
    torch.testing.assert_close(impossible, torch.tensor([[1.0, 0.0]]))


def test_centers_start_at_the_means_and_follow_their_faces():
    """Once they started at zero, where the island term's gradient froze them under Adam."""
    torch.manual_seed(0)
    criterion = CenterLoss(2, 3)
    labels = torch.tensor([0, 0, 1, 1])
    start = torch.tensor([[2.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 3]])
    criterion.start_at(start, labels)
    torch.testing.assert_close(criterion.centers[0].detach(), torch.tensor([0.5, 0.5, 0]))
    torch.testing.assert_close(criterion.centers[1].detach(), torch.tensor([0.0, 0, 1]))

    moved = torch.tensor([[0.0, 1, 0], [0, 1, 0], [1, 0, 0], [1, 0, 0]])
    optimizer = torch.optim.Adam(criterion.parameters(), lr=0.02)
    for _ in range(100):
        center, island_loss = criterion(moved, labels, torch.ones(4))
        optimizer.zero_grad()
        (0.05 * center + 0.01 * island_loss).backward()
        optimizer.step()
    assert center < 0.05
