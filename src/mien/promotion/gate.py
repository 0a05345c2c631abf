"""The promotion gate: a challenger against the champion, on the same test faces.

Nothing here decides by a single ``>=``. Each check says what it found, what the limit was, and
whether it passed; a challenger is promoted when all pass.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mien import packaging
from mien.data.faces import resize
from mien.data.manifest import read_manifest
from mien.errors import MienError
from mien.evaluation.card import find_empty
from mien.evaluation.comparison import accuracy_difference, mcnemar
from mien.evaluation.measures import as_json
from mien.evaluation.metrics import (
    bin_reliability,
    count_confusion,
    expected_calibration_error,
    score_classes,
    score_overall,
)
from mien.files import read_json
from mien.model.runtime import measure_latency, open_session
from mien.params.service import PromotionSettings

_BINS = 15
_DRAWS = 1000
_ROUNDING = 1e-9
"""For a computer, what has fallen from 0.8 to 0.7 has lost more than 0.1."""


@dataclass(frozen=True)
class Check:
    """One condition of the gate."""

    name: str
    passed: bool
    says: str
    """What was found, and the limit."""


@dataclass(frozen=True)
class Judgement:
    """What the gate says of a challenger."""

    checks: list[Check]
    metrics: dict[str, Any]
    """For each test set and both models: faces, accuracy, macro-F1, ECE, recalls; and their
    comparison."""

    @property
    def passed(self) -> bool:
        """Whether the challenger may take the champion's place."""
        return all(check.passed for check in self.checks)

    @property
    def reason(self) -> str:
        """Why it was refused, or that every check passed."""
        failed = [check.says for check in self.checks if not check.passed]
        return "; ".join(failed) if failed else f"all {len(self.checks)} checks passed"


@dataclass(frozen=True)
class HeldOut:
    """Faces that neither model was trained on."""

    name: str
    faces: NDArray[np.uint8]
    """``[n, S, S]``."""
    labels: list[str]
    """``[n]`` true expressions."""


def read_test_sets(manifest: Path, faces: Path) -> list[HeldOut]:
    """The test faces of a prepared data set, one set for each source that has some.

    Raises:
        MienError: a file is missing, or there is no test face.
    """
    table = read_manifest(manifest)
    try:
        store = np.load(faces, mmap_mode="r")
    except (OSError, ValueError) as error:
        raise MienError(f"{faces}: cannot be read ({error}); run the stage `prepare`") from None
    rows = table[table["split"] == "test"]
    if rows.empty:
        raise MienError(
            f"{manifest}: no test faces, so nothing can be compared; give a source of test faces"
        )
    return [
        HeldOut(str(name), np.asarray(store[group["row"].to_numpy()]), group["label"].tolist())
        for name, group in rows.groupby("source", sort=True)
    ]


def judge(
    challenger: Path,
    champion: Path | None,
    test_sets: Sequence[HeldOut],
    settings: PromotionSettings,
    renewal: bool = False,
) -> Judgement:
    """Compare two packages on the same test faces.

    Args:
        challenger: package folder.
        champion: package folder of the model in service; None where there is none: then only what
            needs no comparison is checked.
        test_sets: each must pass.
        settings: the limits.
        renewal: nobody chose the challenger's data, so there must be test faces of every set that
            the champion was tested on: on others it may look worse than it is where it serves.

    Raises:
        MienError: a package lacks a file, or the two name different expressions.
    """
    new = read_metadata(challenger)
    old = read_metadata(champion) if champion else None
    if old and old["expressions"] != new["expressions"]:
        raise MienError(
            f"the champion {old['version']} names {', '.join(old['expressions'])}, the challenger "
            f"{', '.join(new['expressions'])}: they cannot be compared; to start anew, remove "
            "releases/champion.json"
        )
    checks, metrics = [], {}
    if renewal and old:
        checks.append(_covers(old, test_sets))
    for test_set in test_sets:
        found, measured = _compare(test_set, challenger, champion, new, old, settings)
        checks += found
        metrics[test_set.name] = measured
    checks += _budgets(challenger, new["image_size"], settings)
    return Judgement(checks, metrics)


