"""The ``mien`` command: what it says, and that it never ends in a traceback."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import mien
from mien.cli import _parser, _settings, main
from mien.serving.package import SHIPPED
from mien.workspace import default_params, make_workspace


def ends_with(arguments: list[str], message: str) -> None:
    """The command fails with this message (a non-string status would be a traceback or success)."""
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert isinstance(caught.value.code, str)
    assert message in caught.value.code


def test_version(capsys):
    with pytest.raises(SystemExit, match="0"):
        main(["--version"])
    assert capsys.readouterr().out == f"mien {mien.__version__}\n"


@pytest.mark.parametrize("command", ["run", "card"])
def test_help_has_an_example(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "-h"])
    assert f"\n  mien {command} " in capsys.readouterr().out


def test_card_prints_the_card(tmp_path, capsys):
    package = tmp_path / "models/package"
    package.mkdir(parents=True)
    (package / "metadata.json").write_text("{}")
    (package / "card.md").write_text("# Mien\n")
    for folder in (package, tmp_path):  # that of the package, of the workspace
        main(["card", "--model", str(folder)])
        assert "# Mien" in capsys.readouterr().out


def test_card_of_a_model_that_ships(capsys):
    main(["card", "--model", "small"])
    assert capsys.readouterr().out.strip() == (SHIPPED / "small/card.md").read_text().strip()


def test_card_is_of_the_model_that_would_answer(tmp_path, monkeypatch, capsys):
    """In a fresh folder it failed where `mien predict` takes what ships."""
    monkeypatch.chdir(tmp_path)
    main(["card"])
    assert capsys.readouterr().out.strip() == (SHIPPED / "small/card.md").read_text().strip()
    test_card_prints_the_card(tmp_path, capsys)
    main(["card"])
    assert capsys.readouterr().out.strip() == "# Mien"


def test_card_of_nothing(tmp_path):
    for name in (str(tmp_path), "nowhere"):
        ends_with(["card", "--model", name], f"mien card: error: {name}: neither a package")
    (tmp_path / "metadata.json").write_text("{}")
    ends_with(["card", "--model", str(tmp_path)], f"mien card: error: {tmp_path}/card.md")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has this full disk")
def test_a_full_disk_is_said_in_one_line():
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "mien", "card", "--model", "small"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 1
    assert done.stderr == (
        "mien card: error: the disk is full ([Errno 28] No space left on device); "
        "free some space and run again\n"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--labelled", "a"], "--labelled and --faces go together"),
        (["--faces", "a"], "--labelled and --faces go together"),
        (["--labelled", "nowhere", "--faces", "a"], "--labelled nowhere: no such folder"),
        (["--test", "a"], "need --labelled and --faces"),
        (["--find-faces"], "need --labelled and --faces"),
        (["--data", "nowhere"], "--data nowhere: no such folder"),
        (["--data", "."], "no source has a path"),
        (
            ["--data", ".", "--set", "prepare.sources=[{kind: lfw, name: a, path: /a}]"],
            "no source has a path",
        ),
        (["--params", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["--set", "cluster.round=1"], "cluster.round: unknown setting"),
        (["--set", "seed"], "--set seed: expected section.key=value"),
    ],
)
def test_run_refuses_with_a_plain_message_and_makes_nothing(
    tmp_path, monkeypatch, arguments, message
):
    monkeypatch.chdir(tmp_path)
    ends_with(["run", "--out", "out", *arguments], message)
    assert not Path("out").exists()


def test_a_failing_stage_shows_its_message_and_ends_the_run(tmp_path, capsys):
    for name in ("labelled/happy", "faces"):
        (tmp_path / name).mkdir(parents=True)
    arguments = ["--labelled", str(tmp_path / "labelled"), "--faces", str(tmp_path / "faces")]
    ends_with(["run", "--out", str(tmp_path / "out"), *arguments], "stage 'prepare' failed")
    shown = capsys.readouterr().out
    assert "[1/8] prepare" in shown
    assert "prepare: error: " in shown
    assert "Traceback" not in shown
    assert "[2/8]" not in shown


def test_settings_of_a_later_version_join_an_earlier_runs(tmp_path, monkeypatch):
    """A run that an earlier version made goes on: what it could not name has its default."""
    monkeypatch.chdir(tmp_path)
    out = tmp_path / "run"
    make_workspace(out, default_params() | {"seed": 7})
    earlier = yaml.safe_load((out / "params.yaml").read_text())
    del earlier["cluster"]["prior_steps"]
    (out / "params.yaml").write_text(yaml.safe_dump(earlier))
    settings = _settings(_parser().parse_args(["run", "--out", str(out)]))
    assert settings["seed"] == 7
    assert settings["cluster"]["prior_steps"] == default_params()["cluster"]["prior_steps"]


def settings_of(*arguments: str) -> dict:
    return _settings(_parser().parse_args(["run", "--out", "run", *arguments]))


def test_real_faces_are_learned_with_settings_for_real_faces(tmp_path, monkeypatch, root):
    """Those of params.yaml suit drawn faces, and teach little of real ones."""
    monkeypatch.chdir(tmp_path)
    for name in ("labelled", "faces"):
        Path(name).mkdir()
    Path("table.yaml").write_text(
        "prepare: {sources: [{name: t, kind: csv, path: t.csv}]}\ncluster: {rounds: 2}"
    )
    real = yaml.safe_load((root / "configs" / "faces.yaml").read_text())
    default = default_params()
    assert default["cluster"] | real["cluster"] != default["cluster"]

    folders = settings_of("--labelled", "labelled", "--faces", "faces")
    assert folders["cluster"] == default["cluster"] | real["cluster"]
    assert folders["model"] == default["model"] | real["model"]
    assert [source["name"] for source in folders["prepare"]["sources"]] == ["labelled", "faces"]
    table = settings_of("--params", "table.yaml")
    assert table["cluster"] == default["cluster"] | real["cluster"] | {"rounds": 2}
    assert settings_of("--set", "cluster.rounds=2")["cluster"] == default["cluster"] | {"rounds": 2}
    drawn = settings_of("--params", str(root / "params.yaml"), "--set", "seed=1")
    assert drawn == default | {"seed": 1}


def test_an_earlier_runs_faces_and_settings_stay_below_a_file_of_settings(tmp_path, monkeypatch):
    """They were replaced by drawn faces and the project's settings."""
    monkeypatch.chdir(tmp_path)
    for name in ("labelled", "faces"):
        Path(name).mkdir()
    folders = ["--labelled", "labelled", "--faces", "faces"]
    make_workspace(Path("run"), settings_of(*folders, "--set", "seed=7"))
    Path("more.yaml").write_text("cluster: {rounds: 2}")
    again = settings_of("--params", "more.yaml")
    assert [source["name"] for source in again["prepare"]["sources"]] == ["labelled", "faces"]
    assert (again["seed"], again["cluster"]["rounds"]) == (7, 2)
    # Faces that are named anew begin anew.
    assert settings_of(*folders)["seed"] == 0
    Path("table.yaml").write_text("prepare: {sources: [{name: t, kind: csv, path: t.csv}]}")
    assert settings_of("--params", "table.yaml")["seed"] == 0


