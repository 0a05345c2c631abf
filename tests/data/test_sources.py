"""Every source: what is listed and read from made-up folders, archives and tables."""

import errno
import io
import os
import tempfile
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mien.data.sources import SOURCES, list_source
from mien.data.sources.listing import Listing
from mien.data.sources.reading import read_faces
from mien.errors import MienError
from mien.params import OTHER, parse_params
from mien.params.faces import (
    CsvSource,
    Fer2013Source,
    ImageFolderSource,
    LfwSource,
    SyntheticSource,
)
from mien.yaml_files import read_yaml

EXPRESSIONS = ["happy", "sad", "neutral"]
SIZE = 24


def picture(seed: int, size: int = SIZE) -> bytes:
    """A PNG of noise that differs with the seed."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def lay_out(root: Path, paths: list[str]) -> None:
    for seed, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(picture(seed))


def pack(archive: Path, paths: list[str]) -> None:
    with zipfile.ZipFile(archive, "w") as file:
        for seed, path in enumerate(paths):
            file.writestr(path, picture(seed))


def folder(**changes: Any) -> ImageFolderSource:
    settings = {"name": "mine", "kind": "image_folder", "path": ".", "role": "labelled"}
    return ImageFolderSource.model_validate(settings | {"folders": "expression"} | changes)


def csv(**changes: Any) -> CsvSource:
    settings = {"name": "mine", "kind": "csv", "path": "faces.csv", "role": "labelled"}
    return CsvSource.model_validate(settings | changes)


def read(listing: Listing, workers: int = 1) -> tuple[pd.DataFrame, pd.DataFrame, np.ndarray]:
    with tempfile.TemporaryFile() as raw:
        table, faults = read_faces({"mine": listing}, SIZE, workers, raw)
        raw.seek(0)
        pixels = np.frombuffer(raw.read(), dtype=np.uint8).reshape(-1, SIZE, SIZE)
    return table, faults, pixels


def test_every_kind_has_its_source() -> None:
    assert set(SOURCES) == {"synthetic", "image_folder", "fer2013", "lfw", "csv"}


# --- folders of pictures ------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(
    st.dictionaries(st.sampled_from(EXPRESSIONS), st.integers(1, 6), min_size=1),
    st.booleans(),
)
def test_a_folder_comes_back_as_it_was_laid_out(counts: dict[str, int], zipped: bool) -> None:
    paths = [f"{name}/{i}.png" for name, count in counts.items() for i in range(count)]
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        if zipped:
            pack(root / "faces.zip", paths)
        else:
            lay_out(root / "faces", paths)
        source = folder(path="faces.zip" if zipped else "faces")
        table, faults, pixels = read(list_source(source, root, EXPRESSIONS))
    assert faults.empty
    assert table["path"].tolist() == sorted(paths)
    assert (table["label"] == table["path"].str.split("/").str[0]).all()
    assert set(table["role"]) == {"labelled"}
    assert set(table["split"]) == {"train"}
    for row, path in zip(table["row"], table["path"], strict=True):
        original = np.asarray(Image.open(io.BytesIO(picture(paths.index(path)))))
        assert np.array_equal(pixels[row], original)


def test_workers_change_nothing(tmp_path: Path) -> None:
    paths = [f"{name}/{i}.png" for name in EXPRESSIONS for i in range(200)]
    pack(tmp_path / "faces.zip", paths)
    listing = list_source(folder(path="faces.zip"), tmp_path, EXPRESSIONS)
    (one, _, a), (two, _, b) = read(listing, workers=1), read(listing, workers=2)
    pd.testing.assert_frame_equal(one, two)
    assert np.array_equal(a, b)


def test_people_and_unlabelled_expressions(tmp_path: Path) -> None:
    lay_out(tmp_path, ["anna/1.png", "anna/more/2.png", "bert/1.png", ".cache/3.png", "Thumbs.db"])
    source = folder(role="unlabelled", folders="identity", path=".")
    (tmp_path / "Thumbs.db").unlink()
    table = list_source(source, tmp_path, EXPRESSIONS).table
    assert table["identity"].tolist() == ["anna", "anna", "bert"]
    assert table["label"].isna().all()
    known = tmp_path / "known"
    lay_out(known, ["happy/1.png", "blinking/1.png"])
    source = folder(role="unlabelled", path="known", label_map={"blinking": OTHER})
    table = list_source(source, tmp_path, EXPRESSIONS).table
    assert table["true_label"].tolist() == [OTHER, "happy"]
    assert table["label"].isna().all()
    assert set(table["split"]) == {"none"}


def test_a_zip_of_the_folder_itself(tmp_path: Path) -> None:
    """Its name was taken for an expression, or for the one person in all pictures."""
    clutter = ["__MACOSX/labelled/happy/._1.png", "labelled/.DS_Store"]
    pack(tmp_path / "faces.zip", ["labelled/happy/1.png", "labelled/sad/ann/2.png", *clutter])
    listing = list_source(folder(path="faces.zip"), tmp_path, EXPRESSIONS)
    table, faults, _ = read(listing)
    assert table["path"].tolist() == ["happy/1.png", "sad/ann/2.png"]
    assert table["label"].tolist() == ["happy", "sad"]
    assert faults.empty
    people = folder(path="faces.zip", role="unlabelled", folders="identity")
    assert list_source(people, tmp_path, EXPRESSIONS).table["identity"].tolist() == ["happy", "sad"]


def test_a_zip_that_windows_packed(tmp_path: Path) -> None:
    """PowerShell's ``Compress-Archive`` has parted folders by backslashes, and listed them."""
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as file:
        for name in ("labelled\\", "labelled\\happy\\"):
            file.writestr(name, b"")
        file.writestr("labelled\\happy\\1.png", picture(1))
        file.writestr("labelled\\sad\\ann\\2.png", picture(2))
    table, faults, faces = read(list_source(folder(path="faces.zip"), tmp_path, EXPRESSIONS))
    assert faults.empty
    assert table["path"].tolist() == ["happy/1.png", "sad/ann/2.png"]
    assert table["label"].tolist() == ["happy", "sad"]
    assert len(faces) == 2


