"""The manifest's file, and what is measured on faces."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.fft import dctn

from mien.data.manifest import (
    COLUMNS,
    hash_faces,
    measure,
    perceptual_hash,
    read_manifest,
    read_quarantine,
    write_manifest,
    write_quarantine,
)
from mien.errors import MienError

RNG = np.random.default_rng(0)


def manifest(rows: int = 3) -> pd.DataFrame:
    values = {
        name: [f"{name}{i}" for i in range(rows)] if dtype == "object" else range(rows)
        for name, dtype in COLUMNS.items()
    }
    return pd.DataFrame(values).astype(COLUMNS)


def test_round_trip(tmp_path: Path) -> None:
    table = manifest().assign(label=["happy", None, np.nan], identity=None, phash=2**64 - 1)
    write_manifest(tmp_path / "manifest.parquet", table)
    back = read_manifest(tmp_path / "manifest.parquet")
    assert list(back) == list(COLUMNS)
    assert {name: str(dtype) for name, dtype in back.dtypes.items()} == COLUMNS
    assert back["label"].tolist() == ["happy", None, None]
    assert back["identity"].tolist() == [None] * 3
    assert int(back["phash"][0]) == 2**64 - 1


def test_bad_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "manifest.parquet"
    with pytest.raises(MienError, match="no such file"):
        read_manifest(path)
    path.write_text("hello")
    with pytest.raises(MienError, match="not a parquet file"):
        read_manifest(path)
    manifest().drop(columns="phash").to_parquet(path)
    with pytest.raises(MienError, match="phash"):
        read_manifest(path)
    manifest().assign(row=["a", "b", "c"]).to_parquet(path)
    with pytest.raises(MienError, match="column row"):
        read_manifest(path)


def test_an_empty_quarantine(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.parquet"
    write_quarantine(path, pd.DataFrame(columns=["source", "path", "kind", "reason"]))
    assert len(read_quarantine(path)) == 0
    manifest().to_parquet(path)
    with pytest.raises(MienError, match=r"the columns \['kind', 'reason'\] are missing"):
        read_quarantine(path)


def test_statistics_by_hand() -> None:
    faces = np.zeros((2, 4, 4), dtype=np.uint8)
    faces[1, :, 2:] = 100
    measured = measure(faces)
    assert measured["brightness"].tolist() == [0, 50]
    assert measured["contrast"].tolist() == [0, 50]
    # Inside, the second face's rows are 0 | 100: the Laplacian is +100 left of the edge, -100
    # right of it; its variance is 100 squared.
    assert measured["sharpness"].tolist() == [0, 10_000]


def test_statistics_do_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    faces = RNG.integers(0, 256, (50, 48, 48), dtype=np.uint8)
    whole = measure(faces)
    monkeypatch.setattr("mien.data.manifest._CHUNK", 7)
    pd.testing.assert_frame_equal(measure(faces), whole, rtol=1e-5)


def test_no_faces_have_no_statistics() -> None:
    assert len(measure(np.empty((0, 48, 48), dtype=np.uint8))) == 0


def test_the_hash_is_that_of_its_definition() -> None:
    faces = RNG.integers(0, 256, (20, 64, 64)).astype(np.float32)
    halves = faces.reshape(20, 32, 2, 32, 2).mean(axis=(2, 4))
    waves = np.stack([dctn(half)[1:9, 1:9].ravel() for half in halves])
    bits = waves > np.median(waves, axis=1, keepdims=True)
    expected = [int("".join("01"[bit] for bit in face), 2) for face in bits.astype(int)]
    assert perceptual_hash(faces).tolist() == expected


def test_the_hash_ignores_light_and_size_but_not_the_picture() -> None:
    rough = RNG.normal(size=(40, 6, 6)).astype(np.float32)
    faces = np.kron(rough, np.ones((1, 16, 16), dtype=np.float32)) * 30 + 128
    darker = faces * 0.5 + 20
    smaller = faces.reshape(40, 48, 2, 48, 2).mean(axis=(2, 4))
    base = perceptual_hash(faces)
    assert np.bitwise_count(base ^ perceptual_hash(darker)).max() <= 2
    assert np.bitwise_count(base ^ perceptual_hash(smaller)).max() <= 4
    others = np.bitwise_count(base[:, None] ^ base[None])
    assert others[~np.eye(40, dtype=bool)].mean() > 20


def test_face_ids_tell_pixels_apart() -> None:
    faces = np.zeros((3, 24, 24), dtype=np.uint8)
    faces[1, 5, 5] = 1
    first, second, third = hash_faces(faces)
    assert first == third != second
    assert len(first) == 16
