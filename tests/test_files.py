"""`mien.files`: the old file or the new one, whatever happens in between."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from mien.files import (
    hash_file,
    read_json,
    replacing_file,
    replacing_folder,
    write_json,
    write_text,
)


def test_a_file_is_replaced_whole_and_nothing_stays_beside_it(tmp_path):
    path = tmp_path / "new" / "weights.npy"
    with replacing_file(path) as temporary:
        assert temporary.suffix == ".npy"
        np.save(temporary, np.arange(3))
        assert not path.exists()
    assert np.load(path).tolist() == [0, 1, 2]
    assert list(path.parent.iterdir()) == [path]


def test_a_failing_writer_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(OSError, match="full"), replacing_file(path) as temporary:
        temporary.write_text("ne")
        raise OSError("disk full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failing_writer_leaves_the_old_folder(tmp_path):
    path = tmp_path / "report"
    with replacing_folder(path) as temporary:
        (temporary / "page.html").write_text("old")
    with pytest.raises(KeyboardInterrupt), replacing_folder(path) as temporary:
        (temporary / "page.html").write_text("new")
        raise KeyboardInterrupt
    assert (path / "page.html").read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_takes_the_place_of_one_with_other_files(tmp_path):
    path = tmp_path / "report"
    for name in ("a", "b"):
        with replacing_folder(path) as temporary:
            (temporary / name).touch()
    assert [entry.name for entry in path.iterdir()] == ["b"]
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_killed_writer_leaves_the_old_one_and_its_remains_are_cleared(tmp_path, kind):
    path = tmp_path / "out"
    code = f"""
        import os, signal, sys
        from pathlib import Path
        from mien.files import replacing_{kind}
        with replacing_{kind}(Path(sys.argv[1])) as temporary:
            target = temporary if "{kind}" == "file" else temporary / "page"
            target.write_text(sys.argv[2])
            if sys.argv[2] == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
    """

    def write(text: str) -> int:
        command = [sys.executable, "-c", textwrap.dedent(code), str(path), text]
        return subprocess.run(command, check=False).returncode

    def content() -> str:
        return (path if kind == "file" else path / "page").read_text()

    assert write("old") == 0
    assert write("killed") == -signal.SIGKILL
    assert content() == "old"
    assert write("new") == 0
    assert content() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_lost_between_the_two_renames_comes_back(tmp_path, monkeypatch):
    path = tmp_path / "report"
    with replacing_folder(path) as temporary:
        (temporary / "page").write_text("old")

    def die_before_the_second(self: Path, target: Path) -> None:
        if self.name.startswith(".partial-"):
            raise KeyboardInterrupt
        self.rename(target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", die_before_the_second)
        with pytest.raises(KeyboardInterrupt), replacing_folder(path):
            pass
    assert not path.exists()

    with pytest.raises(ZeroDivisionError), replacing_folder(path):
        raise ZeroDivisionError
    assert (path / "page").read_text() == "old"


def test_modes_follow_the_umask(tmp_path):
    old = os.umask(0o027)
    try:
        write_text(tmp_path / "a", "")
        with replacing_folder(tmp_path / "b"):
            pass
    finally:
        os.umask(old)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640
    assert (tmp_path / "b").stat().st_mode & 0o777 == 0o750


def test_json_takes_numpy_and_refuses_what_is_not_json(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"share": np.float32(0.5), "counts": np.array([1, 2]), "name": "é"})
    assert read_json(path) == {"share": 0.5, "counts": [1, 2], "name": "é"}
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"share": float("nan")})
    with pytest.raises(TypeError, match="set is not JSON"):
        write_json(path, {"names": {1}})
    assert json.loads(path.read_text())["share"] == 0.5


def test_the_hash_is_sha256_of_the_content(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"abc")
    assert hash_file(path) == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
