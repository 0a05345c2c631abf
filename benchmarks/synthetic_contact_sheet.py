"""Draw `docs/images/synthetic-faces.png`: what the synthetic faces look like.

Above: people (rows) who show the seven expressions (columns) under good conditions, at twice the
default size. Below: random faces of the unlabelled part exactly as the pipeline sees them.
"""

import argparse
from pathlib import Path
from typing import Any
from unittest.mock import patch

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from mien.data.synthetic import difficulty, render, synthetic_table
from mien.data.synthetic.expressions import EXPRESSIONS
from mien.files import replacing_file
from mien.params.faces import SyntheticSource

TARGET = Path(__file__).parents[1] / "docs" / "images" / "synthetic-faces.png"
COLUMNS = ("neutral", "happy", "surprise", "fear", "sad", "angry", "disgust")
PEOPLE = (201, 203, 204, 205, 228)
RANDOM_ROWS, RANDOM_COLUMNS = 6, 14
GOOD_CONDITIONS: dict[str, Any] = {
    "INTENSITY": (1.0, 1.0),
    "MIXTURE_SHARE": 0,
    "YAW": 7,
    "PITCH": 3,
    "ROLL": 3,
    "OCCLUSION_SHARE": 0,
    "SUNGLASSES_SHARE": 0,
    "AMBIENT": (0.55, 0.7),
    "NOISE": (0.002, 0.008),
    "BLUR": (0.2, 0.3),
    "JPEG_SHARE": 0,
}


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    ).parse_args()
    people = [f"person-{number:05d}" for number in PEOPLE]
    with patch.multiple(difficulty, **GOOD_CONDITIONS):
        posed = render(
            [f"sheet/{person}/0" for person in people for _ in COLUMNS],
            [name for _ in people for name in COLUMNS],
            seed=0,
            size=96,
        )
    settings = SyntheticSource(
        name="synthetic", kind="synthetic", labelled=280, validation=350, test=2100, unlabelled=6000
    )
    table = synthetic_table(settings, EXPRESSIONS)
    unlabelled = table[table["role"] == "unlabelled"]
    some = unlabelled.sample(RANDOM_ROWS * RANDOM_COLUMNS, random_state=0)
    wild = render(some["path"].tolist(), some["true_label"].tolist(), seed=0)

    above = _mosaic(posed, len(people))
    below = _mosaic(wild, RANDOM_ROWS)
    width = above.shape[1]
    heights = [above.shape[0], below.shape[0]]
    figure = plt.figure(figsize=(width / 90, (sum(heights) + 100) / 90), dpi=118)
    top, bottom = figure.subplots(2, 1, height_ratios=heights)
    for axes, picture in ((top, above), (bottom, below)):
        axes.imshow(picture, cmap="gray", vmin=0, vmax=255, interpolation="lanczos")
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    cell = width / len(COLUMNS)
    top.set_xticks([(i + 0.5) * cell for i in range(len(COLUMNS))], COLUMNS, fontsize=10)
    top.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0, pad=3)
    bottom.set_title("drawn at random from the unlabelled part", fontsize=10, pad=5)
    figure.subplots_adjust(left=0.004, right=0.996, top=0.965, bottom=0.004, hspace=0.065)
    figure.canvas.draw()
    # the canvas is Agg's, which has this method; the base class has not
    grey = np.asarray(figure.canvas.buffer_rgba())[..., 0]  # type: ignore[attr-defined]
    with replacing_file(TARGET) as file:  # 48 grey levels keep the file small
        Image.fromarray(grey).quantize(48, dither=Image.Dither.NONE).save(file, optimize=True)
    print(f"{TARGET}: {TARGET.stat().st_size / 1000:.0f} kB")


def _mosaic(pictures: NDArray[np.uint8], rows: int) -> NDArray[np.uint8]:
    """Pictures side by side in ``rows`` rows."""
    _, height, width = pictures.shape
    return pictures.reshape(rows, -1, height, width).swapaxes(1, 2).reshape(rows * height, -1)


if __name__ == "__main__":
    main()
