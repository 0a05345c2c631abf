"""What a network that tells people apart says of expressions, once it has learned the labels.

It has seen millions of faces where the labelled ones are few, and what tells an expression is in
its last maps before the very last, though it was trained to overlook it. Here it learns the
labelled faces, its head first and then its upper half (LP-FT, Kumar et al. 2022), and says what
each unlabelled face shows (docs/method.md, section 3).

The network is a MobileNet (Howard et al. 2017) that Savchenko (*PeerJ Computer Science* 5:e197,
2019) has trained on the people of VGGFace2 (Cao et al. 2018); its weights (MIT,
``recognition.LICENSE``) lie beside this file as ``docs/recognition.py`` made them of an npm
package. No label of an expression has gone into them.
"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import lightning_fabric
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from mien.data.augmentation import Augmentation
from mien.data.dataset import Faces, LabelledRows, Rows, evenly, to_tensor
from mien.learning.checkpoint import Checkpoint
from mien.learning.embedding import Embedded, embed_with_mirror
from mien.learning.training import Fitted, SupervisedTask, class_log_prior, fit
from mien.learning.transfer import best_strength, fit_head, of_each
from mien.model.accnn import FaceNetwork, channels_last
from mien.model.weights import read_tensors, whole, write_tensors
from mien.params.learning import RecognitionSettings
from mien.progress import progress

WEIGHTS = Path(__file__).with_name("recognition.safetensors")
_FORMAT = "mien-recognition-1"

BLOCKS = 13
"""Of a depthwise convolution and one of 1×1 each, after a first one of 3×3."""
_WIDTHS = (64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)
_HALVING = (2, 4, 6, 12)
"""Blocks that halve the image; the first convolution does, too."""
_READ = (11, 12, 13)
"""Blocks whose maps tell expressions. The last alone is blinder to them (docs/experiments.md)."""
_KEPT = 6
"""So many blocks stay as they are: half the time, and what they see is of use for any face."""

_LOWER = 1 + 2 * _KEPT

_CACHED = 8
"""So many faces' maps stay in a CPU's cache. With 32 at once the lower half takes 1.8 times as long
a face, with 256 three times."""

_SIDE = 160
"""Pixels, to which faces are drawn up. It was trained with 224, which take twice the time."""
_SPREAD = 0.05
"""Deviation of the embedding. AdamW moves each of the head's weights by the learning rate: with
thousands of larger inputs a single step would turn the logits upside down."""
_DROPOUT = 0.2
_SAMPLE = 512
"""So many faces give the batch norms' first statistics."""
_BLOCK = 1024
"""So many faces are looked at between what is kept: some ten seconds' work."""


