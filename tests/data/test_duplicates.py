"""Copies and near-copies, planted."""

import io

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy.ndimage import gaussian_filter

from mien.data.duplicates import _close_hashes, near_duplicates, settle_copies
from mien.data.manifest import measure

RANK = {"test": 3, "validation": 2, "train": 1, "none": 0}


def table(splits: list[str], ids: list[str]) -> pd.DataFrame:
    paths = [f"{i}.png" for i in range(len(ids))]
    names = {"face_id": ids, "split": splits, "source": "s", "path": paths, "label": None}
    return pd.DataFrame(names, dtype=object)


def test_test_faces_win_over_their_copies() -> None:
    kept, copies = settle_copies(table(["none", "train", "validation", "test"], ["a"] * 4))
    assert kept["path"].tolist() == ["3.png"]
    assert copies["path"].tolist() == ["0.png", "1.png", "2.png"]
    assert set(copies["reason"]) == {"the same pixels as s/3.png"}


def test_copies_with_another_label_say_so() -> None:
    data = table(["train", "train", "train", "none"], ["a"] * 4)
    data["label"] = ["angry", "sad", "angry", None]
    _, copies = settle_copies(data)
    same = "the same pixels as s/0.png"
    assert copies["reason"].tolist() == [f"{same} (labelled angry there)", same, same]


@pytest.mark.parametrize("split", ["validation", "test"])
def test_copies_within_a_held_out_set_are_kept_and_told_apart(split: str) -> None:
    kept, copies = settle_copies(table([split] * 3, ["a", "a", "b"]))
    assert kept["face_id"].tolist() == ["a", "a-2", "b"]
    assert copies.empty


def test_of_training_copies_the_first_labelled_one_stays() -> None:
    kept, _ = settle_copies(table(["none", "train", "train", "none"], ["a", "a", "a", "b"]))
    assert kept["path"].tolist() == ["1.png", "3.png"]


@given(
    st.lists(
        st.tuples(st.sampled_from(list(RANK)), st.sampled_from("abc")), min_size=1, max_size=30
    )
)
def test_copies_in_general(faces: list[tuple[str, str]]) -> None:
    data = table([split for split, _ in faces], [name for _, name in faces])
    kept, copies = settle_copies(data)
    assert len(kept) + len(copies) == len(data)
    assert kept["face_id"].is_unique
    assert set(kept["face_id"].str[:1]) == set(data["face_id"])
    assert (kept.groupby(kept["face_id"].str[:1])["split"].nunique() == 1).all()
    best = data.assign(rank=data["split"].map(RANK)).groupby("face_id")["rank"].max()
    assert (kept["split"].map(RANK) == kept["face_id"].str[:1].map(best)).all()


@given(st.lists(st.integers(0, 2**64 - 1), max_size=20), st.integers(-1, 64))
def test_close_hashes_against_a_loop(hashes: list[int], bits: int) -> None:
    values = np.array([*hashes, *(value ^ 0b101 for value in hashes)], dtype=np.uint64)
    expected = {
        (i, j)
        for i, a in enumerate(values)
        for j, b in enumerate(values)
        if (int(a) ^ int(b)).bit_count() <= bits
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mien.data.duplicates._CHUNK", 7)
        blocks = list(_close_hashes(values, values, bits))
    found = [pair for i, j in blocks for pair in zip(i, j, strict=True)]
    assert len(found) == len(set(found))
    assert set(found) == expected


def jpeg(face: np.ndarray, quality: int) -> np.ndarray:
    buffer = io.BytesIO()
    Image.fromarray(face).save(buffer, "JPEG", quality=quality)
    return np.asarray(Image.open(buffer))


@pytest.fixture(scope="module")
def faces() -> np.ndarray:
    """40 different pictures, smooth as faces are."""
    rough = np.random.default_rng(0).normal(size=(40, 48, 48))
    smooth = gaussian_filter(rough, sigma=(0, 3, 3))
    return (128 + smooth / smooth.std() * 40).clip(0, 255).astype(np.uint8)


def manifest(faces: np.ndarray, splits: list[str]) -> pd.DataFrame:
    paths = [f"{i}" for i in range(len(faces))]
    rows = pd.DataFrame({"source": "s", "path": paths, "split": splits, "row": range(len(faces))})
    return pd.concat([rows, measure(faces)], axis=1)


def test_planted_jpeg_copies_are_found(faces: np.ndarray) -> None:
    copies = np.stack([jpeg(face, 60) for face in faces[:5]])
    noise = np.random.default_rng(1).normal(0, 12, (3, 48, 48))
    darker = (faces[5:8] * 0.8 + 10 + noise).clip(0, 255).astype(np.uint8)
    store = np.concatenate([faces, copies, darker])
    data = manifest(store, ["test"] * 4 + ["validation"] * 36 + ["train"] * 4 + ["none"] * 4)
    near = near_duplicates(data, store, 4)
    assert near["path"].tolist() == [str(i) for i in range(40, 48)]
    assert near["near"].tolist() == [f"s/{i}" for i in range(8)]
    assert (near["correlation"] > 0.96).all()
    # the closest one is named, however many candidates there are
    pd.testing.assert_frame_equal(
        near_duplicates(data.assign(phash=np.uint64(7)), store, 4).drop(columns="phash"),
        near.drop(columns="phash"),
    )


def test_different_pictures_with_the_same_hash_are_not_confirmed(faces: np.ndarray) -> None:
    data = manifest(faces, ["test"] * 20 + ["train"] * 20).assign(phash=np.uint64(7))
    assert near_duplicates(data, faces, 4).empty


def test_the_closest_is_named_and_what_only_resembles_is_none(faces: np.ndarray) -> None:
    def alike(correlation: float) -> np.ndarray:
        x, y = (face - face.mean() for face in faces[:2].astype(float))
        y -= x * (x * y).mean() / x.var()
        y *= x.std() / y.std()
        rest = np.sqrt(1 - correlation**2)
        return (128 + 0.7 * (correlation * x + rest * y)).round().astype(np.uint8)

    store = np.stack([alike(0.97), alike(0.99), alike(0.98), faces[0], faces[3], faces[4]])
    data = manifest(store, ["test"] * 3 + ["none", "none", "test"]).assign(phash=np.uint64(7))
    assert near_duplicates(data, store, 4)["near"].tolist() == ["s/1"]
    store = np.stack([alike(0.94), faces[0]])
    data = manifest(store, ["test", "train"]).assign(phash=np.uint64(7))
    assert near_duplicates(data, store, 4).empty


def test_off_and_one_sided(faces: np.ndarray) -> None:
    store = np.concatenate([faces, faces])
    splits = ["test"] * 40 + ["none"] * 40
    assert near_duplicates(manifest(store, splits), store, -1).empty
    assert len(near_duplicates(manifest(store, splits), store, 0)) == 40
    assert near_duplicates(manifest(store, ["train"] * 80), store, 4).empty


def test_blank_faces_do_not_divide_by_zero() -> None:
    store = np.full((4, 48, 48), 9, dtype=np.uint8)
    assert near_duplicates(manifest(store, ["train", "test"] * 2), store, 4).empty
