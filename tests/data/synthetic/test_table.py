import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mien.data.synthetic import synthetic_table
from mien.data.synthetic.expressions import EXPRESSIONS
from mien.data.synthetic.table import OTHER_SHARE
from mien.errors import MienError
from mien.params import OTHER
from mien.params.faces import SyntheticSource


def source(
    labelled: int, validation: int, test: int, unlabelled: int, seed: int = 0
) -> SyntheticSource:
    return SyntheticSource(
        name="drawn",
        kind="synthetic",
        seed=seed,
        labelled=labelled,
        validation=validation,
        test=test,
        unlabelled=unlabelled,
    )


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    return synthetic_table(source(280, 350, 2100, 6000), EXPRESSIONS)


@given(
    counts=st.tuples(
        st.integers(1, 90), st.integers(1, 90), st.integers(1, 90), st.integers(0, 90)
    ),
    expressions=st.lists(st.sampled_from(EXPRESSIONS), min_size=2, unique=True),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=40, deadline=None)
def test_any_counts_give_disjoint_balanced_parts(
    counts: tuple[int, int, int, int], expressions: list[str], seed: int
) -> None:
    table = synthetic_table(source(*counts, seed=seed), expressions)
    part = table["path"].str.split("/").str[0]
    parts = ("labelled", "validation", "test", "unlabelled")
    assert [int((part == name).sum()) for name in parts] == list(counts)
    assert table["path"].is_unique
    assert (table["path"].str.split("/").str[1] == table["identity"]).all()
    assert (
        table.groupby("identity")["path"].agg(lambda p: p.str.split("/").str[0].nunique()) == 1
    ).all()
    for name in parts[:3]:
        numbers = table.loc[part == name, "label"].value_counts().reindex(expressions, fill_value=0)
        assert numbers.max() - numbers.min() <= 1
        assert table.loc[part == name, "true_label"].isna().all()
    hidden = table[part == "unlabelled"]
    assert hidden["label"].isna().all()
    assert set(hidden["true_label"]) <= {*expressions, OTHER}


def test_roles_and_splits(table: pd.DataFrame) -> None:
    numbers = table.groupby(["role", "split"]).size().to_dict()
    assert numbers == {
        ("labelled", "train"): 280,
        ("labelled", "validation"): 350,
        ("test", "test"): 2100,
        ("unlabelled", "none"): 6000,
    }


def test_unlabelled_part_is_skewed_as_in_life(table: pd.DataFrame) -> None:
    shares = table["true_label"].value_counts(normalize=True)
    assert shares[OTHER] == pytest.approx(OTHER_SHARE, abs=0.001)
    assert shares["neutral"] + shares["happy"] > 0.5
    assert shares.min() > 0.02


def test_unlabelled_people_have_several_faces_and_labelled_people_are_many(
    table: pd.DataFrame,
) -> None:
    people = table.groupby("role")["identity"].agg(["size", "nunique"])
    assert people.loc["unlabelled", "size"] / people.loc["unlabelled", "nunique"] > 6
    assert people.loc["labelled", "size"] / people.loc["labelled", "nunique"] < 3


def test_same_seed_same_table_other_seed_other_table() -> None:
    first, again = (synthetic_table(source(20, 20, 20, 20), EXPRESSIONS) for _ in range(2))
    pd.testing.assert_frame_equal(first, again)
    assert not first.equals(synthetic_table(source(20, 20, 20, 20, seed=1), EXPRESSIONS))


@pytest.mark.parametrize("strange", ["contempt", OTHER])
def test_unknown_expression_is_named(strange: str) -> None:
    with pytest.raises(MienError, match=strange):
        synthetic_table(source(10, 10, 10, 10), ["happy", strange])
