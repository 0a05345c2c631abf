"""Progress: a line for every tenth in a log, a bar on a terminal."""

import sys

from tqdm import tqdm

from mien.progress import Lines, progress


def lines(total, counts, capsys):
    with progress(total, "reading", unit="faces", done="faces read") as bar:
        for count in counts:
            bar.update(count)
    return capsys.readouterr().out.splitlines()


def test_a_log_gets_a_line_for_every_tenth(capsys):
    told = lines(2000, [7] * 285 + [5], capsys)
    assert len(told) == 11
    assert told[0] == "reading: 7 of 2,000 faces read"
    assert told[-1] == "reading: 2,000 of 2,000 faces read"


def test_few_steps_get_a_line_each(capsys):
    assert len(lines(3, [1, 1, 1], capsys)) == 3
    assert lines(0, [], capsys) == []


def test_a_terminal_gets_a_bar(monkeypatch):
    assert isinstance(progress(3, "reading", unit="faces", done="faces read"), Lines)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    with progress(3, "reading", unit="faces", done="faces read") as bar:
        assert isinstance(bar, tqdm)
        assert bar.total == 3
