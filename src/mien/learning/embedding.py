"""Running a trained network over many faces, chunk by chunk."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mien.data.dataset import Faces, LabelledRows, Rows, to_tensor
from mien.model.accnn import FaceNetwork


@dataclass(frozen=True)
class Embedded:
    """``embeddings`` float32 ``[n, D]`` and ``logits`` float32 ``[n, C]``."""

    embeddings: NDArray[np.float32]
    logits: NDArray[np.float32]

    @property
    def probabilities(self) -> NDArray[np.float32]:
        """Softmax of the logits, ``[n, C]``."""
        shifted = np.exp(self.logits - self.logits.max(axis=1, keepdims=True))
        result: NDArray[np.float32] = shifted / shifted.sum(axis=1, keepdims=True)
        return result

    def mean_with(self, other: "Embedded") -> "Embedded":
        """The mean of both, such as of faces and their mirror images."""
        two = np.float32(2)
        return Embedded(
            (self.embeddings + other.embeddings) / two, (self.logits + other.logits) / two
        )


def embed_faces(
    model: FaceNetwork, faces: Faces, rows: Rows, *, flip: bool = False, chunk: int = 0
) -> Embedded:
    """Embeddings and logits of the faces at ``rows``, in that order.

    Args:
        model: in evaluation mode; it runs on the device that holds it.
        faces: the store, uint8 ``[N, S, S]``.
        rows: store rows, ``[n]``.
        flip: mirror each face first.
        chunk: faces at once; bounds memory, changes nothing else. By default 32 on CPUs, twice as
            fast as 512, for the maps stay in the cache, and 1,024 elsewhere.
    """
    device = next(model.parameters()).device
    chunk = chunk or (32 if device.type == "cpu" else 1024)
    embeddings = np.empty((len(rows), model.embedding_size), np.float32)
    logits = np.empty((len(rows), model.head.out_features), np.float32)
    with torch.inference_mode():
        for start in range(0, len(rows), chunk):
            part = slice(start, start + chunk)
            batch = to_tensor(faces[rows[part]], device)
            if flip:
                batch = batch.flip(-1)
            z, y = model.forward_both(batch)
            embeddings[part], logits[part] = z.float().cpu().numpy(), y.float().cpu().numpy()
    return Embedded(embeddings, logits)


def embed_with_mirror(model: FaceNetwork, faces: Faces, rows: Rows) -> Embedded:
    """`embed_faces` of each face and of its mirror image, the mean of both."""
    plain, mirrored = (embed_faces(model, faces, rows, flip=flip) for flip in (False, True))
    return plain.mean_with(mirrored)


def accuracy_on(model: FaceNetwork, faces: Faces, labelled: LabelledRows) -> dict[str, float]:
    """``{"validation_accuracy": …}`` on labelled faces; empty where there are none."""
    if not len(labelled):
        return {}
    predicted = embed_faces(model, faces, labelled.rows).logits.argmax(axis=1)
    return {"validation_accuracy": float((predicted == labelled.labels).mean())}
