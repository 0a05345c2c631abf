"""`mien.workspace`: settings and a pipeline for other people's folders."""

import difflib
import json
import os
from pathlib import Path

import pytest
import yaml
from ruamel.yaml import YAML

import mien
from mien.errors import MienError
from mien.files import write_text
from mien.lock import locked
from mien.params import load_params
from mien.pipeline import Pipeline, open_pipeline
from mien.workspace import (
    _MARK,
    assignment,
    complete_params,
    default_params,
    folder_sources,
    make_workspace,
    override,
    workspace_params,
)
from mien.yaml_files import merge


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Folders of pictures, one of them with a space in its name."""
    for name in ("my faces/labelled/happy", "my faces/many/ann", "my faces/test/happy"):
        (tmp_path / name).mkdir(parents=True)
    return tmp_path / "my faces"


def settings_for(folders: Path, test: bool = False) -> dict:
    given = folders / "test" if test else None
    return merge(
        default_params(), folder_sources(folders / "labelled", folders / "many", given, find=False)
    )


def test_three_folders_become_sources(folders):
    sources = settings_for(folders, test=True)["prepare"]["sources"]
    assert [(s["name"], s["role"], s["folders"]) for s in sources] == [
        ("labelled", "labelled", "expression"),
        ("faces", "unlabelled", "identity"),
        ("test", "test", "expression"),
    ]
    assert sources[0]["validation_share"] == 0.15
    assert sources[0]["test_share"] == 0.0


def test_without_a_test_folder_labelled_faces_are_kept_for_testing(folders):
    assert settings_for(folders)["prepare"]["sources"][0]["test_share"] == 0.15


def test_faces_without_subfolders_are_nobody_in_particular(folders):
    (folders / "many" / "ann").rmdir()
    assert settings_for(folders)["prepare"]["sources"][1]["folders"] == "nothing"


def test_hidden_folders_are_no_people(folders):
    (folders / "many" / "ann").rmdir()
    for name in (".ipynb_checkpoints", "__MACOSX"):
        (folders / "many" / name).mkdir()
    assert settings_for(folders)["prepare"]["sources"][1]["folders"] == "nothing"


def test_photos_are_searched_for_faces(folders):
    sources = folder_sources(folders / "labelled", folders / "many", None, find=True)
    assert {source["faces"] for source in sources["prepare"]["sources"]} == {"detect"}


def test_a_missing_folder_names_its_option(folders):
    with pytest.raises(MienError, match=r"--faces .*nowhere: no such folder"):
        folder_sources(folders / "labelled", folders / "nowhere", None, find=False)


def test_the_workspace_depends_on_the_pictures_and_on_the_package(folders, tmp_path, root):
    out = tmp_path / "run"
    make_workspace(out, settings_for(folders))
    assert [source.name for source in load_params(out / "params.yaml").prepare.sources] == [
        "labelled",
        "faces",
    ]
    assert Pipeline(out, lock=-1).stages() == Pipeline(root, lock=-1).stages()

    stages = yaml.safe_load((out / "dvc.yaml").read_text())["stages"]
    deps = stages["prepare"]["deps"]
    assert {str(folders / "labelled"), str(folders / "many")} <= set(deps)
    package = Path(mien.__file__).parent
    assert str(package / "stages" / "prepare.py") in deps
    code = [Path(dep) for dep in deps if Path(dep).is_relative_to(package)]
    assert all(path.is_file() and path.suffix != ".pyc" for path in code)
    # What a stage leaves stays inside the workspace.
    assert not any(Path(out).is_absolute() for out in stages["prepare"]["outs"])


def test_pictures_behind_a_link_to_a_folder_are_depended_on(folders, tmp_path):
    """They are read, but DVC passes the link over: an edit there was not seen."""
    (tmp_path / "elsewhere" / "more").mkdir(parents=True)
    (tmp_path / "elsewhere" / "more" / "1.png").write_bytes(b"before")
    (folders / "many" / "bert").symlink_to(tmp_path / "elsewhere")
    (folders / "many" / "bert" / "back").symlink_to(folders / "many")
    out = tmp_path / "run"
    make_workspace(out, settings_for(folders))
    deps = yaml.safe_load((out / "dvc.yaml").read_text())["stages"]["prepare"]["deps"]
    pictures = [dep for dep in deps if Path(dep).is_relative_to(tmp_path)]
    assert pictures == [
        str(path) for path in (folders / "labelled", folders / "many", tmp_path / "elsewhere")
    ]


@pytest.mark.parametrize("make", [lambda path: path.symlink_to("nowhere"), os.mkfifo])
def test_a_link_to_nothing_or_a_pipe_is_told(folders, tmp_path, make):
    """DVC cannot read the one, and waits for the other."""
    make(folders / "many" / "ann" / "1.png")
    with pytest.raises(MienError, match=r"source 'faces': .*ann/1\.png: a link to nothing"):
        make_workspace(tmp_path / "run", settings_for(folders))


def test_a_picture_that_a_csv_names_is_depended_on(tmp_path):
    """Only the CSV was: a picture edited in place was not read again."""
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "1.csv").write_text("path,label\na.png,happy\ngone.png,sad\n")
    (tmp_path / "faces.csv").symlink_to("tables/1.csv")  # paths start from where the link lies
    (tmp_path / "a.png").write_bytes(b"before")
    table = {"name": "table", "kind": "csv", "path": "faces.csv", "role": "labelled"}
    changes = {"prepare": {"data": str(tmp_path), "sources": [table]}}
    out = tmp_path / "run"

    def prepared_anew() -> bool:
        make_workspace(out, merge(default_params(), changes))
        with open_pipeline(out) as pipeline:
            anew = not pipeline.is_current("prepare")
            pipeline.dvc("commit", "--force", "prepare", emit=print)
        return anew

    make_workspace(out, merge(default_params(), changes))
    stages = yaml.safe_load((out / "dvc.yaml").read_text())["stages"]
    for path in ("manifest.parquet", "faces.npy", "quarantine.parquet"):
        write_text(out / "data" / "prepared" / path, "")
    write_text(out / "metrics" / "prepare.json", "")
    write_text(out / "reports" / "prepare" / "a.png", "")
    assert "pictures.txt" in stages["prepare"]["deps"]
    assert prepared_anew()
    assert not prepared_anew()
    (tmp_path / "a.png").write_bytes(b"after")
    assert prepared_anew()


def test_made_again_with_the_same_settings_nothing_changes(folders, tmp_path):
    out = tmp_path / "run"
    make_workspace(out, settings_for(folders))
    before = {name: (out / name).read_text() for name in ("params.yaml", "dvc.yaml")}
    made = workspace_params(out)
    assert made is not None
    make_workspace(out, made)
    assert before == {name: (out / name).read_text() for name in ("params.yaml", "dvc.yaml")}


def test_a_setting_of_an_earlier_version_is_left_out(folders, tmp_path):
    """Whoever gave `mien run` nothing but that folder was told to remove it."""
    out = tmp_path / "run"
    make_workspace(out, settings_for(folders))
    before = (out / "params.yaml").read_text()
    (out / "params.yaml").write_text(before.replace("promotion:", "promotion:\n  bootstrap: 2000"))
    make_workspace(out, complete_params(workspace_params(out) or {}))
    assert (out / "params.yaml").read_text() == before


def test_the_one_network_that_labelled_once_still_labels(folders, tmp_path):
    out = tmp_path / "run"
    make_workspace(out, settings_for(folders))
    made = (out / "params.yaml").read_text()
    now = "  networks:\n  - accnn\n  rounds"
    assert made.count(now) == 1
    (out / "params.yaml").write_text(made.replace(now, "  network: larger\n  rounds"))
    settings = workspace_params(out)
    assert settings is not None
    assert settings["cluster"]["networks"] == ["larger"]
    assert "network" not in settings["cluster"]


def test_what_dvc_has_against_a_folder_is_no_traceback(tmp_path, monkeypatch):
    (tmp_path / "config").write_text("no configuration")
    monkeypatch.setenv("DVC_GLOBAL_CONFIG_DIR", str(tmp_path))
    make_workspace(tmp_path / "run", default_params())
    with (
        open_pipeline(tmp_path / "run") as pipeline,
        pytest.raises(MienError, match="run: DVC cannot work here"),
    ):
        pipeline.stages()


def test_a_folder_with_other_things_is_left_alone(folders, tmp_path):
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "dvc.yaml").write_text("stages: {}")
    with pytest.raises(MienError, match="holds other things"):
        make_workspace(out, settings_for(folders))
    assert (out / "dvc.yaml").read_text() == "stages: {}"
    assert len(list(out.iterdir())) == 1
    assert workspace_params(out) is None


@pytest.mark.parametrize("written", [0, 1, 2])
def test_one_that_was_stopped_while_it_was_made_is_made_again(tmp_path, monkeypatch, written):
    """After the list of pictures alone the folder was taken for somebody else's."""
    (tmp_path / "faces.csv").write_text("path,label\na.png,happy\n")
    (tmp_path / "a.png").touch()
    table = {"name": "table", "kind": "csv", "path": "faces.csv", "role": "labelled"}
    changes = {"prepare": {"data": str(tmp_path), "sources": [table]}}
    left = [write_text] * written

    def stopped(path: Path, text: str) -> None:
        if not left:
            raise KeyboardInterrupt
        left.pop()(path, text)

    out = tmp_path / "run"
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("mien.workspace.write_text", stopped)
        make_workspace(out, merge(default_params(), changes))
    make_workspace(out, merge(default_params(), changes))
    assert (out / "pictures.txt").is_file()


