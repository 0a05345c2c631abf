"""Random changes to faces that leave the expression as it is, on whole batches of tensors."""

import math

import torch
from torch import Tensor
from torch.nn import functional

from mien.params.learning import AugmentationSettings


class Augmentation:
    """Weak and strong views of a batch of faces.

    A weak view is mirrored, turned, scaled, shifted and lit anew; a strong one more so, and some of
    them out of focus and noisy, with a square erased (DeVries & Taylor 2017). All draws come from
    the generator that is handed in, on the CPU, so that a run can be repeated on any device; of the
    noise only the seed does, so that it is another one on another device.
    """

    def __init__(self, settings: AugmentationSettings) -> None:
        self.settings = settings

    def weak(self, faces: Tensor, rng: torch.Generator) -> Tensor:
        """Weak view of ``[B, 1, S, S]`` faces in [0, 1]; the same shape and range."""
        with _exactly(faces):
            return relight(self._moved(faces, rng, 1.0), self.settings.light, rng)

    def strong(self, faces: Tensor, rng: torch.Generator) -> Tensor:
        """Strong view of ``[B, 1, S, S]`` faces in [0, 1]; the same shape and range."""
        settings = self.settings
        with _exactly(faces):
            view = self._moved(faces, rng, settings.strong)
            if settings.blur:
                view = blur(view, settings.blur, rng)
            view = relight(view, settings.light * settings.strong, rng)
            if settings.noise:
                view = add_noise(view, settings.noise, rng)
            return erase(view, settings.erase, rng)

    def _moved(self, faces: Tensor, rng: torch.Generator, strength: float) -> Tensor:
        settings = self.settings
        return move(
            faces,
            rotate=math.radians(settings.rotate) * strength,
            scale=settings.scale * strength,
            shift=settings.shift * strength,
            rng=rng,
        )


def move(
    faces: Tensor, *, rotate: float, scale: float, shift: float, rng: torch.Generator
) -> Tensor:
    """Mirror with chance 1/2, turn (± ``rotate`` radians), scale and shift (± shares); bilinear.

    Where the picture ends its border is repeated.
    """
    count = len(faces)
    turn = _uniform(count, rng) * rotate
    size = 1 + _uniform(count, rng) * scale
    mirror = torch.where(_uniform(count, rng) < 0, -1.0, 1.0)
    offset = torch.stack([_uniform(count, rng), _uniform(count, rng)], dim=1) * 2 * shift
    cosine, sine = turn.cos() / size, turn.sin() / size
    rotation = torch.stack([cosine * mirror, -sine, sine * mirror, cosine], dim=1).view(count, 2, 2)
    theta = torch.cat([rotation, offset.unsqueeze(2)], dim=2).to(faces.device)
    grid = functional.affine_grid(theta, list(faces.shape), align_corners=False)
    return functional.grid_sample(faces, grid, padding_mode="border", align_corners=False)


def blur(faces: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Put some faces out of focus: a Gaussian of deviation up to ``share`` × S pixels.

    Where the picture ends the filter is cut off.
    """
    side = faces.shape[-1]
    deviation = (_sometimes(len(faces), rng) * share * side).clamp_min(0.1).to(faces.device)
    places = torch.arange(side, device=faces.device)
    distance = (places - places.unsqueeze(1)).square()  # [S, S]
    filters = (-distance / (2 * deviation.view(-1, 1, 1).square())).softmax(dim=2)  # [B, S, S]
    return (filters @ faces.squeeze(1) @ filters.mT).unsqueeze(1)


def add_noise(faces: Tensor, deviation: float, rng: torch.Generator) -> Tensor:
    """Add normal noise to some faces, of a ``deviation`` up to that share of the grey range."""
    amount = (_sometimes(len(faces), rng) * deviation).view(-1, 1, 1, 1)
    noise = torch.randn(faces.shape, generator=_on(faces.device, rng), device=faces.device)
    return (faces + noise * amount.to(faces.device)).clamp(0, 1)


def relight(faces: Tensor, light: float, rng: torch.Generator) -> Tensor:
    """Change gamma by a factor of e^(± ``light``) and contrast about mid-grey by 1 ± ``light``."""
    shape = (-1, 1, 1, 1)
    gamma = (_uniform(len(faces), rng) * light).exp().view(shape).to(faces.device)
    contrast = (1 + _uniform(len(faces), rng) * light).view(shape).to(faces.device)
    curved = faces.clamp(1e-4, 1).pow(gamma)
    return ((curved - 0.5) * contrast + 0.5).clamp(0, 1)


def erase(faces: Tensor, share: float, rng: torch.Generator) -> Tensor:
    """Fill a square of side ``share`` × S at a random place (it may stick out) with mid-grey."""
    side = faces.shape[-1]
    half = share * side / 2
    centre = (torch.rand(len(faces), 2, generator=rng) * side).to(faces.device)
    places = torch.arange(side, device=faces.device) + 0.5
    inside = (places - centre.unsqueeze(2)).abs() < half  # [B, 2, S]: rows, columns
    square = inside[:, 0, :, None] & inside[:, 1, None, :]
    return faces.masked_fill(square.unsqueeze(1), 0.5)


def _exactly(faces: Tensor) -> torch.autocast:
    """No mixed precision: bfloat16 has fewer grey levels than a picture, and fewer places."""
    return torch.autocast(faces.device.type, enabled=False)


def _on(device: torch.device, rng: torch.Generator) -> torch.Generator:
    """``rng`` on the CPU; elsewhere a generator there that begins as it says.

    A draw for each pixel takes a CPU longer than a GPU takes to learn from the faces.
    """
    if device.type == "cpu":
        return rng
    return torch.Generator(device).manual_seed(int(torch.randint(2**62, (), generator=rng)))


def _uniform(count: int, rng: torch.Generator) -> Tensor:
    """``count`` draws from [-1, 1)."""
    return torch.rand(count, generator=rng) * 2 - 1


def _sometimes(count: int, rng: torch.Generator) -> Tensor:
    """``count`` draws: a quarter of them from (0, 1), the others 0.

    On FER2013 a network as small as these needs the other three: with half of the views blurred and
    half of them noisy it was a point less accurate on faces as they are.
    """
    return (torch.rand(count, generator=rng) * 4 - 3).clamp_min(0)