def test_a_new_run_says_that_it_learns_from_drawn_faces(tmp_path, monkeypatch, capsys, root):
    monkeypatch.chdir(tmp_path)
    settings_of("--set", "finetune.epochs=20")
    assert "run holds no earlier run: this one learns from drawn faces" in capsys.readouterr().out
    make_workspace(Path("run"), default_params())
    settings_of("--set", "finetune.epochs=20")
    settings_of("--params", str(root / "configs" / "tiny.yaml"))
    assert capsys.readouterr().out == ""


def test_faces_are_named_once(tmp_path, monkeypatch):
    """The folders were ignored where sources were named, too, and so was --data beside folders."""
    monkeypatch.chdir(tmp_path)
    for name in ("labelled", "faces"):
        Path(name).mkdir()
    Path("table.yaml").write_text("prepare: {sources: []}")
    run = ["run", "--out", "out", "--labelled", "labelled", "--faces", "faces"]
    both = "--labelled and --faces name the faces, and so does prepare.sources in"
    ends_with([*run, "--params", "table.yaml"], f"{both} --params table.yaml")
    ends_with([*run, "--set", "prepare.sources=[]"], f"{both} --set prepare.sources=[]")
    ends_with([*run, "--data", "."], "leave --data out")


@pytest.mark.parametrize("sources", ["nothing", [], ["nothing"], [{"name": "a"}], None, {}])
def test_sources_that_are_none_are_refused_in_plain_words(tmp_path, monkeypatch, sources):
    monkeypatch.chdir(tmp_path)
    Path("wrong.yaml").write_text(yaml.safe_dump({"prepare": {"sources": sources}}))
    ends_with(["run", "--out", "out", "--params", "wrong.yaml"], "prepare.sources")


def test_of_several_files_of_settings_the_last_one_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("first.yaml").write_text("{seed: 1, model: {stem: 32, ratio: 4}}")
    Path("second.yaml").write_text("{model: {ratio: 2}}")
    arguments = ["run", "--out", "run", "--params", "first.yaml", "--params", "second.yaml"]
    settings = _settings(_parser().parse_args(arguments))
    assert settings["seed"] == 1
    assert settings["model"] == default_params()["model"] | {"stem": 32, "ratio": 2}