def test_a_zip_of_one_expression_keeps_it(tmp_path: Path) -> None:
    pack(tmp_path / "faces.zip", ["happy/1.png", "happy/ann/2.png"])
    table, _, _ = read(list_source(folder(path="faces.zip"), tmp_path, EXPRESSIONS))
    assert table["path"].tolist() == ["happy/1.png", "happy/ann/2.png"]
    assert table["label"].tolist() == ["happy", "happy"]


def test_an_unknown_folder_is_named(tmp_path: Path) -> None:
    lay_out(tmp_path, ["happy/1.png", "joy/1.png"])
    with pytest.raises(MienError, match=r"'joy'.*happy, sad, neutral.*label_map"):
        list_source(folder(), tmp_path, EXPRESSIONS)
    with pytest.raises(MienError, match="'joy' maps to 'glad'"):
        list_source(folder(label_map={"joy": "glad"}), tmp_path, EXPRESSIONS)
    with pytest.raises(MienError, match="'joy' maps to 'other'"):
        list_source(folder(label_map={"joy": OTHER}), tmp_path, EXPRESSIONS)


def test_label_map_renames_and_leaves_out(tmp_path: Path) -> None:
    lay_out(tmp_path, ["happy/1.png", "joy/1.png", "contempt/1.png"])
    mapped = folder(label_map={"joy": "happy", "contempt": ""})
    listing = list_source(mapped, tmp_path, EXPRESSIONS)
    assert listing.table["label"].tolist() == ["happy", "happy"]
    assert listing.left_out["path"].tolist() == ["contempt/1.png"]


def test_accents_as_file_names_from_macos_have_them(tmp_path: Path, root: Path) -> None:
    """Two characters for a letter and its accent, where settings have one, or the other way."""
    one, two = "w\u00fctend", "wu\u0308tend"
    lay_out(tmp_path, [f"{two}/1.png", "fro\u0308hlich/1.png"])
    whole = read_yaml(root / "params.yaml") | {"expressions": [two, "sad"]}
    expressions = parse_params(whole, "tests").expressions
    assert expressions == [one, "sad"]
    source = folder(label_map={"fr\u00f6hlich": two})
    table = list_source(source, tmp_path, expressions).table
    assert table["label"].tolist() == [one, one]


