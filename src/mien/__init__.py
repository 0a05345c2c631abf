"""Mien: few labelled faces and many unlabelled ones become a small expression classifier.

An implementation of *Expression-Guided Deep Joint Learning for Facial Expression Recognition*
(Fang, Zhao, Han, He; Sensors 2023, 23(16), 7148). Start with ``docs/method.md``.
"""

import os
from typing import TYPE_CHECKING

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime looks when it is imported

if TYPE_CHECKING:
    from pathlib import Path

    from mien.serving.classifier import Classifier

__version__ = "0.1.0"


def load(name_or_path: "str | Path") -> "Classifier":
    """A packaged model, ready to say what faces show.

    ``mien.load("small").classify(faces)`` takes ``[n, S, S]`` grey faces, uint8.

    Args:
        name_or_path: a size that Mien ships (``nano``, ``small``, ``base``), a package folder,
            the workspace of a run, or a tag of the BentoML model store (``mien:…``).

    Raises:
        MienError: there is no such model (the message says which there are), or it is broken.
    """
    from mien.serving.classifier import Classifier
    from mien.serving.package import load_package, named_package

    return Classifier(load_package(named_package(str(name_or_path))))
