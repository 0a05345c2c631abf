"""How many faces the detector finds, and what it takes for one.

    python benchmarks/detector.py --data ../shared/datasets

Recall on photos of Labeled Faces in the Wild (``lfw.zip`` holds their middle 144 × 144 pixels, with
one person's face; what lies around it is imitated by a frame that repeats the edge, and recall
without it stands beside), and false positives on crops of the photos' corners and on drawn
textures, none of which holds a face. Writes ``benchmarks/results/detector.json``.
"""

import argparse
import time
import zipfile
from pathlib import Path

import cv2
import numpy as np
from _results import machine, write_result

from mien.data.faces import Grey, NoFaceError, decode_picture, find_faces


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--data", type=Path, default=Path("../shared/datasets"))
    parser.add_argument("--photos", type=int, default=1000)
    options = parser.parse_args()
    rng = np.random.default_rng(0)
    with zipfile.ZipFile(options.data / "lfw.zip") as file:
        names = sorted(name for name in file.namelist() if name.endswith(".jpg"))
        chosen = rng.choice(names, options.photos, replace=False)
        photos = [decode_picture(file.read(name)) for name in chosen]
    # what is left of the photos ends at the head: a frame stands for the rest
    framed = [cv2.copyMakeBorder(each, 40, 40, 40, 40, cv2.BORDER_REPLICATE) for each in photos]
    begin = time.perf_counter()
    found = [count(photo) for photo in framed]
    seconds = time.perf_counter() - begin
    textures = [texture(rng) for _ in range(options.photos)]
    corners = [cv2.resize(photo[:48, :48], (224, 224)) for photo in photos]
    wrong = {
        "textures": float(np.mean([count(each) > 0 for each in textures])),
        "corners": float(np.mean([count(each) > 0 for each in corners])),
    }
    result = {
        "machine": machine(),
        "photos": len(photos),
        "recall": float(np.mean([each > 0 for each in found])),
        "recall_unframed": float(np.mean([count(each) > 0 for each in photos])),
        "photos_with_more_than_one": float(np.mean([each > 1 for each in found])),
        "false_positive_share": wrong,
        "milliseconds": 1000 * seconds / len(photos),
    }
    print(result)
    write_result("detector", result)


def count(picture: Grey) -> int:
    """Faces found."""
    try:
        return len(find_faces(picture))
    except NoFaceError:
        return 0


def texture(rng: np.random.Generator) -> Grey:
    """Noise of several scales."""
    layers = [
        cv2.resize(rng.random((side, side), np.float32), (224, 224), interpolation=cv2.INTER_CUBIC)
        for side in (4, 8, 16, 32, 64)
    ]
    mixed = sum(layer / 2**index for index, layer in enumerate(layers))
    return cv2.normalize(np.asarray(mixed), None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)


if __name__ == "__main__":
    main()
