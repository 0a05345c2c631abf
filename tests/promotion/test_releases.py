"""Records, the pointer, and the commands, with a real model store and real processes."""

import hashlib
import itertools
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import bentoml
import pytest
import yaml

from mien.errors import MienError
from mien.files import read_json
from mien.promotion import commands, releases
from tests.promotion.linear import matrix

GOOD, OTHER, WRONG = matrix(), matrix(sharpness=0.6), matrix(order=(1, 0, 2))


def tag_of(root) -> str:
    version = read_json(root / "models" / "package" / "metadata.json")["version"]
    return f"mien:{version}"


def test_first_promotion_writes_record_and_pointer(workspace, capsys):
    root = workspace("first", GOOD)
    assert releases.read_champion(root) is None
    commands.promote(root, root)
    pointer = releases.read_champion(root)
    assert pointer["tag"] == tag_of(root)
    record = read_json(root / "releases" / pointer["release"])
    assert record["decision"] == "promoted"
    assert record["champion"] is None
    assert set(record["evidence"]) == {
        *("lock", "lock_file", "commit", "workspace", "data", "params")
    }
    assert record["evidence"]["workspace"] == "."
    assert record["evidence"]["params"]["seed"] == 0
    (faces,) = yaml.safe_load((root / "dvc.lock").read_text())["stages"]["prepare"]["outs"]
    prepared = hashlib.sha256(f"{faces['path']} {faces['md5']}".encode())
    assert record["evidence"]["data"] == prepared.hexdigest()
    assert record["metrics"]["drawn"]["challenger"]["faces"] == 360
    (kept,) = (root / "releases").glob(f"*{record['decision']}*.json")
    assert f"is the champion ({kept})" in capsys.readouterr().out


def test_a_worse_model_never_replaces_the_champion(workspace):
    root, bad = workspace("served", GOOD), workspace("bad", WRONG)
    commands.promote(root, root)
    before = (root / "releases" / "champion.json").read_bytes()
    with pytest.raises(MienError, match=r"is refused: .*McNemar"):
        commands.promote(root, bad)
    assert (root / "releases" / "champion.json").read_bytes() == before
    last = releases.list_releases(root)[-1]
    assert last["decision"] == "refused"
    assert last["challenger"] == tag_of(bad)
    assert "only the champion gets right" in last["reason"]
    with pytest.raises(ValueError, match="was refused cannot be promoted"):
        releases.promote(root, last)


def test_of_two_promotions_at_once_one_wins_and_the_other_says_so(workspace):
    root = workspace("served", GOOD)
    commands.promote(root, root)
    first = commands.decide(root, workspace("a", OTHER))
    second = commands.decide(root, workspace("b", matrix(sharpness=0.7)))
    answers = []

    def attempt(record):
        try:
            answers.append(commands.carry_out(root, record))
        except MienError as error:
            answers.append(error)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(attempt, [first, second]))
    (lost,) = [each for each in answers if isinstance(each, MienError)]
    (won,) = [each for each in answers if isinstance(each, str)]
    assert "another promotion was faster" in str(lost)
    pointer = releases.read_champion(root)
    assert pointer["release"] == won
    assert pointer["tag"] in {first["challenger"], second["challenger"]}
    assert len(releases.list_releases(root)) == 2


@pytest.mark.slow
def test_two_processes_that_promote_at_once(workspace, root):
    served, other = workspace("served", GOOD), workspace("other", OTHER)
    command = [sys.executable, "-m", "mien", "promote", "--workspace", served, "--trained"]
    processes = [
        subprocess.Popen([*command, folder], stdout=-1, stderr=-1, text=True, env=os.environ)
        for folder in (served, other)
    ]
    ends = [(each.communicate(timeout=60)[1], each.returncode) for each in processes]
    pointer = releases.read_champion(served)
    promoted = [r for r in releases.list_releases(served) if r["decision"] == "promoted"]
    assert pointer["release"] == promoted[-1]["file"]
    # The chain is whole: whoever was second knew the first one's release, or was turned away.
    if len(promoted) == 2:
        assert promoted[1]["champion"] == promoted[0]["challenger"]
        assert [code for _, code in ends] == [0, 0]
    else:
        assert sorted(code for _, code in ends) == [0, 1]
        assert any("another promotion was faster" in text for text, _ in ends)


