"""Trained networks on disk: safetensors, never pickles, with what is needed to rebuild them."""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from mien.errors import MienError
from mien.files import replacing_file
from mien.model.accnn import ACCNN
from mien.params import ModelSettings

_SHIPPED = Path(__file__).parents[1] / "shipped"


@dataclass(frozen=True)
class Trained:
    """A network in evaluation mode, on the CPU, and what it was made for."""

    model: ACCNN
    expressions: tuple[str, ...]
    image_size: int

    @property
    def settings(self) -> ModelSettings:
        return self.model.settings


def save_weights(path: Path, model: ACCNN, expressions: tuple[str, ...], image_size: int) -> None:
    """Write a network, atomically. Its settings and labels stand in the file's header."""
    tensors = {
        name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()
    }
    header = {
        "format": "mien-1",
        "model": model.settings.model_dump_json(),
        "expressions": json.dumps(expressions),
        "image_size": str(image_size),
    }
    with replacing_file(path) as temporary:
        save_file(tensors, temporary, metadata=header)


def shipped_weights(size: str) -> Path:
    """The network of a size that ships with Mien: ``nano``, ``small`` or ``base``."""
    return _SHIPPED / size / "weights.safetensors"


def load_weights(path: Path) -> Trained:
    """Read a network written by `save_weights`.

    Raises:
        MienError: the file is missing, is not safetensors, or was not written by `save_weights`.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            # a safe_open file is not iterable, hence its keys
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise MienError(f"{path}: no such weights file; run the pipeline first") from None
    except SafetensorError as error:
        raise MienError(f"{path}: not a safetensors file ({error}); make it again") from None
    if header.get("format") != "mien-1":
        raise MienError(f"{path}: these weights were not written by Mien")
    expressions = tuple(json.loads(header["expressions"]))
    model = ACCNN(ModelSettings.model_validate_json(header["model"]), len(expressions))
    model.load_state_dict(tensors)
    return Trained(model.eval(), expressions, int(header["image_size"]))
