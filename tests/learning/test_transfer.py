"""A start from another network: its body is taken over, a head is fitted to the labelled faces."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from mien.data.dataset import LabelledRows, to_tensor
from mien.errors import MienError
from mien.learning import transfer
from mien.learning.training import class_log_prior, renew_statistics
from mien.learning.transfer import begin_with, best_strength, mean_with_first, of_each
from mien.model.accnn import ACCNN
from mien.model.weights import Trained
from tests.model.test_accnn import SETTINGS

SIZE = 24
OTHERS = ("p", "q", "r", "s")


@pytest.fixture
def trained():
    torch.manual_seed(0)
    return Trained(ACCNN(SETTINGS, 5).eval(), ("a", "b", "c", "d", "e"), SIZE)


def faces_of(classes, count=20, seed=0):
    """Symmetric faces ``[N, S, S]`` with a white row for their class, in noise; the classes."""
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(classes), count)
    faces = rng.integers(0, 120, (len(labels), SIZE, SIZE)).astype(np.uint8)
    faces = np.maximum(faces, faces[:, :, ::-1])
    faces[np.arange(len(labels)), 4 * labels + 2] = 255
    return faces, LabelledRows(np.arange(len(labels)), labels)


def begin(model, trained, faces, labelled, **changes):
    """`begin_with`, for expressions that the other does not know and no prior unless said."""
    classes = model.head.out_features
    usual = {"expressions": OTHERS[:classes], "log_prior": torch.zeros(classes), "seed": 0}
    return begin_with(model, trained, faces, labelled, **usual | changes)


@pytest.mark.parametrize("classes", [2, 4])
@pytest.mark.parametrize("balance", [0.0, 0.5])
def test_the_head_is_a_logistic_regression_on_the_others_embeddings(trained, classes, balance):
    faces, labelled = faces_of(classes, count=40)
    faces, labelled = faces[12:], LabelledRows(labelled.rows[:-12], labelled.labels[12:])  # uneven
    log_prior = class_log_prior(labelled.labels, classes, balance)
    model = ACCNN(SETTINGS, classes)
    strength = begin(model, trained, faces, labelled, log_prior=log_prior)
    model.eval()
    with torch.no_grad():
        embeddings = trained.model.embed(to_tensor(faces))
        torch.testing.assert_close(model.embed(to_tensor(faces)), embeddings)
        found = (model(to_tensor(faces)) + log_prior).softmax(dim=1).numpy()
    z = embeddings.numpy() / embeddings.numpy().std()
    expected = LogisticRegression(C=strength, max_iter=1000).fit(z, labelled.labels)
    np.testing.assert_allclose(found, expected.predict_proba(z), atol=1e-3)
    assert (found.argmax(axis=1) == labelled.labels).mean() > 0.6
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_the_head_is_fitted_to_both_sides_of_the_faces(trained):
    faces, labelled = faces_of(3)
    faces[:, :, : SIZE // 2] = 0  # each has one bright side
    model = ACCNN(SETTINGS, 3)
    strength = begin(model, trained, faces, labelled)
    with torch.no_grad():
        left, right = (
            trained.model.embed(to_tensor(side)).numpy() for side in (faces, faces[:, :, ::-1])
        )
    z = (left + right) / 2
    assert np.abs(left - z).max() > 0.1 * z.std()
    expected = LogisticRegression(C=strength, max_iter=1000).fit(z / z.std(), labelled.labels)
    found = torch.from_numpy(z) @ model.head.weight.T + model.head.bias
    chances = found.softmax(dim=1).detach().numpy()
    np.testing.assert_allclose(chances, expected.predict_proba(z / z.std()), atol=1e-3)


def test_faces_that_say_nothing_get_the_strongest_regularisation(trained):
    faces, labelled = faces_of(3)
    shuffled = np.random.default_rng(0).permutation(labelled.labels)
    nothing = LabelledRows(labelled.rows, shuffled)
    of = (ACCNN(SETTINGS, 3), trained, faces)
    assert begin(*of, nothing) < begin(*of, labelled)


def test_a_single_face_of_an_expression_is_enough(trained):
    faces, labelled = faces_of(3)
    few = LabelledRows(labelled.rows[19:], labelled.labels[19:])
    assert (few.labels == 0).sum() == 1
    begin(ACCNN(SETTINGS, 3), trained, faces, few)


def test_a_head_that_knows_the_expressions_better_stays(trained):
    """Of some of its expressions, in another order; from labels too few to fit one as good."""
    faces, labelled = faces_of(5, count=40)
    with torch.no_grad():
        z = trained.model.embed(to_tensor(faces)).numpy()
    learned = LogisticRegression(max_iter=2000, C=1e4).fit(z, labelled.labels)
    with torch.no_grad():
        trained.model.head.weight.copy_(torch.from_numpy(learned.coef_))
        trained.model.head.bias.copy_(torch.from_numpy(learned.intercept_))
    chosen = np.flatnonzero(np.isin(labelled.labels, [1, 3]))[::8]
    few = LabelledRows(labelled.rows[chosen], np.where(labelled.labels[chosen] == 3, 0, 1))
    model = ACCNN(SETTINGS, 2)
    of = (model, trained, faces, few)
    assert begin(*of, expressions=["d", "b"]) is None
    head = trained.model.head
    torch.testing.assert_close(model.head.weight, head.weight[[3, 1]])
    torch.testing.assert_close(model.head.bias, head.bias[[3, 1]])
    assert all(parameter.requires_grad for parameter in model.parameters())

    # under other names it has to be fitted
    assert begin(*of, expressions=["d", "q"])
    # and where it is wrong it does not stay
    assert begin(*of, expressions=["b", "d"])


@pytest.mark.parametrize(("better", "stays"), [([0.0, 2.0], False), ([-2.0, 4.0], True)])
def test_a_head_stays_where_a_fitted_one_is_better_by_chance(trained, monkeypatch, better, stays):
    """Better by 1 in the mean of eight faces, whose standard error is 0.38 or 1.13."""
    faces, labelled = faces_of(2, count=4)
    with torch.no_grad():
        logits = trained.model(to_tensor(faces))[:, :2]  # of both sides: the faces are symmetric
    own = logits.log_softmax(dim=1).numpy()[np.arange(8), labelled.labels]
    left_out = own + np.tile(better, 4)
    monkeypatch.setattr(transfer, "best_strength", lambda *_: (0.1, left_out))
    found = begin(ACCNN(SETTINGS, 2), trained, faces, labelled, expressions=["a", "b"])
    assert found == (None if stays else 0.1)


def test_a_face_left_out_is_as_likely_as_the_other_folds_make_it():
    z = np.random.default_rng(0).normal(size=(9, 2)).astype(np.float32)
    labels = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1])
    strength, left_out = best_strength(z, labels, seed=0)
    scaled, found = z / z.std(), np.empty(9)
    for learned, out in StratifiedKFold(3, shuffle=True, random_state=0).split(z, labels):
        head = LogisticRegression(C=strength, max_iter=1000).fit(scaled[learned], labels[learned])
        found[out] = np.log(head.predict_proba(scaled[out])[np.arange(len(out)), labels[out]])
    np.testing.assert_allclose(left_out, found, rtol=1e-5)
    assert best_strength(z[5:], labels[5:], seed=0)[1] is None  # one face cannot be left out


def test_a_head_is_heard_with_the_shares_that_it_leaves_out(trained):
    """One that says nothing is as good as can be where the faces tell nothing but shares."""
    faces, labelled = faces_of(2, count=150)
    rare = np.random.default_rng(0).permutation(300) < 60
    nothing = LabelledRows(labelled.rows, rare.astype(np.int64))
    torch.nn.init.zeros_(trained.model.head.weight)
    torch.nn.init.zeros_(trained.model.head.bias)
    log_prior = class_log_prior(nothing.labels, 2, 1.0)
    of = (ACCNN(SETTINGS, 2), trained, faces, nothing)
    assert begin(*of, expressions=["a", "b"], log_prior=log_prior) is None
    assert begin(*of, expressions=["a", "b"])


def test_another_network_or_other_faces_are_refused(trained):
    faces, labelled = faces_of(2)
    other = ACCNN(SETTINGS.model_copy(update={"stem": 16}), 2)
    with pytest.raises(MienError, match="these need a model of stem: 8"):
        begin(other, trained, faces, labelled)
    with pytest.raises(MienError, match=r"faces of 24 pixels; prepare.image_size is 20"):
        begin(ACCNN(SETTINGS, 2), trained, faces[:, :20, :20], labelled)


def test_of_very_many_faces_some_of_each_expression_give_the_head(monkeypatch):
    monkeypatch.setattr(transfer, "_FITTED", 10)
    labels = np.array([0] * 70 + [1] * 29 + [2])
    some = of_each(np.random.default_rng(0).permutation(labels))
    assert list(some) == sorted(set(some))
    chosen = of_each(labels)
    assert np.bincount(labels[chosen]).tolist() == [7, 5, 1]
    assert chosen[0] == 0
    assert 99 in chosen
    np.testing.assert_array_equal(of_each(labels[-10:]), np.arange(10))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_the_mean_with_the_first_weights(share):
    faces, labelled = faces_of(3)
    torch.manual_seed(1)
    began, learned = (ACCNN(SETTINGS, 3).eval() for _ in range(2))
    ours = {name: value.clone() for name, value in learned.state_dict().items()}
    first = {name: value.clone() for name, value in began.state_dict().items()}
    mean_with_first(learned, first, share, faces, labelled)
    expected = ACCNN(SETTINGS, 3).eval()
    weights = {name: share * first[name] + (1 - share) * ours[name] for name in ours}
    expected.load_state_dict({name: weights[name].to(ours[name].dtype) for name in ours})
    renew_statistics(expected, faces, labelled)  # not the mean of the two networks' own
    assert not learned.training
    for name, value in learned.state_dict().items():
        torch.testing.assert_close(value, expected.state_dict()[name], atol=1e-5, rtol=1e-5)
    assert all(torch.equal(value, began.state_dict()[name]) for name, value in first.items())