def test_rollback_goes_back_step_by_step(workspace, capsys):
    root, second, third = workspace("a", GOOD), workspace("b", OTHER), workspace("c", GOOD * 1.5)
    for each in (root, second, third):
        commands.promote(root, each)
    commands.rollback(root, "dark rooms", None)
    assert releases.read_champion(root)["tag"] == tag_of(second)
    commands.rollback(root, "still", None)
    assert releases.read_champion(root)["tag"] == tag_of(root)
    with pytest.raises(MienError, match="no champion before"):
        commands.rollback(root, "further", None)
    commands.rollback(root, "forward again", tag_of(third))
    assert releases.read_champion(root)["tag"] == tag_of(third)
    capsys.readouterr()
    commands.show_releases(root)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[3 if line.startswith("*") else 2] for line in lines] == [
        "promoted", "promoted", "promoted", "rolled-back", "rolled-back", "rolled-back",
    ]  # fmt: skip
    assert [line.startswith("*") for line in lines] == [False, False, True, False, False, False]
    assert "dark rooms" in lines[3]


def test_wrong_settings_change_no_champion(workspace):
    """The champion went back, the command failed, and when asked again it went back further."""
    root, second = workspace("served", GOOD), workspace("b", OTHER)
    (root / "link").symlink_to(root)
    commands.promote(root / "link", root)
    old = yaml.safe_load((second / "params.yaml").read_text())
    del old["monitoring"]  # of where it was trained, an earlier version's may do
    (second / "params.yaml").write_text(yaml.safe_dump(old))
    commands.promote(root / "link", second)
    record = releases.list_releases(root)[-1]
    assert record["evidence"]["workspace"] == "../b"
    settings = (root / "params.yaml").read_text()
    (root / "params.yaml").write_text(settings.replace("pages_kept", "pages_left"))
    with pytest.raises(MienError, match="pages_left"):
        commands.rollback(root, "dark rooms", None)
    with pytest.raises(MienError, match="pages_left"):
        commands.carry_out(root, {**record, "decision": "refused"})
    assert releases.read_champion(root)["tag"] == tag_of(second)
    assert len(releases.list_releases(root)) == 2


def test_rollback_to_a_stranger_is_refused(workspace):
    root = workspace("a", GOOD)
    with pytest.raises(MienError, match="no champion, so nothing"):
        releases.rollback(root, "why")
    commands.promote(root, root)
    with pytest.raises(MienError, match="never been champion; there were mien:"):
        releases.rollback(root, "why", "mien:unknown")
    with pytest.raises(MienError, match=f"{tag_of(root)} is the champion already"):
        releases.rollback(root, "why", tag_of(root))
    assert len(releases.list_releases(root)) == 1


def test_a_champion_missing_from_the_store_is_told_with_the_way_out(workspace):
    root = workspace("a", GOOD)
    commands.promote(root, root)
    pointer = releases.read_champion(root) | {"tag": "mien:gone"}
    releases.write_json(root / "releases" / "champion.json", pointer)
    with pytest.raises(MienError, match=r"mien:gone is not in the model store.*roll back"):
        commands.promote(root, workspace("b", OTHER))


def test_no_rollback_to_a_model_that_the_store_has_lost(workspace):
    root = workspace("a", GOOD)
    commands.promote(root, root)
    commands.promote(root, workspace("b", OTHER))
    champion = releases.read_champion(root)
    bentoml.models.delete(tag_of(root))
    with pytest.raises(MienError, match=f"{tag_of(root)} is not in the model store"):
        commands.rollback(root, "why", None)
    assert releases.read_champion(root) == champion
    assert len(releases.list_releases(root)) == 2


def test_a_broken_pointer_is_named(workspace):
    root = workspace("a", None)
    (root / "releases").mkdir()
    (root / "releases" / "champion.json").write_text("{")
    with pytest.raises(MienError, match="not a champion pointer"):
        releases.read_champion(root)


def test_what_a_killed_promotion_had_half_written_is_passed_over(workspace, capsys):
    root = workspace("a", GOOD)
    commands.promote(root, root)
    commands.promote(root, workspace("b", OTHER))
    name = releases.read_champion(root)["release"]
    for torn in ("champion.json", name):
        (root / "releases" / f".partial-{torn}").write_text('{"tag": "mien:')
    commands.rollback(root, "why", None)
    assert releases.read_champion(root)["tag"] == tag_of(root)
    commands.show_releases(root)
    assert "partial" not in capsys.readouterr().out


