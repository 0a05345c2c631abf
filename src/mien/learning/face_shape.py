"""A start without labels: from how a face looks to what shape it is in.

Expressions are seen in the shape of brows, eyes and mouth, and where the landmarks of a face lie
can be had for any face without a label (`mien.learning.face_mesh`). The network learns to tell a
face's shape, freed from the head's place, size and turn, from strong views of it: landmarks as an
auxiliary task (Zhang, Luo, Loy & Tang: *Facial Landmark Detection by Deep Multi-task Learning*,
ECCV 2014), here before the labels (docs/method.md, section 2).
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from mien.data.augmentation import Augmentation
from mien.data.dataset import Faces, LabelledRows, Rows, evenly
from mien.errors import MienError
from mien.learning.embedding import embed_faces
from mien.learning.face_mesh import FaceMesh, Points
from mien.learning.training import StartTask
from mien.model.accnn import ACCNN, FaceNetwork
from mien.params.learning import LandmarkSettings
from mien.progress import progress

Array = NDArray[np.float32]
Keep = Callable[[str, Callable[[], dict[str, Tensor]]], dict[str, Tensor]]
"""Makes what has a name, or fetches what was kept of it: `Checkpoint.once`."""

_SAMPLE = 8192
"""So many faces give the mean shape and its components."""
_BLOCK = 512
"""So many faces are looked at between what is kept: a few seconds' work."""
_ROUNDS = 3
_FEW = 0.1
"""Where fewer faces than this share have landmarks they are no photographs of faces."""
_FARTHEST = 4.0
"""Deviations; a code beyond that is a mesh gone astray."""
_HIDDEN = 256


@dataclass(frozen=True)
class ShapeSpace:
    """The mean shape ``[468, 3]`` and the ways ``[K, 1404]`` in which symmetric shapes leave it.

    ``deviations`` ``[K]`` are how far they do, the farthest first.
    """

    mean: Points
    components: Array
    deviations: Array

    def codes(self, points: Points, mirror: NDArray[np.int64]) -> Array:
        """Landmarks ``[B, 468, 3]`` as coordinates ``[B, K]``, each of deviation 1 and cut at 4."""
        flat = symmetric(align(points, self.mean) - self.mean, mirror).reshape(len(points), -1)
        return np.clip(flat @ self.components.T / self.deviations, -_FARTHEST, _FARTHEST)


def align(points: Points, mean: Points) -> Points:
    """Shapes ``[B, L, 3]`` moved, scaled and turned onto ``mean`` (Procrustes; Kabsch 1976).

    Each is centred and of norm 1, and turned so that it lies as near to the mean as it can.
    """
    centred = points - points.mean(axis=1, keepdims=True)
    centred /= np.linalg.norm(centred, axis=(1, 2), keepdims=True).clip(1e-12)
    u, _, vt = np.linalg.svd(np.einsum("bli,lj->bij", centred, mean))
    u[:, :, -1] *= np.sign(np.linalg.det(u @ vt))[:, None]  # a turn, never a mirror image
    turned: Points = np.einsum("bli,bij->blj", centred, u @ vt)
    return turned


def symmetric(offsets: Points, mirror: NDArray[np.int64]) -> Points:
    """The mean of offsets ``[B, L, 3]`` and of their mirror images: views are mirrored at will."""
    return (offsets + offsets[:, mirror] * np.array([-1, 1, 1], np.float32)) / np.float32(2)


def shape_space(points: Points, mirror: NDArray[np.int64], components: int) -> ShapeSpace:
    """Mean and principal components of shapes ``[B, 468, 3]``."""
    from sklearn.decomposition import PCA

    mean = _middle(points, mirror)
    for _ in range(_ROUNDS):
        mean = _middle(align(points, mean), mirror)
    offsets = symmetric(align(points, mean) - mean, mirror).reshape(len(points), -1)
    found = PCA(components, random_state=0).fit(offsets)
    deviations = np.sqrt(found.explained_variance_).clip(1e-12)
    return ShapeSpace(mean, found.components_.astype(np.float32), deviations.astype(np.float32))


def _middle(points: Points, mirror: NDArray[np.int64]) -> Points:
    """The symmetric mean ``[468, 3]``, centred and of norm 1; left and right lie along the first
    axis, for crops are upright and people look both ways."""
    mean: Points = symmetric(points.mean(axis=0, keepdims=True), mirror)[0]
    mean -= mean.mean(axis=0)
    return mean / np.linalg.norm(mean)


@dataclass(frozen=True)
class FaceShapes:
    """``codes`` ``[n, K]``, ``found`` ``[n]`` (0 or 1) and each code's weight ``[K]``, mean 1."""

    codes: Tensor
    found: Tensor
    weights: Tensor


