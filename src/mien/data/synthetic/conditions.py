"""How a face meets the camera: pose, light, what stands before it, and the sensor."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mien.data.synthetic import difficulty
from mien.data.synthetic.canvas import TEXTURES, smooth, square
from mien.data.synthetic.draws import Draws, Floats, stream


@dataclass(frozen=True)
class View:
    """Pose, crop and light of n faces. Every field: [n, 1, 1]."""

    sin_yaw: Floats
    sin_pitch: Floats
    sin_roll: Floats
    scale: Floats
    shift_x: Floats
    shift_y: Floats
    light: tuple[Floats, Floats, Floats]
    """Unit vector towards the light: right, down, to the camera."""
    ambient: Floats
    gaze: tuple[Floats, Floats]
    background: Floats
    background_slope: tuple[Floats, Floats]
    background_texture: NDArray[np.int64]

    @property
    def tan_yaw(self) -> Floats:
        return self.sin_yaw / cosine(self.sin_yaw)


@dataclass(frozen=True)
class Sensor:
    """What the camera does to n faces. Every field: [n, 1, 1]."""

    gamma: Floats
    exposure: Floats
    """Mean grey level that the camera aims at, 0 to 1."""
    contrast: Floats
    blur: Floats
    noise: Floats
    quality: NDArray[np.int64]
    """JPEG quality; 0: not compressed."""


def view(draws: Draws) -> View:
    """Draw poses and lights."""
    yaw = draws.normal(0, difficulty.YAW)
    pitch = draws.normal(0, difficulty.PITCH)
    roll = draws.normal(0, difficulty.ROLL)
    across, down = draws.normal(0, 0.9), draws.normal(-0.5, 0.6)
    length = np.sqrt(square(across) + square(down) + 1)
    looks_away = draws.chance(0.4)
    return View(
        sin_yaw=np.sin(np.deg2rad(yaw)),
        sin_pitch=np.sin(np.deg2rad(pitch)),
        sin_roll=np.sin(np.deg2rad(roll)),
        scale=draws.normal(1.26, difficulty.SCALE),
        shift_x=draws.normal(0, difficulty.SHIFT),
        shift_y=draws.normal(-0.10, difficulty.SHIFT),
        light=(across / length, down / length, 1 / length),
        ambient=draws.uniform(*difficulty.AMBIENT),
        gaze=(draws.normal(0, 0.45) * looks_away, draws.normal(0, 0.4) * looks_away),
        background=draws.uniform(0.05, 0.9),
        background_slope=(draws.normal(0, 0.12), draws.normal(0, 0.12)),
        background_texture=draws.choice(TEXTURES),
    )


def sensor(draws: Draws) -> Sensor:
    """Draw cameras."""
    compressed = draws.chance(difficulty.JPEG_SHARE)
    quality = draws.uniform(*difficulty.JPEG_QUALITY).astype(np.int64)
    return Sensor(
        gamma=np.exp(draws.normal(0, difficulty.GAMMA)),
        exposure=draws.normal(0.46, 0.07),
        contrast=draws.normal(1.05, 0.15),
        blur=draws.uniform(*difficulty.BLUR),
        noise=draws.uniform(*difficulty.NOISE),
        quality=np.where(compressed, quality, 0),
    )


def cosine(sine: Floats) -> Floats:
    """The cosine of an angle under 90 degrees, from its sine."""
    return np.sqrt(1 - square(sine))


def occlude(
    picture: Floats, x: Floats, y: Floats, skin: Floats, texture: Floats, draws: Draws
) -> None:
    """Lay a hand, a scarf or some object over a share of the faces, in place.

    Args:
        picture: [n, side, side].
        x, y: position in the upright head, [n, side, side].
        skin: reflectance of the hand, [n, 1, 1].
        texture: of the cloth, [n, side, side].
    """
    present = draws.chance(difficulty.OCCLUSION_SHARE)
    kind = draws.choice(3)
    tone = draws.uniform(0.05, 0.85)
    sign = np.where(draws.chance(0.5), np.float32(1), np.float32(-1))
    height = draws.uniform(0.15, 0.75)
    slope = draws.normal(0, 0.12)
    reach = draws.uniform(0.30, 0.50)
    rows = np.flatnonzero(present)
    if not len(rows):
        return
    x, y = x[rows] * sign[rows], y[rows]
    kind = kind[rows]
    tone, height, slope, reach = (values[rows] for values in (tone, height, slope, reach))
    # A hand: fingers side by side that come in from one side of the cheek.
    finger = np.clip(np.floor((y - height - slope * x) / 0.115), -2, 1)
    middle = height + slope * x + (finger + 0.5) * 0.115
    tip = reach + 0.05 * square(finger + 0.3)
    across = np.abs(y - middle) / 0.0575
    hand = smooth(
        (0.0 - np.sqrt(square(np.minimum(x - tip, 0)) + square(across * 0.0575)) + 0.062) / 0.03
    )
    hand = np.where(np.abs(y - height - slope * x + 0.05) < 0.4, hand, 0)
    finger_tone = skin[rows] * (0.92 - 0.30 * square(across))
    # A scarf or a collar pulled up to below the lower lip; an object at the rim of the picture.
    scarf = smooth((y - 0.68 - slope * x + 0.06 * square(x)) / 0.05)
    thing = smooth((x - reach - 0.10 - 0.5 * slope * y) / 0.04)
    coverage = np.select([kind == 0, kind == 1], [hand, scarf], thing).astype(np.float32)
    cloth = np.clip(tone + 0.10 * texture[rows], 0, 1)
    shown = np.where(kind == 0, finger_tone, cloth)
    picture[rows] += coverage * (shown - picture[rows])


def capture(picture: Floats, camera: Sensor, paths: Sequence[str], seed: int) -> NDArray[np.uint8]:
    """Blur, expose, add noise and compress.

    Args:
        picture: light that reaches the sensor, 0 to 1, [n, size, size].
        paths: the faces' names, which seed their noise.

    Returns:
        Grey levels, [n, size, size].
    """
    import cv2

    size = picture.shape[-1]
    result = np.empty(picture.shape, np.uint8)
    for row, (path, image) in enumerate(zip(paths, picture, strict=True)):
        aim, contrast, gamma, noise = (
            float(values[row, 0, 0])
            for values in (camera.exposure, camera.contrast, camera.gamma, camera.noise)
        )
        # Automatic exposure goes most of the way, so that dark skin stays darker than light skin.
        image = image * (aim / max(float(image.mean()), 0.02)) ** 0.75
        image = np.clip(aim + contrast * (image - aim), 0, 1) ** gamma
        image = cv2.GaussianBlur(image, (0, 0), float(camera.blur[row, 0, 0]) * size / 48)
        grain = stream(f"noise/{path}", seed).standard_normal((size, size), np.float32)
        grey = np.clip(255 * (image + noise * grain), 0, 255).astype(np.uint8)
        quality = int(camera.quality[row, 0, 0])
        if quality:
            code = cv2.imencode(".jpg", grey, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
            grey = cv2.imdecode(code, cv2.IMREAD_GRAYSCALE)
        result[row] = grey
    return result
