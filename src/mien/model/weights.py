"""Trained networks on disk: safetensors, never pickles, with what is needed to rebuild them."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from mien.errors import MienError
from mien.files import replacing_file
from mien.model.accnn import ACCNN
from mien.params.learning import ModelSettings

_SHIPPED = Path(__file__).parents[1] / "shipped"

_ONE, _SEVERAL = "mien-1", "mien-networks-1"


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
    header = {"format": _ONE, "model": model.settings.model_dump_json()}
    write_tensors(path, model.state_dict(), header, expressions, image_size)


def save_networks(
    path: Path, models: Sequence[ACCNN], expressions: tuple[str, ...], image_size: int
) -> None:
    """Write any number of networks, none included, into one file, atomically."""
    tensors = {
        f"{number}.{name}": tensor
        for number, model in enumerate(models)
        for name, tensor in model.state_dict().items()
    }
    settings = [model.settings.model_dump() for model in models]
    header = {"format": _SEVERAL, "models": json.dumps(settings)}
    write_tensors(path, tensors, header, expressions, image_size)


def shipped_weights(size: str) -> Path:
    """The network of a size that ships with Mien: ``nano``, ``small`` or ``base``."""
    return _SHIPPED / size / "weights.safetensors"


def load_weights(path: Path) -> Trained:
    """Read a network written by `save_weights`.

    Raises:
        MienError: the file is missing, is not safetensors, or was not written by `save_weights`.
    """
    tensors, header = read_tensors(path, _ONE)
    with whole(path):
        return _rebuilt(ModelSettings.model_validate_json(header["model"]), tensors, header)


def load_networks(path: Path) -> list[Trained]:
    """Read networks written by `save_networks`.

    Raises:
        MienError: as `load_weights`.
    """
    tensors, header = read_tensors(path, _SEVERAL)
    with whole(path):
        return [
            _rebuilt(ModelSettings.model_validate(settings), under(f"{number}.", tensors), header)
            for number, settings in enumerate(json.loads(header["models"]))
        ]


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Those whose names begin with ``prefix``, by the rest of their names."""
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}


@contextmanager
def whole(path: Path) -> Iterator[None]:
    """Says of a file whose tensors fit no network that its header speaks of that they do not.

    Raises:
        MienError: they do not.
    """
    try:
        yield
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        told = str(error).splitlines()[0]
        raise MienError(
            f"{path}: its header and its tensors are not of one network ({told}); make it again"
        ) from None


def _rebuilt(
    settings: ModelSettings, tensors: dict[str, Tensor], header: dict[str, str]
) -> Trained:
    expressions = tuple(json.loads(header["expressions"]))
    model = ACCNN(settings, len(expressions))
    model.load_state_dict(tensors)
    return Trained(model.eval(), expressions, int(header["image_size"]))


def write_tensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    header: dict[str, str],
    expressions: tuple[str, ...],
    image_size: int,
) -> None:
    """Write tensors, atomically, beneath a header that also says what they were made for.

    The same tensors and header are the same bytes, by which DVC knows that nothing has changed.
    """
    shared = {"expressions": json.dumps(expressions), "image_size": str(image_size)}
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing_file(path) as temporary:
        temporary.write_bytes(_in_order(save(plain, metadata=header | shared)))


def _in_order(file: bytes) -> bytes:
    """A safetensors file with its header sorted; metadata are written in any order (its #584)."""
    start = 8  # bytes that give the header's length
    end = start + int.from_bytes(file[:start], "little")
    header = json.loads(file[start:end])
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return file[:start] + text.encode().ljust(end - start) + file[end:]


def read_tensors(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a file whose header calls its ``format`` ``kind``.

    Raises:
        MienError: the file is missing, is not safetensors, or of another kind.
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
    if header.get("format") != kind:
        raise MienError(f"{path}: these weights were not written by Mien")
    return tensors, header
