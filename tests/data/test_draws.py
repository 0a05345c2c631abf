"""The seeded draws: shares, strata, whole people."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.data.sources.draws import draw_labels, draw_splits

labels = st.lists(st.sampled_from(["happy", "sad", "fear"]), min_size=1, max_size=120)
shares = st.floats(0.01, 1)


def draw(column: pd.Series, people: pd.Series, validation: float, test: float, seed: int):
    names = pd.Series([f"{i:03d}.png" for i in range(len(column))], dtype=object)
    return draw_splits(
        column, people, names, validation_share=validation, test_share=test, seed=seed
    )


@given(labels, shares, st.integers(0, 99))
def test_labels_are_drawn_from_each_expression(names: list[str], share: float, seed: int) -> None:
    column = pd.Series(names, dtype=object)
    chosen = draw_labels(column, share=share, seed=seed)
    for name, count in column.value_counts().items():
        drawn = chosen[column.eq(name).to_numpy()].sum()
        assert drawn >= 1
        assert drawn == 1 or abs(drawn - share * count) <= 0.5
    assert np.array_equal(chosen, draw_labels(column, share=share, seed=seed))
    assert draw_labels(column, share=1.0, seed=seed).all()


@given(labels, st.floats(0, 0.45), st.floats(0, 0.45), st.integers(0, 99))
def test_splits_are_stratified(names: list[str], validation: float, test: float, seed: int) -> None:
    column = pd.Series(names, dtype=object)
    people = pd.Series([None] * len(names), dtype=object)
    splits = draw(column, people, validation, test, seed)
    for name, count in column.value_counts().items():
        of_it = splits[column.eq(name).to_numpy()]
        assert (of_it == "train").any()
        assert (of_it == "test").sum() <= round(test * count)
        assert (of_it == "validation").sum() <= round(validation * count)
        if count >= 10:
            assert abs((of_it == "test").mean() - test) <= 0.5 / count + 1e-9
            assert abs((of_it == "validation").mean() - validation) <= 0.5 / count + 1e-9


@settings(max_examples=60)
@given(
    st.lists(st.sampled_from([*(f"p{i}" for i in range(30)), None]), min_size=2, max_size=150),
    st.floats(0, 0.45),
    st.floats(0, 0.45),
    st.integers(0, 99),
)
def test_nobody_is_on_two_sides(
    names: list[str | None], validation: float, test: float, seed: int
) -> None:
    people = pd.Series([*names, "p0"], dtype=object)
    column = pd.Series(["happy"] * len(people), dtype=object)
    splits = pd.Series(draw(column, people, validation, test, seed))
    assert (splits[people.notna()].groupby(people[people.notna()]).nunique() == 1).all()
    largest = people.value_counts().max()
    assert abs(splits.eq("test").sum() - test * len(people)) <= largest
    held_out = splits.ne("train").sum()
    assert abs(held_out - (test + validation) * len(people)) <= largest


def test_who_is_not_known_is_a_person_of_their_own() -> None:
    people = pd.Series(["p0", *[None] * 199], dtype=object)
    splits = draw(pd.Series(["happy"] * 200, dtype=object), people, 0.2, 0.1, 0)
    assert ((splits == "validation").sum(), (splits == "test").sum()) == (40, 20)


@pytest.mark.parametrize("people", [False, True])
def test_faces_that_are_added_leave_the_others_where_they_were(people: bool) -> None:
    """What a model has learned from must not become the test of it and of the next one."""
    rng = np.random.default_rng(0)
    names = pd.Series([f"face {i}" for i in range(480)], dtype=object)
    column = pd.Series(rng.choice(["happy", "sad", "fear"], 480), dtype=object)
    identities = pd.Series([f"p{i % 160}" if people else None for i in range(480)], dtype=object)
    shares = {"validation_share": 0.15, "test_share": 0.15, "seed": 3}
    old = np.sort(rng.choice(480, 440, replace=False))
    before = draw_splits(column[old], identities[old], names[old], **shares)
    after = draw_splits(column, identities, names, **shares)[old]
    assert not ((before == "train") & (after == "test")).any()
    assert (before != after).mean() < 0.05
    shuffled = rng.permutation(480)  # nor does the order count in which they are listed
    again = draw_splits(column[shuffled], identities[shuffled], names[shuffled], **shares)
    assert (again == draw_splits(column, identities, names, **shares)[shuffled]).all()


def test_seeds_differ() -> None:
    column = pd.Series(["happy"] * 200, dtype=object)
    first, second = (draw_labels(column, share=0.5, seed=seed) for seed in (0, 1))
    assert not np.array_equal(first, second)