def test_missing_empty_and_stray(tmp_path: Path) -> None:
    with pytest.raises(MienError, match="no such folder"):
        list_source(folder(path="nowhere"), tmp_path, EXPRESSIONS)
    (tmp_path / "empty" / "happy").mkdir(parents=True)
    with pytest.raises(MienError, match="there is no file"):
        list_source(folder(path="empty"), tmp_path, EXPRESSIONS)
    lay_out(tmp_path / "stray", ["happy/1.png", "lost.png"])
    with pytest.raises(MienError, match=r"lost\.png: lies in no sub-folder"):
        list_source(folder(path="stray"), tmp_path, EXPRESSIONS)
    (tmp_path / "broken.zip").write_bytes(b"PK\3\4 not really")
    with pytest.raises(MienError, match=r"broken\.zip: not a sound zip"):
        list_source(folder(path="broken.zip"), tmp_path, EXPRESSIONS)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"folders": "identity"}, "folders: expression"),
        ({"role": "test", "validation_share": 0.1}, "role: labelled"),
        ({"role": "unlabelled", "label_share": 0.5}, "role: labelled"),
        ({"validation_share": 0.5, "test_share": 0.5}, "leave faces for training"),
        (
            {"role": "unlabelled", "folders": "identity", "label_map": {"joy": "happy"}},
            "label_map needs `folders: expression`",
        ),
    ],
)
def test_settings_that_contradict_each_other(
    tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    lay_out(tmp_path, ["happy/1.png"])
    with pytest.raises(MienError, match=message):
        list_source(folder(**changes), tmp_path, EXPRESSIONS)


def test_a_folder_that_cannot_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its pictures were passed over in silence."""
    lay_out(tmp_path, ["happy/1.png", "sad/2.png", ".Trashes/3.png", "lost+found/4.png"])
    scan = os.scandir

    def deny(folder: Any) -> Any:
        if Path(folder).name in denied:
            raise PermissionError(errno.EACCES, "Permission denied", folder)
        return scan(folder)

    monkeypatch.setattr(os, "scandir", deny)
    denied = [".Trashes", "lost+found"]
    assert len(list_source(folder(), tmp_path, EXPRESSIONS).table) == 2
    for name in ("sad", tmp_path.name):
        denied.append(name)
        with pytest.raises(MienError, match=rf"{name}: cannot be read \(Permission denied\)"):
            list_source(folder(), tmp_path, EXPRESSIONS)


def test_bad_pictures_are_faults_and_not_crashes(tmp_path: Path) -> None:
    lay_out(tmp_path, ["happy/1.png", "sad/1.png"])
    (tmp_path / "happy" / "empty.png").touch()
    (tmp_path / "happy" / "text.jpg").write_text("hello")
    (tmp_path / "happy" / "cut.png").write_bytes(picture(0, 90)[:500])
    table, faults, _ = read(list_source(folder(), tmp_path, EXPRESSIONS))
    assert table["path"].tolist() == ["happy/1.png", "sad/1.png"]
    assert faults["path"].tolist() == ["happy/cut.png", "happy/empty.png", "happy/text.jpg"]
    assert set(faults["kind"]) == {"unreadable"}
    assert faults["reason"].str.len().min() > 5


def test_what_is_no_file_is_a_fault(tmp_path: Path) -> None:
    """A pipe was waited for, for ever."""
    lay_out(tmp_path, ["happy/1.png"])
    (tmp_path / "happy" / "gone.png").symlink_to("nowhere")
    pipe = tmp_path / "happy" / "pipe.png"
    os.mkfifo(pipe)
    # whoever does open it is let go
    threading.Thread(target=pipe.write_bytes, args=[b""], daemon=True).start()
    _, faults, _ = read(list_source(folder(), tmp_path, EXPRESSIONS))
    reasons = ["the file can't be read (FileNotFoundError)", "no regular file"]
    assert faults["reason"].tolist() == reasons


def test_a_damaged_archive_member_is_a_fault(tmp_path: Path) -> None:
    archive = tmp_path / "faces.zip"
    pack(archive, ["happy/1.png", "happy/2.png"])
    data = bytearray(archive.read_bytes())
    data[200] ^= 255  # within the first picture: its checksum is wrong now
    archive.write_bytes(data)
    table, faults, _ = read(list_source(folder(path="faces.zip"), tmp_path, EXPRESSIONS))
    assert table["path"].tolist() == ["happy/2.png"]
    assert faults["path"].tolist() == ["happy/1.png"]


@pytest.mark.parametrize("zipped", [False, True])
def test_a_file_too_large_for_a_picture_is_a_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, zipped: bool
) -> None:
    lay_out(tmp_path / "faces", ["happy/1.png"])
    pack(tmp_path / "faces.zip", ["happy/1.png"])
    listing = list_source(folder(path="faces.zip" if zipped else "faces"), tmp_path, EXPRESSIONS)
    for limit, faces in ((len(picture(0)), 1), (len(picture(0)) - 1, 0)):
        monkeypatch.setattr("mien.data.sources.pictures.MAX_BYTES", limit)
        table, faults, _ = read(listing)
        assert (len(table), len(faults)) == (faces, 1 - faces)
    assert faults["reason"].tolist() == ["the file is larger than 0 MiB"]


def test_an_encrypted_archive_is_told(tmp_path: Path) -> None:
    pack(tmp_path / "faces.zip", ["happy/1.png"])
    data = bytearray((tmp_path / "faces.zip").read_bytes())
    data[data.index(b"PK\1\2") + 8] |= 1  # the flag in the archive's directory
    (tmp_path / "faces.zip").write_bytes(data)
    with pytest.raises(MienError, match=r"faces\.zip: the archive is encrypted"):
        list_source(folder(path="faces.zip"), tmp_path, EXPRESSIONS)


@pytest.mark.parametrize(
    ("place", "value"),
    [(46, 0xFF), (6, 99)],  # in the archive's directory: of the name, and the version to unpack it
)
def test_an_archive_that_cannot_be_listed_is_told(tmp_path: Path, place: int, value: int) -> None:
    """Both ended in a traceback."""
    pack(tmp_path / "faces.zip", ["é/1.png"])
    data = bytearray((tmp_path / "faces.zip").read_bytes())
    data[data.index(b"PK\1\2") + place] = value
    (tmp_path / "faces.zip").write_bytes(data)
    with pytest.raises(MienError, match=r"faces\.zip: not a sound zip archive \(.*unpack it"):
        list_source(folder(path="faces.zip"), tmp_path, EXPRESSIONS)


def test_a_link_back_to_the_folder_gives_no_picture_twice(tmp_path: Path) -> None:
    lay_out(tmp_path, ["happy/1.png"])
    (tmp_path / "happy" / "all").symlink_to(tmp_path)
    assert list_source(folder(), tmp_path, EXPRESSIONS).table["path"].tolist() == ["happy/1.png"]


def test_no_face_is_a_fault(tmp_path: Path) -> None:
    lay_out(tmp_path, ["happy/1.png"])
    _, faults, _ = read(list_source(folder(faces="detect"), tmp_path, EXPRESSIONS))
    assert faults["kind"].tolist() == ["no_face"]


def test_several_faces_only_where_nothing_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    boxes = [(4, 0, 20), (0, 0, 12)]
    from mien.data.faces import Box
    from mien.data.sources import pictures

    monkeypatch.setattr(pictures, "find_faces", lambda _: [Box(*box) for box in boxes])
    lay_out(tmp_path, ["happy/1.png"])
    crowd = folder(role="unlabelled", folders="nothing", faces="detect")
    table, _, _ = read(list_source(crowd, tmp_path, EXPRESSIONS))
    assert table["path"].tolist() == ["happy/1.png#1", "happy/1.png#2"]
    assert table["width"].tolist() == [20, 12]
    for labelled in (folder(faces="detect"), folder(role="unlabelled", faces="detect")):
        table, _, _ = read(list_source(labelled, tmp_path, EXPRESSIONS))
        assert table["path"].tolist() == ["happy/1.png"]
        assert table["width"].tolist() == [20]


@settings(max_examples=10, deadline=None)
@given(st.floats(0.05, 0.95), st.integers(0, 9))
def test_hidden_labels_become_true_labels(share: float, seed: int) -> None:
    paths = [f"{name}/{i}.png" for name in EXPRESSIONS for i in range(12)]
    with tempfile.TemporaryDirectory() as name:
        lay_out(Path(name), paths)
        source = folder(label_share=share, seed=seed, validation_share=0.25)
        table = list_source(source, Path(name), EXPRESSIONS).table
    truth = table["path"].str.split("/").str[0]
    hidden = table["split"].eq("none")
    assert (table.loc[~hidden, "label"] == truth[~hidden]).all()
    assert (table.loc[hidden, "true_label"] == truth[hidden]).all()
    assert table.loc[hidden, "label"].isna().all()
    assert table.loc[~hidden, "true_label"].isna().all()
    assert table["role"].eq("unlabelled").equals(hidden)
    assert table["split"].eq("validation").sum() == 9
    kept = table.loc[table["split"].eq("train"), "label"].value_counts()
    assert kept.tolist() == [max(1, round(share * 9))] * 3


# --- tables -------------------------------------------------------------------------------------


def test_csv(tmp_path: Path) -> None:
    lay_out(tmp_path, ["a.png", "b.png", "c.png", "d.png", "e.png"])
    (tmp_path / "faces.csv").write_text(
        "path,label,identity,split\n"
        "a.png,happy,anna,train\nb.png,sad,,validation\nc.png,joy,,test\nd.png,,,\ne.png,odd,,\n"
    )
    source = csv(label_map={"joy": "happy", "odd": ""})
    listing = list_source(source, tmp_path, EXPRESSIONS)
    table, _, _ = read(listing)
    assert table["split"].tolist() == ["train", "validation", "test", "none"]
    assert table["role"].tolist() == ["labelled", "labelled", "test", "unlabelled"]
    assert table["label"].tolist()[:3] == ["happy", "sad", "happy"]
    assert table["identity"].tolist()[0] == "anna"
    assert table[["label", "identity"]].iloc[3].isna().all()
    assert listing.left_out["path"].tolist() == ["e.png"]
    for changes in ({"role": "test"}, {"validation_share": 0.1}, {"test_share": 0.1}):
        with pytest.raises(MienError, match=r"faces\.csv: the column split is for"):
            list_source(source.model_copy(update=changes), tmp_path, EXPRESSIONS)


def test_csv_splits_by_identity(tmp_path: Path) -> None:
    rows = [f"{person}-{i}.png,happy,p{person}" for person in range(40) for i in range(5)]
    (tmp_path / "faces.csv").write_text("\n".join(["path,label,identity", *rows]))
    table = list_source(csv(validation_share=0.2, test_share=0.2), tmp_path, EXPRESSIONS).table
    assert table["split"].value_counts().to_dict() == {"train": 120, "validation": 40, "test": 40}
    assert (table.groupby("identity")["split"].nunique() == 1).all()


def test_unlabelled_faces_of_people_held_out_are_left_out(tmp_path: Path) -> None:
    """`validate` refused every such table: people were on two sides."""
    rows = [
        f"{person}-{i}.png,{'happy' if i else ''},p{person}" for person in "abcde" for i in (0, 1)
    ]
    (tmp_path / "faces.csv").write_text("\n".join(["path,label,identity", *rows, "x.png,,"]))
    listing = list_source(csv(validation_share=0.2, test_share=0.2), tmp_path, EXPRESSIONS)
    assert listing.table["split"].value_counts().to_dict() == {
        "none": 4,
        "train": 3,
        "validation": 1,
        "test": 1,
    }
    assert "x.png" in set(listing.table["path"])
    held_out = listing.table[listing.table["split"].isin(["validation", "test"])]
    assert not set(held_out["identity"]) & set(
        listing.table.loc[listing.table["split"].isin(["train", "none"]), "identity"]
    )
    assert listing.left_out["kind"].tolist() == ["held_out_person"] * 2


def test_a_person_whom_the_column_split_puts_on_two_sides_stays_for_validate(
    tmp_path: Path,
) -> None:
    """Where the label was among the hidden ones, the mistake went unseen."""
    rows = [f"{i}.png,happy,anna,train" for i in range(9)] + [
        "x.png,happy,anna,test",
        "y.png,,anna,",
    ]
    (tmp_path / "faces.csv").write_text("\n".join(["path,label,identity,split", *rows]))
    listing = list_source(csv(label_share=0.3), tmp_path, EXPRESSIONS)
    assert listing.table["split"].value_counts()["none"] == 6
    assert listing.left_out["path"].tolist() == ["y.png"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column path"),
        ('path,label\na.png,"happy\n', "not a CSV"),
        ('path,label\na.png,happy\n"b.png" ,sad\n', "not a CSV, near line 3"),
        ("\npath,label\na.png,happy\n", "no column path"),
        ("path,label\n", "no row"),
        ("file,label\na.png,happy\n", "no column path"),
        ("path;label\na.png;happy\n", "commas stand between them"),
        ("path,label,Identity\na.png,happy,anna\n", "the column Identity must be written identity"),
        ("path,label\na.png,happy\n,sad\n", "line 3: the path is empty"),
        ("path,label\n\n,sad\n", "line 3: the path is empty"),
        ("path,label\na.png,happy\nb.png,sad\na.png,sad\n", "line 4: a.png stands twice"),
        ('path,note\na.png,"one\ntwo"\nb.png,\n,\n', "line 5: the path is empty"),
        ("path,label, label\na.png,happy,sad\n", "the column label stands twice"),
        ("path,label\na.png,glee\n", "'glee'"),
        ("path,label\na.png,happy,\n", "line 2: 3 columns, not 2"),
        ("path,label\na.png,happy\nb.png,sad, or so\n", "line 3: 3 columns, not 2"),
        ("path,label,split\na.png,happy,\n", "line 2: split is ''"),
        ("path,label,split\na.png,happy,training\n", "line 2: split is 'training'"),
        ("path,label,split\na.png,happy,train\nb.png,,test\n", "line 3: a face held out"),
    ],
)
def test_wrong_tables_are_named_by_line(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "faces.csv").write_text(text)
    with pytest.raises(MienError, match=message):
        list_source(csv(), tmp_path, EXPRESSIONS)


def test_tables_as_spreadsheets_write_them(tmp_path: Path) -> None:
    (tmp_path / "faces.csv").write_bytes(
        b'\xef\xbb\xbfpath, label ,note,note\r\n"a, b.png", happy ,"one, two"\r\nc.png\r\n\r\n'
    )
    table = list_source(csv(), tmp_path, EXPRESSIONS).table
    assert table["path"].tolist() == ["a, b.png", "c.png"]
    assert table["label"].fillna("").tolist() == ["happy", ""]


def test_csv_with_missing_files(tmp_path: Path) -> None:
    with pytest.raises(MienError, match="no such file"):
        list_source(csv(), tmp_path, EXPRESSIONS)
    (tmp_path / "faces.csv").write_text("path,label\ngone.png,happy\n")
    _, faults, _ = read(list_source(csv(), tmp_path, EXPRESSIONS))
    assert faults["path"].tolist() == ["gone.png"]
    with pytest.raises(MienError, match=r"a\.png has no label"):
        (tmp_path / "faces.csv").write_text("path\na.png\n")
        list_source(csv(role="test"), tmp_path, EXPRESSIONS)


# --- FER2013 and LFW ----------------------------------------------------------------------------

FER = [
    "fer2013/train/happy/Training_11.jpg",
    "fer2013/train/sad/Training_12.jpg",
    "fer2013/train/disgust/Training_13.jpg",
    "fer2013/test/happy/PublicTest_14.jpg",
    "fer2013/test/sad/PrivateTest_15.jpg",
    "fer2013/readme.txt",
]


@pytest.mark.parametrize("zipped", [False, True])
def test_fer2013_folders(tmp_path: Path, zipped: bool) -> None:
    if zipped:
        pack(tmp_path / "fer.zip", FER)
    else:
        lay_out(tmp_path / "fer.zip", FER)
    source = Fer2013Source(name="fer", kind="fer2013", path=Path("fer.zip"))
    listing = list_source(source, tmp_path, EXPRESSIONS)
    table, faults, _ = read(listing)
    found = dict(zip(table["path"].str.split("/").str[-1], table["split"], strict=True))
    assert found == {
        "Training_11.jpg": "train",
        "Training_12.jpg": "train",
        "PublicTest_14.jpg": "validation",
        "PrivateTest_15.jpg": "test",
    }
    assert table["label"].tolist() == ["happy", "sad", "happy", "sad"]
    assert listing.left_out["path"].tolist() == [FER[2]]  # disgust is not in expressions
    assert faults.empty


def fer_row(emotion: int, value: int, usage: str) -> str:
    return f"{emotion},{' '.join([str(value)] * 48 * 48)},{usage}"


@pytest.mark.parametrize(
    "header",
    ["emotion,pixels,Usage", "emotion, pixels, Usage", '\ufeff"emotion","pixels","Usage"'],
)
def test_fer2013_csv(tmp_path: Path, header: str) -> None:
    rows = [
        fer_row(3, 10, "Training"),
        fer_row(4, 20, "PublicTest"),
        fer_row(6, 30, "PrivateTest"),
        fer_row(3, 300, "Training"),
        "3,1 2 3,Training",
    ]
    (tmp_path / "fer2013.csv").write_text("\n".join([header, *rows]) + "\n")
    for path in ("fer2013.csv", "."):
        source = Fer2013Source(name="fer", kind="fer2013", path=Path(path))
        table, faults, pixels = read(list_source(source, tmp_path, EXPRESSIONS))
        assert table["label"].tolist() == ["happy", "sad", "neutral"]
        assert table["split"].tolist() == ["train", "validation", "test"]
        assert table["path"].tolist() == [f"fer2013.csv#{line}" for line in (2, 3, 4)]
        assert pixels[:, 0, 0].tolist() == [10, 20, 30]
        assert faults["reason"].tolist() == [
            "a pixel is not between 0 and 255",
            "3 pixels, not 48×48",
        ]


def test_the_labels_of_fer2013_and_few_of_them(tmp_path: Path) -> None:
    names = ["angry", "disgust", "fear", "happy", "sad", "surprise", "neutral"]
    rows = [fer_row(emotion, 1, "Training") for emotion in range(7) for _ in range(4)]
    (tmp_path / "fer2013.csv").write_text("\n".join(["emotion,pixels,Usage", *rows]))
    source = Fer2013Source(name="fer", kind="fer2013", path=Path(), label_share=0.25)
    table = list_source(source, tmp_path, names).table
    truth = [name for name in names for _ in range(4)]
    assert table["label"].fillna(table["true_label"]).tolist() == truth
    assert sorted(table["label"].dropna()) == sorted(names)
    assert table["role"].value_counts().to_dict() == {"unlabelled": 21, "labelled": 7}


@pytest.mark.parametrize(
    "row", ["7,1,Training", "-1,1,Training", "x,1,Training", "3,1,Train", "3,1"]
)
def test_wrong_fer2013_rows_are_named(tmp_path: Path, row: str) -> None:
    (tmp_path / "fer2013.csv").write_text(
        f"emotion,pixels,Usage\n{fer_row(3, 1, 'Training')}\n{row}\n"
    )
    source = Fer2013Source(name="fer", kind="fer2013", path=Path("fer2013.csv"))
    with pytest.raises(MienError, match="line 3"):
        list_source(source, tmp_path, EXPRESSIONS)


def test_a_fer2013_csv_deeper_or_packed_is_told(tmp_path: Path) -> None:
    """It was said not to be there."""
    pack(tmp_path / "archive.zip", ["fer2013.csv"])
    lay_out(tmp_path / "folder", ["fer2013/fer2013.csv"])
    for path in ("archive.zip", "folder"):
        source = Fer2013Source(name="fer", kind="fer2013", path=Path(path))
        with pytest.raises(MienError, match=r"fer2013\.csv is in it; unpack"):
            list_source(source, tmp_path, EXPRESSIONS)


def test_something_else_than_fer2013(tmp_path: Path) -> None:
    lay_out(tmp_path, ["happy/1.png"])
    with pytest.raises(MienError, match="Training_123"):
        list_source(Fer2013Source(name="fer", kind="fer2013", path=Path()), tmp_path, EXPRESSIONS)


def test_lfw(tmp_path: Path) -> None:
    pack(tmp_path / "lfw.zip", ["lfw/A_B/A_B_0001.jpg", "lfw/A_B/A_B_0002.jpg", "lfw/pairs.txt"])
    source = LfwSource(name="lfw", kind="lfw", path=Path("lfw.zip"), centre=0.5)
    table, _, _ = read(list_source(source, tmp_path, EXPRESSIONS))
    assert table["identity"].tolist() == ["A_B", "A_B"]
    assert set(table["role"]) == {"unlabelled"}
    assert table["width"].tolist() == [12, 12]
    found = source.model_copy(update={"faces": "detect"})
    with pytest.raises(MienError, match="lfw: centre needs `faces: given`"):
        list_source(found, tmp_path, EXPRESSIONS)
    lay_out(tmp_path / "other", ["x/1.png"])
    with pytest.raises(MienError, match="Labeled Faces"):
        list_source(LfwSource(name="lfw", kind="lfw", path=Path("other")), tmp_path, EXPRESSIONS)


# --- drawn faces --------------------------------------------------------------------------------


def test_synthetic(tmp_path: Path) -> None:
    source = SyntheticSource(
        name="mine", kind="synthetic", labelled=6, validation=3, test=3, unlabelled=5
    )
    table, faults, pixels = read(list_source(source, tmp_path, EXPRESSIONS))
    assert table["role"].value_counts().to_dict() == {"labelled": 9, "unlabelled": 5, "test": 3}
    assert faults.empty
    assert pixels.shape == (17, SIZE, SIZE)
