"""Training state on disk, so that a killed stage goes on from its last epoch.

DVC deletes a stage's outputs before the stage runs, so checkpoints live in a folder that DVC does
not know, under a key made of everything that decides the run: another setting, another input or
other code is another run. Tensors are stored as safetensors, everything else as JSON in its header.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mien.files import hash_file, replacing_file
from mien.model.weights import under


def training_code(*own: str) -> list[Path]:
    """The modules that decide how a stage trains, its ``own`` files among them.

    They belong to the key: a run that was killed before an upgrade begins anew, and is not half of
    one version and half of another.
    """
    package = Path(__file__).parents[1]
    folders = [package / "learning", package / "model"]
    data = [package / "data" / name for name in ("augmentation.py", "dataset.py")]
    modules = [path for folder in folders for path in folder.glob("*.py")]
    return [*sorted(modules), *data, *map(Path, own)]


@dataclass(frozen=True)
class Checkpoint:
    """Where one run keeps its state."""

    path: Path

    @classmethod
    def of(cls, folder: Path, settings: Mapping[str, Any], inputs: list[Path]) -> "Checkpoint":
        """The checkpoint of the run that these settings and input files define."""
        key = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
        for path in inputs:
            key.update(hash_file(path).encode())
        return cls(folder / f"{key.hexdigest()[:16]}.safetensors")

    def part(self, name: str) -> "Checkpoint":
        """Of a training that is part of this run, kept beside it and cleared with it."""
        return Checkpoint(self.path.with_stem(f"{self.path.stem}-{name}"))

    def save(
        self,
        modules: Mapping[str, nn.Module],
        optimizer: torch.optim.Optimizer,
        progress: Mapping[str, Any],
    ) -> None:
        """Write the state of modules and of an Adam-like optimiser, and ``progress`` (JSON)."""
        tensors = {
            f"{name}/{key}": tensor
            for name, module in modules.items()
            for key, tensor in module.state_dict().items()
        }
        for index, state in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer/{index}/{key}": value for key, value in state.items()}
        with replacing_file(self.path) as temporary:
            save_file(
                {
                    key: tensor.detach().cpu().contiguous().clone()
                    for key, tensor in tensors.items()
                },
                temporary,
                metadata={"progress": json.dumps(progress)},
            )

    def load(
        self, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer
    ) -> dict[str, Any] | None:
        """Put the saved state back and return its ``progress``; None where there is none.

        A file that cannot be read counts as absent: the run starts again, which is always right.
        """
        try:
            with safe_open(self.path, framework="pt") as file:
                progress: dict[str, Any] = json.loads(file.metadata()["progress"])
                # a safe_open file is not iterable, hence its keys
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (FileNotFoundError, SafetensorError):
            return None
        for name, module in modules.items():
            module.load_state_dict(under(f"{name}/", tensors))
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in under("optimizer/", tensors).items():
            index, _, key = name.partition("/")
            state.setdefault(int(index), {})[key] = tensor
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        return progress

    def once(self, name: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What ``make`` gives, on the CPU, or what it gave before the run was killed.

        For what takes long to make and does not change while the run learns.
        """
        path = self.path.with_suffix(f".{name}.safetensors")
        with suppress(FileNotFoundError, SafetensorError):
            return load_file(path)
        made = {key: value.cpu().contiguous() for key, value in make().items()}
        with replacing_file(path) as temporary:
            save_file(made, temporary)
        return made

    def clear(self) -> None:
        """Forget the run and its parts: its result has been written."""
        for path in self.path.parent.glob(f"{self.path.stem}[.-]*safetensors"):
            path.unlink()

    def clear_all(self) -> None:
        """Forget every run of the folder, those too that were given up for other settings."""
        for path in self.path.parent.glob("*.safetensors"):
            path.unlink()
