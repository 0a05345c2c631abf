"""What was said of each face of a test set, as tables: predictions, DVC's plots, mistakes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from mien.data.dataset import Faces
from mien.evaluation.measures import Json, Predictions
from mien.evaluation.metrics import Booleans, Floats, bin_reliability, trace_selective
from mien.evaluation.plots import thin
from mien.files import replacing_file


@dataclass(frozen=True)
class Mistake:
    """A face that the final model got wrong."""

    face: npt.NDArray[np.uint8]
    """``[S, S]`` grey."""
    actual: str
    predicted: str
    confidence: float
    path: str


@dataclass(frozen=True)
class TestSet:
    """One test set: what both models said of it, and what was measured."""

    __test__ = False  # pytest: this is no test

    name: str
    faces: pd.DataFrame
    """``[n]`` rows of the manifest."""
    pretrained: Predictions
    final: Predictions
    measures: Json
    mistakes: list[Mistake]

    @property
    def models(self) -> dict[str, Predictions]:
        """Both models' predictions by name."""
        return {"pretrained": self.pretrained, "final": self.final}


def find_mistakes(
    predictions: Predictions,
    store: Faces,
    table: pd.DataFrame,
    expressions: list[str],
    most: int,
) -> list[Mistake]:
    """The wrong answers with the highest confidence, at most ``most``, surest first."""
    wrong = np.flatnonzero(~predictions.correct)
    surest = wrong[np.argsort(-predictions.confidence[wrong], kind="stable")][:most]
    predicted, confidence = predictions.predicted, predictions.confidence
    return [
        Mistake(
            face=np.asarray(store[table["row"].iloc[index]]),
            actual=expressions[predictions.truth[index]],
            predicted=expressions[predicted[index]],
            confidence=float(confidence[index]),
            path=str(table["path"].iloc[index]),
        )
        for index in surest
    ]


def tabulate_predictions(test_sets: list[TestSet], expressions: list[str]) -> pd.DataFrame:
    """One row for each face and model, with the probability of each expression."""
    names = np.array(expressions)
    parts = []
    for each in test_sets:
        for model, said in each.models.items():
            part = pd.DataFrame(
                {
                    "face_id": each.faces["face_id"].to_numpy(),
                    "test_set": each.name,
                    "model": model,
                    "actual": names[said.truth],
                    "predicted": names[said.predicted],
                    "confidence": said.confidence,
                }
            )
            probabilities = pd.DataFrame(
                said.probabilities, columns=[f"p_{n}" for n in expressions]
            )
            parts.append(pd.concat([part, probabilities], axis=1))
    return pd.concat(parts, ignore_index=True)


def tabulate_reliability(test_sets: list[TestSet], bins: int) -> pd.DataFrame:
    """One row for each of the final model's bins that holds faces, of all test sets together."""
    return pd.DataFrame(vars(bin_reliability(*_confidence(test_sets), bins))).dropna()


def tabulate_selective(test_sets: list[TestSet]) -> pd.DataFrame:
    """Up to 200 points of the final model's accuracy-coverage curve, all test sets together."""
    curve = trace_selective(*_confidence(test_sets))
    shown = thin(curve, 200)
    return pd.DataFrame({"coverage": curve.coverage[shown], "accuracy": curve.accuracy[shown]})


def _confidence(test_sets: list[TestSet]) -> tuple[Floats, Booleans]:
    """The final model's confidence, and whether it is right, on the faces of all test sets: DVC
    draws one line for each revision."""
    finals = [each.final for each in test_sets]
    return (
        np.concatenate([each.confidence for each in finals]),
        np.concatenate([each.correct for each in finals]),
    )


def write_table(path: Path, table: pd.DataFrame) -> None:
    """Write Parquet or CSV, by the path's suffix, atomically."""
    with replacing_file(path) as temporary:
        if path.suffix == ".parquet":
            table.to_parquet(temporary, index=False)
        else:
            table.to_csv(temporary, index=False, float_format="%.6f")