def face_shapes(faces: Faces, rows: Rows, components: int, threads: int, keep: Keep) -> FaceShapes:
    """The shapes of the faces at ``rows``, from their landmarks; a few milliseconds for each face.

    Args:
        faces: the store, uint8 ``[N, S, S]``.
        rows: store rows, ``[n]``.
        components: K, at most; of fewer faces there are fewer.
        threads: CPU threads; 0 means all cores.
        keep: keeps what was found so far: the search goes on where it was killed.

    Raises:
        MienError: hardly any of them shows the landmarks of a face.
    """
    mesh = FaceMesh(threads)
    everyone = np.arange(len(rows))
    sample = evenly(everyone, _SAMPLE)
    points, found = _seen(mesh, faces, rows[sample], keep, "sample", lambda points: points)
    if found.sum() < 2 or found.mean() < _FEW:
        raise MienError(
            f"pretrain.landmarks: in {found.sum()} of {len(found)} faces a face's landmarks were "
            "found; they help with photographs of faces only: set pretrain.landmarks.epochs to 0"
        )
    components = min(components, int(found.sum()) - 1)  # a handful of faces differ in fewer ways
    space = shape_space(points[found], mesh.mirror, components)
    codes, known = np.empty((len(rows), components), np.float32), np.empty(len(rows), bool)
    codes[sample], known[sample] = space.codes(points, mesh.mirror), found
    if len(others := np.setdiff1d(everyone, sample)):
        codes[others], known[others] = _seen(
            mesh,
            faces,
            rows[others],
            keep,
            "others",
            lambda points: space.codes(points, mesh.mirror),
        )
    print(f"landmarks: found in {known.mean():.1%} of {len(rows):,} faces", flush=True)
    # the farther shapes go along it, the less of a component is chance
    weights = np.sqrt(space.deviations / space.deviations[0])
    return FaceShapes(
        torch.from_numpy(codes),
        torch.from_numpy(known.astype(np.float32)),
        torch.from_numpy(weights / weights.mean()),
    )


def _seen(
    mesh: FaceMesh,
    faces: Faces,
    rows: Rows,
    keep: Keep,
    name: str,
    tell: Callable[[Points], Array],
) -> tuple[Array, NDArray[np.bool_]]:
    """What ``tell`` makes of the landmarks of the faces at ``rows``, and where they were found."""

    def look(block: Rows) -> dict[str, Tensor]:
        landmarks = mesh(faces[block])
        told = torch.from_numpy(tell(landmarks.points))
        return {"told": told, "found": torch.from_numpy(landmarks.found)}

    parts = []
    with progress(len(rows), "landmarks", unit="faces", done="faces looked at") as bar:
        for start in range(0, len(rows), _BLOCK):
            block = rows[start : start + _BLOCK]
            parts.append(keep(f"landmarks_{name}_{start}", partial(look, block)))
            bar.update(len(block))
    told, found = (torch.cat([part[key] for part in parts]).numpy() for key in ("told", "found"))
    return told, found


class ShapeTask(StartTask):
    """The network tells, from a strong view of each face, its `FaceShapes`.

    A head of its own does, which this training alone uses. The loss is Huber's, of a face whose
    landmarks were not found 0.
    """

    codes: Tensor
    found: Tensor
    weights: Tensor

    def __init__(
        self,
        net: ACCNN,
        faces: Faces,
        labelled: LabelledRows,
        rows: Rows,
        shapes: FaceShapes,
        settings: LandmarkSettings,
        augmentation: Augmentation,
    ) -> None:
        super().__init__(net, faces, labelled, rows, settings, augmentation)
        self.head = nn.Sequential(
            nn.Linear(net.embedding_size, _HIDDEN),
            nn.ReLU(inplace=True),
            nn.Linear(_HIDDEN, shapes.codes.shape[1]),
        )
        for name, values in vars(shapes).items():
            self.register_buffer(name, values, persistent=False)

    def forward(self, step: int, teacher: FaceNetwork, rng: torch.Generator) -> dict[str, Tensor]:
        places, faces = self.batch(step)
        told = self.head(self.net.embed(self.augmentation.strong(faces, rng))).float()
        errors = functional.smooth_l1_loss(told, self.codes[places], reduction="none")
        known = self.found[places]
        loss = ((errors * self.weights).mean(dim=1) * known).sum() / known.sum().clamp_min(1)
        return {"loss": loss}


def shape_r2(
    model: ACCNN, faces: Faces, rows: Rows, shapes: FaceShapes, most: int = 2000
) -> dict[str, float]:
    """How much of the shapes (some of) the embeddings hold: R² of a linear reading, cross-fitted.

    Each half of the faces is read with what was fitted to the other: a measure of the training that
    needs no label. 1: all, 0: nothing.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import cross_val_predict

    chosen = evenly(np.flatnonzero(shapes.found.numpy()), most)
    z = embed_faces(model, faces, rows[chosen]).embeddings
    truth = shapes.codes.numpy()[chosen]
    read = cross_val_predict(RidgeCV(alphas=np.logspace(-3, 3, 7)), z, truth, cv=2)
    read = read.reshape(truth.shape)  # of a single code scikit-learn drops the axis
    weights = shapes.weights.numpy()
    left = ((read - truth) ** 2).mean(axis=0) @ weights
    return {"shape_r2": float(1 - left / (truth.var(axis=0) @ weights))}