def test_one_that_was_stopped_in_dvcs_own_folder_is_made_again(tmp_path):
    """It was taken for whole, and was no Git repository to DVC ever after."""
    out = tmp_path / "run"
    (out / ".dvc").mkdir(parents=True)
    (out / "dvc.yaml").write_text(_MARK)
    make_workspace(out, default_params())
    with open_pipeline(out) as pipeline:
        assert pipeline.stages()[0] == "prepare"


def test_results_do_not_go_among_the_pictures(folders):
    out = folders / "many" / "run"
    with pytest.raises(MienError, match="inside the pictures' folder"):
        make_workspace(out, settings_for(folders))
    assert not out.exists()


def test_a_name_that_dvc_cannot_work_under_is_told(folders, tmp_path):
    with pytest.raises(MienError, match=r"--out .*: DVC cannot work under"):
        make_workspace(tmp_path / "run{1}", settings_for(folders))
    assert not (tmp_path / "run{1}").exists()


def test_a_file_is_no_workspace(folders, tmp_path):
    out = tmp_path / "run"
    out.touch()
    with pytest.raises(MienError, match="is a file"):
        make_workspace(out, settings_for(folders))


def test_wrong_settings_make_nothing(folders, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(MienError, match=r"pretrain\.epochs"):
        make_workspace(out, merge(settings_for(folders), {"pretrain": {"epochs": 0}}))
    assert not out.exists()


def test_a_configured_source_that_is_missing_is_named(tmp_path):
    lfw = {"name": "lfw", "kind": "lfw", "path": "lfw.zip"}
    changes = {"prepare": {"data": str(tmp_path), "sources": [lfw]}}
    with pytest.raises(MienError, match=r"source 'lfw': .*lfw\.zip does not exist"):
        make_workspace(tmp_path / "run", merge(default_params(), changes))


def test_a_name_that_is_not_utf_8_is_told(folders, tmp_path):
    """DVC ended at it with a traceback."""
    (folders / "many" / "ann" / os.fsdecode(b"caf\xe9.png")).touch()
    with pytest.raises(MienError, match=r"source 'faces': .*'ann/caf\\udce9\.png' is not UTF-8"):
        make_workspace(tmp_path / "run", settings_for(folders))
    assert not (tmp_path / "run").exists()


def test_a_name_that_dvc_takes_for_a_setting_is_told(folders, tmp_path):
    odd = folders.rename(tmp_path / "do${x}llar")
    with pytest.raises(MienError, match=r"source 'labelled': .*llar/labelled: DVC cannot read"):
        make_workspace(tmp_path / "run", settings_for(odd))


def test_paths_start_from_where_the_run_was_called(folders, tmp_path, monkeypatch):
    """The stages run in the workspace: a relative folder would be looked for there."""
    monkeypatch.chdir(tmp_path)
    many = {"name": "many", "kind": "image_folder", "path": "many", "role": "unlabelled"}
    changes = {"prepare": {"data": folders.name, "sources": [many | {"folders": "nothing"}]}}
    out = tmp_path / "elsewhere" / "run"
    make_workspace(out, merge(default_params(), changes))
    assert load_params(out / "params.yaml").prepare.data == folders
    stages = yaml.safe_load((out / "dvc.yaml").read_text())["stages"]
    assert str(folders / "many") in stages["prepare"]["deps"]
    before = (out / "params.yaml").read_text()
    monkeypatch.chdir(out)
    make_workspace(out, complete_params(workspace_params(out) or {}))
    assert (out / "params.yaml").read_text() == before


def test_settings_do_not_change_under_a_running_run(folders, tmp_path):
    out = tmp_path / "run"
    make_workspace(out, settings_for(folders))
    before = (out / "params.yaml").read_text()
    with locked(out), pytest.raises(MienError, match="another run"):
        make_workspace(out, merge(settings_for(folders), {"seed": 7}))
    assert (out / "params.yaml").read_text() == before


def test_settings_do_not_change_under_a_dvc_command(folders, tmp_path):
    """It would record the new ones for what the old ones made."""
    out = tmp_path / "run"
    make_workspace(out, settings_for(folders))
    before = (out / "params.yaml").read_text()
    holder = {"pid": os.getpid(), "cmd": "dvc"}
    (out / ".dvc" / "tmp").mkdir()
    (out / ".dvc" / "tmp" / "rwlock").write_text(json.dumps({"write": {"x": holder}, "read": {}}))
    with pytest.raises(MienError, match=f"process {os.getpid()} .* is at work here"):
        make_workspace(out, merge(settings_for(folders), {"seed": 7}))
    assert (out / "params.yaml").read_text() == before


def test_an_override_changes_its_line_and_no_other(tmp_path, root):
    """DVC reads YAML 1.2 and we 1.1, where 1e-5 is a text and yes a truth."""
    path = tmp_path / "params.yaml"
    before = (root / "params.yaml").read_text().replace("temperature: 0.07", "temperature: 7e-2")
    path.write_text(before)
    override(tmp_path, {"finetune.learning_rate": 0.00001})
    override(tmp_path, {"expressions": ["yes", "no"]})
    params = load_params(path)
    assert params.expressions == ["yes", "no"]
    assert params.finetune.learning_rate == YAML().load(path)["finetune"]["learning_rate"] == 1e-5
    changed = difflib.ndiff(before.splitlines(), path.read_text().splitlines())
    assert [line for line in changed if line[0] in "+-"] == [
        "- expressions: [angry, disgust, fear, happy, sad, surprise, neutral]",
        "+ expressions:",
        "+   - 'yes'",
        "+   - 'no'",
        "-   learning_rate: 0.003",
        "+   learning_rate: 1.0e-05",
    ]


def test_other_pictures_are_for_mien_run(folders, tmp_path):
    """The pipeline there would go on reading, and watching, those of before."""
    out = tmp_path / "run"
    make_workspace(out, settings_for(folders))
    before = (out / "params.yaml").read_text()
    sources = yaml.safe_load(before)["prepare"]["sources"]
    for changes in ({"prepare.data": "/elsewhere"}, {"prepare": {"sources": sources[:1]}}):
        with pytest.raises(MienError, match=rf"prepare\.\w+: .*dvc.yaml names .*--out {out}"):
            override(out, changes)
    override(out, {"prepare.sources": sources})
    assert (out / "params.yaml").read_text() == before


@pytest.mark.parametrize(
    ("text", "settings"),
    [
        ("seed=3", {"seed": 3}),
        ("finetune.center_weight=0.5", {"finetune": {"center_weight": 0.5}}),
        ("expressions=[bored, attentive]", {"expressions": ["bored", "attentive"]}),
        ("prepare.data=/a=b", {"prepare": {"data": "/a=b"}}),
    ],
)
def test_an_assignment_becomes_nested_settings(text, settings):
    assert assignment(text) == settings


@pytest.mark.parametrize("text", ["seed", "=3", "a..b=3", "seed=[1", "prepare.data=2024-02-30"])
def test_a_wrong_assignment_is_shown(text):
    with pytest.raises(MienError) as caught:
        assignment(text)
    assert f"--set {text}" in str(caught.value)