def test_a_promotion_killed_before_it_was_served_is_none_to_go_back_to(workspace, monkeypatch):
    root, second, third = workspace("a", GOOD), workspace("b", OTHER), workspace("c", GOOD * 1.5)
    commands.promote(root, root)

    def killed(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(releases, "_point", killed)
        with pytest.raises(KeyboardInterrupt):
            commands.promote(root, second)
    commands.promote(root, third)
    assert len(releases.list_releases(root)) == 3
    with pytest.raises(MienError, match=f"{tag_of(second)} has never been champion; there were"):
        releases.rollback(root, "why", tag_of(second))
    commands.promote(root, second)  # this time whole
    releases.rollback(root, "why", tag_of(third))
    releases.rollback(root, "and on", tag_of(second))
    assert releases.read_champion(root)["tag"] == tag_of(second)


def test_a_package_of_another_run_than_the_faces_beside_it_is_not_judged(workspace):
    """A later run that was stopped leaves its test faces beside the package of the one before."""
    root = workspace("a", GOOD)
    faces = root / "data" / "prepared" / "faces.npy"
    before = faces.read_bytes()
    faces.write_bytes(before[:-1] + b"x")
    with pytest.raises(MienError, match=r"faces\.npy: not as .*dvc\.lock records it; finish"):
        commands.promote(root, root)
    faces.write_bytes(before)
    lock = yaml.safe_load((root / "dvc.lock").read_text())
    lock["stages"]["package"]["deps"] = [{"path": "data/prepared/faces.npy", "md5": "older"}]
    (root / "dvc.lock").write_text(yaml.safe_dump(lock))
    with pytest.raises(MienError, match=r"package: made before data/prepared/faces\.npy became"):
        commands.promote(root, root)
    del lock["stages"]["package"]
    (root / "dvc.lock").write_text(yaml.safe_dump(lock))
    with pytest.raises(MienError, match="package: no package of a finished run"):
        commands.promote(root, root)


def test_a_package_of_another_commit_is_not_judged(workspace):
    """`git checkout` alone brings another commit's settings, which would stand in the record."""
    root = workspace("a", GOOD)
    for arguments in (["init", "--no-scm"], ["add", "models/package"]):
        subprocess.run([sys.executable, "-m", "dvc", "-q", *arguments], cwd=root, check=True)
    (out,) = yaml.safe_load((root / "models" / "package.dvc").read_text())["outs"]
    lock = yaml.safe_load((root / "dvc.lock").read_text())
    lock["stages"]["package"]["outs"] = [out | {"path": "models/package"}]
    (root / "dvc.lock").write_text(yaml.safe_dump(lock))
    releases.require_whole(root)
    lock["stages"]["package"]["outs"][0]["md5"] = "of-another-commit.dir"
    (root / "dvc.lock").write_text(yaml.safe_dump(lock))
    with pytest.raises(MienError, match=r"package: not as .*dvc\.lock records it; `dvc checkout`"):
        commands.promote(root, root)


def test_a_stage_that_ran_again_and_left_the_same_changes_nothing(workspace):
    root = workspace("a", GOOD)
    lock = yaml.safe_load((root / "dvc.lock").read_text())
    lock["stages"]["prepare"]["deps"] = [{"path": "src/x.py", "md5": "with another comment"}]
    (root / "reports" / "prepare").mkdir(parents=True)
    lock["stages"]["prepare"]["outs"].append({"path": "reports/prepare", "md5": "folder.dir"})
    (root / "dvc.lock").write_text(yaml.safe_dump(lock))
    commands.promote(root, root)


def test_the_record_has_the_settings_that_were_trained_with(workspace):
    root = workspace("a", GOOD)
    values = yaml.safe_load((root / "params.yaml").read_text())
    epochs = values["pretrain"]["epochs"]
    values["pretrain"]["epochs"] += 7  # for the next run, which has not been made
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    commands.promote(root, root)
    record = releases.list_releases(root)[-1]
    assert record["evidence"]["params"]["pretrain"]["epochs"] == epochs
    assert record["evidence"]["params"]["promotion"] == values["promotion"]


def test_records_and_folders_that_are_none(tmp_path, workspace, capsys):
    for call in (commands.show_releases, lambda root: commands.rollback(root, "", None)):
        with pytest.raises(MienError, match="nowhere: no such folder"):
            call(tmp_path / "nowhere")
        assert not (tmp_path / "nowhere").exists()
    root = workspace("a", GOOD)
    commands.promote(root, root)
    (record,) = [path for path in (root / "releases").iterdir() if "promoted" in path.name]
    kept = record.read_text()
    record.write_text("{}")
    with pytest.raises(MienError, match=r"promoted-.*: not a release record \('created_at'\)"):
        commands.show_releases(root)
    record.unlink()
    commands.show_releases(root)
    assert "its record is gone" in capsys.readouterr().out
    record.write_text(kept)
    commands.show_releases(root)
    assert capsys.readouterr().out.startswith("* ")


def test_a_folder_that_only_serves_can_go_back(workspace, capsys):
    root = workspace("a", GOOD)
    commands.promote(root, root)
    commands.promote(root, workspace("b", OTHER))
    (root / "params.yaml").unlink()
    commands.rollback(root, "worse than it looked", None)
    assert f"{tag_of(root)} is the champion again" in capsys.readouterr().out


def test_the_same_package_twice_is_told(workspace):
    root = workspace("a", GOOD)
    commands.promote(root, root)
    with pytest.raises(MienError, match="is the champion already"):
        commands.promote(root, root)


def test_git_tags_of_gto(workspace, monkeypatch):
    root = workspace("a", GOOD)
    values = yaml.safe_load((root / "params.yaml").read_text())
    values["promotion"]["git_tag"] = True
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    git = ["git", "-c", "user.name=T", "-c", "user.email=t@example.org"]
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    subprocess.run([*git, "commit", "-q", "--allow-empty", "-m", "start"], cwd=root, check=True)
    subprocess.run(["git", "config", "user.name", "T"], cwd=root, check=True)
    subprocess.run(["git", "config", "user.email", "t@example.org"], cwd=root, check=True)
    # of two assignments in one second GTO knows no order
    seconds = (f"{second} +0000" for second in itertools.count(1_800_000_000))
    monkeypatch.setenv("GIT_COMMITTER_DATE", next(seconds))
    commands.promote(root, root)
    monkeypatch.setenv("GIT_COMMITTER_DATE", next(seconds))
    commands.promote(root, workspace("b", OTHER))
    tags = subprocess.check_output(["git", "tag"], cwd=root, text=True).split()
    assert tags == ["mien#champion#1", "mien#champion#2", "mien@v1.0.0", "mien@v2.0.0"]
    gto = [Path(sys.executable).with_name("gto"), "show", "mien#champion", "--ref"]

    def champion() -> str:
        assert not subprocess.check_output(["git", "status", "--short", "releases"], cwd=root)
        return subprocess.check_output(gto, cwd=root, text=True).strip()

    assert champion() == "mien@v2.0.0"
    with pytest.raises(MienError, match="is refused"):
        commands.promote(root, workspace("c", WRONG))
    assert champion() == "mien@v2.0.0"
    monkeypatch.setenv("GIT_COMMITTER_DATE", next(seconds))
    # such tags are set by hand, too, with words of GTO's own
    gto_register = [gto[0], "register", "mien", "--version", "v9.0.0"]
    subprocess.run(gto_register, cwd=root, check=True, capture_output=True)
    commands.rollback(root, "worse than it looked", None)
    assert champion() == "mien@v1.0.0"
    monkeypatch.setenv("GIT_COMMITTER_DATE", next(seconds))
    commands.promote(root, workspace("d", matrix(sharpness=0.7)))
    assert champion() == "mien@v10.0.0"  # v3 to v8 are missing


def test_what_git_refuses_stands_all_the_same_and_is_told(workspace):
    root = workspace("a", GOOD)
    values = yaml.safe_load((root / "params.yaml").read_text())
    values["promotion"]["git_tag"] = True
    (root / "params.yaml").write_text(yaml.safe_dump(values))
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    for key, value in (("user.name", "T"), ("user.email", "t@example.org")):
        subprocess.run(["git", "config", key, value], cwd=root, check=True)
    subprocess.run(["git", "commit", "-q", "--allow-empty", "-m", "x"], cwd=root, check=True)
    for key, value in (("tag.gpgSign", "true"), ("gpg.program", "false")):
        subprocess.run(["git", "config", key, value], cwd=root, check=True)
    hook = root / ".git" / "hooks" / "pre-commit"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text("#!/bin/sh\necho lint first\nexit 1\n")
    hook.chmod(0o755)
    with pytest.raises(MienError, match=r"decision stands in releases/, but `git commit` .*: lint"):
        commands.promote(root, root)
    assert releases.read_champion(root)["tag"] == tag_of(root)

    hook.unlink()
    (record,) = releases.list_releases(root)
    with pytest.raises(MienError, match="decision stands in releases/, but `git tag` failed"):
        releases.commit_release(root, record)


def test_the_pointer_is_never_half_written(workspace):
    """Readers in another process see a whole pointer at all times, while it changes often."""
    root = workspace("a", GOOD)
    commands.promote(root, root)
    code = (
        "import sys, pathlib; from mien.promotion.releases import read_champion\n"
        "root = pathlib.Path(sys.argv[1])\n"
        "seen = set()\n"
        "print('ready', flush=True)\n"
        "while not (root / 'stop').exists(): seen.add(read_champion(root)['tag'])\n"
        "print(len(seen))"
    )
    reader = subprocess.Popen([sys.executable, "-c", code, root], stdout=subprocess.PIPE, text=True)
    assert reader.stdout.readline() == "ready\n"
    deadline = time.monotonic() + 2
    while time.monotonic() < deadline:
        for tag, pointer in ((tag_of(root), "x"), ("mien:other", "y")):
            releases._point(root, tag, pointer)
    (root / "stop").touch()
    assert reader.communicate(timeout=30)[0] == "2\n"
    assert reader.returncode == 0