class RecognitionNet(FaceNetwork):
    """The network, its weights read from `WEIGHTS`, with a head for expressions.

    The embedding is what three blocks' maps hold in the mean over the image, to zero mean and one
    deviation over the labelled faces (`standardise`), times 0.05.
    """

    mean: Tensor
    scale: Tensor
    log_prior: Tensor
    """``[C]``, what the head leaves out of its logits (balanced cross-entropy)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        layers, width = [nn.Conv2d(1, 32, 3, stride=2)], 32
        for number, wider in enumerate(_WIDTHS, 1):
            stride = 2 if number in _HALVING else 1
            layers.append(nn.Conv2d(width, width, 3, stride=stride, groups=width))
            layers.append(nn.Conv2d(width, wider, 1))
            width = wider
        self.layers = nn.ModuleList(layers)
        self.norms = nn.ModuleList(nn.BatchNorm2d(each.out_channels) for each in layers[_LOWER:])
        self.embedding_size = sum(_WIDTHS[block - 1] for block in _READ)
        self.dropout = nn.Dropout(_DROPOUT)
        self.head = nn.Linear(self.embedding_size, classes)
        self.register_buffer("grey", torch.zeros(()))
        self.register_buffer("mean", torch.zeros(self.embedding_size))
        self.register_buffer("scale", torch.ones(self.embedding_size))
        self.register_buffer("log_prior", torch.zeros(classes))
        learned = load_file(WEIGHTS)
        self.grey = learned.pop("grey")
        self.layers.load_state_dict({name: each.float() for name, each in learned.items()})
        self.layers[:_LOWER].requires_grad_(False)
        channels_last(self)

    def embed(self, faces: Tensor) -> Tensor:
        maps = self._lower(faces)
        means = []
        for number, (layer, norm) in enumerate(zip(self.layers[_LOWER:], self.norms, strict=True)):
            maps = functional.relu6(norm(layer(_padded(maps, layer))))
            if number % 2 and _KEPT + 1 + number // 2 in _READ:
                means.append(maps.mean(dim=(2, 3)).float())
        embeddings: Tensor = self.dropout((torch.cat(means, dim=1) - self.mean) * self.scale)
        return embeddings

    def _lower(self, faces: Tensor) -> Tensor:
        at_once = _CACHED if faces.device.type == "cpu" else len(faces)
        return torch.cat([self._lower_at_once(part) for part in faces.split(at_once)])

    def _lower_at_once(self, faces: Tensor) -> Tensor:
        maps = functional.interpolate(faces, size=(_SIDE, _SIDE), mode="bilinear") * 255 - self.grey
        for layer in self.layers[:_LOWER]:
            maps = functional.relu6(layer(_padded(maps, layer)))
        return maps

    @torch.no_grad()
    def normalise(self, faces: Tensor) -> None:
        """Give the upper layers batch norms that change nothing of what these faces give.

        Those it was trained with have become part of its filters. Training goes better with them.
        """
        maps = self._lower(faces)
        for layer, norm in zip(self.layers[_LOWER:], self.norms, strict=True):
            assert isinstance(norm, nn.BatchNorm2d)
            maps = layer(_padded(maps, layer))
            variance, mean = torch.var_mean(maps, dim=(0, 2, 3))
            norm.load_state_dict(
                {
                    "running_mean": mean,
                    "running_var": variance,
                    "weight": (variance + norm.eps).sqrt(),
                    "bias": mean,
                    "num_batches_tracked": torch.ones((), dtype=torch.long),
                }
            )
            maps = functional.relu6(maps)

    def learned(self) -> dict[str, Tensor]:
        """The state without what stays as it ships."""
        kept = tuple(f"layers.{number}." for number in range(_LOWER))
        return {k: v for k, v in self.state_dict().items() if not k.startswith((*kept, "grey"))}

    def probabilities(self, faces: Tensor) -> Tensor:
        """Of the expressions ``[B, C]``; ``faces`` ``[B, 1, S, S]`` in [0, 1]."""
        logits: Tensor = self(faces).float()
        return (logits + self.log_prior).softmax(dim=1)

    def standardise(self, embeddings: NDArray[np.float32]) -> NDArray[np.float32]:
        """Give embeddings their mean and deviation from these ``[n, D]``; returns them as they
        would have been."""
        mean, deviation = embeddings.mean(axis=0), embeddings.std(axis=0)
        scale = np.float32(_SPREAD) / (deviation + np.float32(1e-2))  # some maps are never used
        self.mean += torch.from_numpy(mean) / self.scale
        self.scale *= torch.from_numpy(scale)
        result: NDArray[np.float32] = (embeddings - mean) * scale
        return result


def _padded(maps: Tensor, layer: nn.Module) -> Tensor:
    """Maps with the border that TensorFlow adds: where it cannot be even, more below and right."""
    assert isinstance(layer, nn.Conv2d)
    if layer.kernel_size[0] == 1:
        return maps
    lacking = 2 if layer.stride[0] == 1 else 2 - (maps.shape[-1] + 1) % 2
    return functional.pad(maps, (lacking // 2, lacking - lacking // 2) * 2)


class RecognitionTask(SupervisedTask[RecognitionNet]):
    """Supervised training, with dropout that is the same where a run was killed and goes on."""

    def begin_epoch(
        self, epoch: int, steps: int, teacher: FaceNetwork, rng: torch.Generator
    ) -> dict[str, float]:
        record = super().begin_epoch(epoch, steps, teacher, rng)
        torch.manual_seed(int(torch.randint(2**31, (), generator=rng)))  # dropout asks no other
        return record


def learn_labels(
    faces: Faces,
    labelled: LabelledRows,
    classes: int,
    settings: RecognitionSettings,
    augmentation: Augmentation,
    *,
    seed: int,
    fabric: lightning_fabric.Fabric,
    checkpoint: Checkpoint,
    validate: Callable[[RecognitionNet], dict[str, float]],
) -> Fitted[RecognitionNet]:
    """A `RecognitionNet` that has learned the labelled faces; its upper half does.

    Args:
        faces: the store, uint8 ``[N, S, S]``.
        labelled: each of the ``classes`` expressions occurs.
        checkpoint: keeps what was learned so far; a run that was killed goes on there.
        validate: measures the averaged network after each epoch.
    """
    net = RecognitionNet(classes)
    net.log_prior = class_log_prior(labelled.labels, classes, settings.class_balance)

    def head() -> dict[str, Tensor]:
        _fit_head(net, faces, labelled, seed, fabric)
        return net.learned()

    def measure(net: RecognitionNet) -> dict[str, float]:
        with fabric.autocast():
            return validate(net)

    net.load_state_dict(net.state_dict() | checkpoint.once("head", head))
    return fit(
        RecognitionTask(net, faces, labelled, settings, augmentation),
        settings,
        epochs=settings.epochs,
        seed=seed,
        fabric=fabric,
        checkpoint=checkpoint,
        validate=measure,
        title="pretrain, recognition network",
    )


def _fit_head(
    net: RecognitionNet,
    faces: Faces,
    labelled: LabelledRows,
    seed: int,
    fabric: lightning_fabric.Fabric,
) -> None:
    """Make the head a regression on what the network says of labelled faces as it is."""
    net.normalise(to_tensor(faces[evenly(labelled.rows, _SAMPLE)]))
    some = of_each(labelled.labels)
    labels = labelled.labels[some]
    embeddings = net.standardise(_embedded(net, faces, labelled.rows[some], fabric).embeddings)
    strength, _ = best_strength(embeddings, labels, seed)
    fit_head(net, embeddings, labels, strength=strength, log_prior=net.log_prior)


def say(
    net: RecognitionNet,
    faces: Faces,
    rows: Rows,
    *,
    fabric: lightning_fabric.Fabric,
    checkpoint: Checkpoint,
) -> NDArray[np.float32]:
    """Probabilities of the expressions at ``rows``, ``[n, C]``, of face and mirror image.

    Args:
        net: of `learn_labels`.
        faces: the store, uint8 ``[N, S, S]``.
        rows: ``n`` of its rows.
        checkpoint: keeps what was said so far; a run that was killed goes on there.
    """

    def look(block: Rows) -> dict[str, Tensor]:
        logits = torch.from_numpy(_embedded(net, faces, block, fabric).logits)
        return {"said": (logits + net.log_prior).softmax(dim=1)}

    said = []
    with progress(len(rows), "recognition", unit="faces", done="faces looked at") as bar:
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            said.append(checkpoint.once(f"said_{start}", partial(look, block))["said"])
            bar.update(len(block))
    result: NDArray[np.float32] = torch.cat(said).numpy()
    return result


def _embedded(
    net: RecognitionNet, faces: Faces, rows: Rows, fabric: lightning_fabric.Fabric
) -> Embedded:
    net.eval().to(fabric.device)
    with fabric.autocast():
        found = embed_with_mirror(net, faces, rows)
    net.cpu()
    return found


def save_recognition(
    path: Path, net: RecognitionNet | None, expressions: tuple[str, ...], image_size: int
) -> None:
    """Write what a network has learned, or that there is none, atomically."""
    tensors = net.learned() if net else {}
    write_tensors(path, tensors, {"format": _FORMAT}, expressions, image_size)


def load_recognition(path: Path) -> RecognitionNet | None:
    """Read what `save_recognition` wrote; the network is in evaluation mode, on the CPU.

    Raises:
        MienError: the file is missing, is not safetensors, or was not written by it.
    """
    tensors, header = read_tensors(path, _FORMAT)
    if not tensors:
        return None
    with whole(path):
        net = RecognitionNet(len(json.loads(header["expressions"])))
        net.load_state_dict(net.state_dict() | tensors)
    return net.eval()