def predict(package: Path, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Calibrated probabilities ``[n, C]`` of faces ``[n, S, S]`` from a package's ONNX file.

    Faces of another size than the model's are resampled.
    """
    size = read_metadata(package)["image_size"]
    return packaging.predict(package, np.stack([resize(face, size) for face in faces]))[0]


def _covers(champion: dict[str, Any], test_sets: Sequence[HeldOut]) -> Check:
    known = set(champion["accuracy"])
    missing = ", ".join(sorted(known - {each.name for each in test_sets}))
    return Check(
        "test sets",
        not missing,
        f"the champion was tested on {missing}, too, of which this run has no test faces"
        if missing
        else f"all that the champion was tested on: {', '.join(sorted(known))}",
    )


def _compare(
    test_set: HeldOut,
    challenger: Path,
    champion: Path | None,
    new: dict[str, Any],
    old: dict[str, Any] | None,
    settings: PromotionSettings,
) -> tuple[list[Check], dict[str, Any]]:
    expressions: list[str] = new["expressions"]
    if unknown := sorted(set(test_set.labels) - set(expressions)):
        raise MienError(f"test set {test_set.name}: the challenger names no {', '.join(unknown)}")
    truth = np.array([expressions.index(label) for label in test_set.labels])
    probabilities = predict(challenger, test_set.faces)
    measured = {"challenger": _measure(truth, probabilities, expressions)}
    accuracy, ece = measured["challenger"]["accuracy"], measured["challenger"]["ece"]
    allowed, few = settings.max_ece, ""
    if ece > allowed:
        chance = _chance_error(probabilities.max(axis=1), settings.significance)
        if chance > allowed:
            allowed, few = chance, f", or {chance:.1%} by chance on {len(truth):,} faces"
    checks = [
        Check(
            f"{test_set.name}: floor",
            accuracy >= settings.min_accuracy,
            f"{test_set.name}: accuracy {accuracy:.1%}, the floor is {settings.min_accuracy:.1%}",
        ),
        Check(
            f"{test_set.name}: calibration",
            ece <= allowed,
            f"{test_set.name}: calibration error {ece:.1%} after calibration, at most "
            f"{settings.max_ece:.1%}{few}",
        ),
    ]
    if champion is None or old is None:
        return checks, as_json(measured)

    before = predict(champion, test_set.faces)
    measured["champion"] = _measure(truth, before, expressions)
    was_right, is_right = (p.argmax(axis=1) == truth for p in (before, probabilities))
    test = mcnemar(was_right, is_right)
    interval = accuracy_difference(test, len(truth))
    change = accuracy - measured["champion"]["accuracy"]
    measured["comparison"] = {
        "accuracy_difference": change,
        "interval": asdict(interval),
        "mcnemar": asdict(test),
    }
    worse = test.only_second_right < test.only_first_right
    checks += [
        Check(
            f"{test_set.name}: accuracy",
            interval.low >= -settings.max_accuracy_loss,
            f"{test_set.name}: accuracy changes by {100 * change:+.1f} points on {len(truth):,} "
            f"faces, 95% interval {100 * interval.low:+.1f} to {100 * interval.high:+.1f}; a loss "
            f"of more than {100 * settings.max_accuracy_loss:.1f} must be ruled out "
            "(promotion.max_accuracy_loss)",
        ),
        Check(
            f"{test_set.name}: McNemar",
            not (worse and test.mid_p < settings.significance),
            f"{test_set.name}: {test.only_first_right} faces only the champion gets right, "
            f"{test.only_second_right} only the challenger (McNemar's p = {test.mid_p:.2g}, "
            f"significant under {settings.significance:g})",
        ),
        _recall_check(test_set.name, truth, was_right, is_right, expressions, settings),
    ]
    return checks, as_json(measured)


def _measure(
    truth: NDArray[np.int64], probabilities: NDArray[np.float32], expressions: Sequence[str]
) -> dict[str, Any]:
    predicted = probabilities.argmax(axis=1)
    confusion = count_confusion(truth, predicted, len(expressions))
    reliability = bin_reliability(probabilities.max(axis=1), predicted == truth, _BINS)
    recall = score_classes(confusion).recall
    return {
        "faces": len(truth),
        **{name: float(value) for name, value in asdict(score_overall(confusion)).items()},
        "ece": expected_calibration_error(reliability),
        "recall": {name: float(recall[i]) for i, name in enumerate(expressions)},
    }


def _chance_error(confidence: NDArray[np.float32], level: float) -> float:
    """The calibration error that a perfectly calibrated model exceeds with probability ``level``.

    The fewer the faces, the larger the error even of such a model: on 64 it is mostly over 0.1.
    """
    generator = np.random.default_rng(0)
    draws = (generator.random(len(confidence)) < confidence for _ in range(_DRAWS))
    errors = [expected_calibration_error(bin_reliability(confidence, r, _BINS)) for r in draws]
    return float(np.quantile(errors, 1 - level))


def _recall_check(
    name: str,
    truth: NDArray[np.int64],
    before: NDArray[np.bool_],
    after: NDArray[np.bool_],
    expressions: Sequence[str],
    settings: PromotionSettings,
) -> Check:
    """One check for all expressions, which names each that loses too much, and not by chance.

    By chance: McNemar's test of its own faces, one-sided, is not significant. With 20 faces of each
    of seven expressions, one in two models as good as the champion loses over a tenth of some one.

    Args:
        name: the test set's.
        truth: ``[n]`` true expressions.
        before: ``[n]`` which faces the champion gets right.
        after: ``[n]`` which the challenger does.
        expressions: their names.
        settings: the limits.
    """
    lines, lost, chance = {}, {}, {}
    for index in np.unique(truth):
        own, each = truth == index, expressions[index]
        old, new = before[own].mean(), after[own].mean()
        lines[each] = f"{each} {old:.1%} → {new:.1%}"
        lost[each] = float(old - new)
        if lost[each] > settings.max_recall_loss + _ROUNDING:
            chance[each] = mcnemar(before[own], after[own]).mid_p / 2
    told = sorted(lost, key=lambda each: -lost[each])
    worst = [each for each in told if chance.get(each, 1) < settings.significance]
    few = [each for each in told if each in chance and each not in worst]
    notes = [f"at most {100 * settings.max_recall_loss:g} points may be lost"]
    if few and not worst:
        p = min(chance[each] for each in few)
        notes.append(
            f"of so few faces more may be lost by chance (McNemar's p = {p:.2g}, one-sided)"
        )
    shown = ", ".join(lines[each] for each in worst or few or told[:1])
    return Check(
        f"{name}: each expression", not worst, f"{name}: recall of {shown}; {'; '.join(notes)}"
    )


def _budgets(package: Path, size: int, settings: PromotionSettings) -> list[Check]:
    megabytes = (package / packaging.ONNX).stat().st_size / 1e6
    face = np.zeros((1, 1, size, size), np.float32)
    latency = measure_latency(open_session(package / packaging.ONNX), face)
    try:
        empty = find_empty(read_json(package / packaging.CARD))
    except (FileNotFoundError, ValueError):
        empty = [packaging.CARD]
    return [
        Check(
            "size",
            megabytes <= settings.max_size_mb,
            f"size {megabytes:.2f} MB, at most {settings.max_size_mb:g}",
        ),
        Check(
            "latency",
            latency <= settings.max_latency_ms,
            f"latency {latency:.2f} ms, at most {settings.max_latency_ms:g}",
        ),
        Check(
            "card",
            not empty,
            f"the model card has empty fields: {', '.join(empty)}"
            if empty
            else "the model card has no empty field",
        ),
    ]


def read_metadata(package: Path) -> dict[str, Any]:
    """A package's ``metadata.json``.

    Raises:
        MienError: it, or the network beside it, is missing or broken.
    """
    try:
        metadata: dict[str, Any] = read_json(package / packaging.METADATA)
    except FileNotFoundError:
        raise MienError(
            f"{package}: no {packaging.METADATA}, so this is no package; run the pipeline first"
        ) from None
    except ValueError as error:
        raise MienError(f"{package / packaging.METADATA}: not JSON ({error})") from None
    if not (package / packaging.ONNX).is_file():
        raise MienError(f"{package}: no {packaging.ONNX}; run the stage `package` again")
    return metadata
