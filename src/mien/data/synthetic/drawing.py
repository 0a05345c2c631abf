"""Painting a face: skin, eyes, brows, nose, mouth, lines, beard and glasses."""

import numpy as np

from mien.data.synthetic.canvas import Canvas, Patch, bend, dome, smooth, square
from mien.data.synthetic.draws import Floats
from mien.data.synthetic.geometry import Half, Shape
from mien.data.synthetic.people import BEARDS, People

SIDES = (-1, 1)
"""Left and right in the picture: the sign of x."""


def paint_face(
    canvas: Canvas, people: People, shape: Shape, gaze: tuple[Floats, Floats], turn: Floats
) -> None:
    """Paint all that lies on the skin.

    Args:
        canvas: n faces whose tone is that of the bare skin.
        gaze: where the irises stand, right and down, -1 to 1.
        turn: tangent of the yaw; the nose stands out and moves with it.
    """
    for sign, half in zip(SIDES, (shape.left, shape.right), strict=True):
        _relief(canvas, people, half, sign)
        _lines(canvas, people, shape, half, sign)
    _forehead(canvas, people, shape)
    _beard(canvas, people, shape)
    _nose(canvas, people, shape, turn)
    _mouth(canvas, people, shape)
    for sign, half in zip(SIDES, (shape.left, shape.right), strict=True):
        _eye(canvas, people, half, gaze, sign)
        _brow(canvas, people, half, sign)


def paint_glasses(canvas: Canvas, people: People, sunglasses: Floats) -> None:
    """Frames for who wears them; dark lenses where ``sunglasses`` is 1."""
    worn = np.maximum(people.glasses >= 0, sunglasses).astype(np.float32)
    frame = np.where(people.glasses >= 0, people.glasses, np.float32(0.08))
    patch = canvas.patch(-0.75, 0.75, -0.50, 0.25)
    across = np.abs(patch.x)
    half_width = 0.225 * people.glasses_size
    half_height = 0.155 * people.glasses_size
    dx = np.abs(across - people.eye_x - 0.01) - half_width
    dy = np.abs(patch.y - people.eye_y - 0.015) - half_height
    corner = np.float32(0.09)
    rounded = np.sqrt(square(np.maximum(dx + corner, 0)) + square(np.maximum(dy + corner, 0)))
    rim = rounded + np.minimum(np.maximum(dx, dy) + corner, 0) - corner
    patch.paint(frame * 0.6, 0.92 * sunglasses * patch.cover(rim))
    glare = patch.cover(np.abs(patch.x + 0.6 * patch.y - 0.25) - 0.03, 0.05) * patch.cover(rim)
    patch.paint(0.95, 0.16 * worn * glare)
    bars = np.maximum(np.abs(patch.y - people.eye_y + 0.02) - 0.016, np.minimum(-dx, 0.1 - across))
    bars = np.where(
        across < people.eye_x, np.maximum(bars, across - people.eye_x + half_width), bars
    )
    bars = np.maximum(bars, across - 0.70)
    patch.paint(frame, 0.9 * worn * patch.cover(np.minimum(np.abs(rim) - 0.017, bars)))


def _relief(canvas: Canvas, people: People, half: Half, sign: int) -> None:
    """Eye socket, cheek, and the mass of the brow."""
    patch = _beside(canvas, sign, -0.05, 0.7, -0.85, 0.6)
    x = patch.x * sign
    socket = dome((x - people.eye_x + 0.03) / 0.24, (patch.y - people.eye_y + 0.02) / 0.17)
    patch.bump -= 0.05 * socket
    patch.darken(0.15 * socket)
    patch.bump += (0.035 + 0.03 * people.cheeks + 0.05 * half.cheek) * dome(
        (x - 0.37) / 0.24, (patch.y - 0.24 + 0.06 * half.cheek) / 0.24
    )
    patch.bump += 0.022 * dome((x - people.eye_x) / 0.26, (patch.y - half.brow_middle) / 0.10)


def _lines(canvas: Canvas, people: People, shape: Shape, half: Half, sign: int) -> None:
    """The furrows that age leaves and that muscles fold."""
    age = people.age
    # Nasolabial furrow: from the wing of the nose round the corner of the mouth.
    patch = _beside(canvas, sign, 0.06, 0.62, 0.08, 0.78)
    top = people.nose_length - 0.05 + half.nostril
    bottom = shape.mouth_y + 0.05 + 0.8 * np.minimum(half.corner_y, 0)
    along = (patch.y - top) / (bottom - top)
    start = people.nose_width + 0.035
    curve = start + (half.corner_x + 0.095 - start) * along * (1.6 - 0.6 * along)
    depth = np.clip(0.10 + 0.5 * age + 0.95 * half.furrow, 0, 1.3)
    patch.groove(patch.x * sign - curve, 0.038, depth * _fade(along))
    # Between the brows.
    patch = _beside(canvas, sign, 0.0, 0.2, -0.9, 0.0)
    along = (patch.y - half.brow_inner + 0.13) / 0.26
    patch.groove(
        patch.x * sign - 0.052, 0.024, np.clip(0.2 * age + half.frown, 0, 1.2) * _fade(along)
    )
    # Crow's feet and the bag under the eye.
    patch = _beside(canvas, sign, 0.05, 0.75, -0.35, 0.2)
    x = patch.x * sign - people.eye_x - people.eye_width
    depth = np.clip(0.3 * age + 0.8 * half.crow, 0, 1) * _fade((x - 0.02) / 0.16)
    for slope in (-0.5, 0.0, 0.5):
        patch.groove(patch.y - people.eye_y - 0.02 - slope * x, 0.016, depth)
    along = (patch.x * sign - people.eye_x) / (people.eye_width * 1.05)
    bag = patch.y - people.eye_y - half.lower_lid - 0.055 + 0.05 * square(along)
    patch.groove(
        bag, 0.022, np.clip(0.12 + 0.6 * age + 0.5 * half.crow, 0, 1) * _fade(along / 2 + 0.5)
    )


def _forehead(canvas: Canvas, people: People, shape: Shape) -> None:
    """Lines across the forehead that follow the brows."""
    patch = canvas.patch(-0.5, 0.5, -1.15, -0.3)
    rightness = smooth(0.5 + patch.x / 0.4)
    left, right = shape.left, shape.right
    heights = [0.5 * (half.brow_inner + half.brow_middle) for half in (left, right)]
    lift = heights[0] + rightness * (heights[1] - heights[0]) + 0.25 * square(patch.x)
    folded = left.forehead + rightness * (right.forehead - left.forehead)
    depth = np.clip(0.35 * people.age + 0.85 * folded, 0, 1.2)
    depth = depth * np.maximum(1 - square(patch.x / 0.48), 0)
    for gap in (0.11, 0.19, 0.27):
        patch.groove(patch.y - lift + gap, 0.020, depth)


def _nose(canvas: Canvas, people: People, shape: Shape, turn: Floats) -> None:
    patch = canvas.patch(-0.55, 0.55, -0.45, 0.48)
    tip = people.nose_length
    root = people.eye_y - 0.08
    along = np.clip((patch.y - root) / (tip - root), 0, 1.15)
    x = patch.x - turn * people.nose_depth * along
    ridge = np.maximum(1 - square(x / (0.055 + 0.055 * along)), 0)
    ends = smooth((patch.y - root + 0.06) / 0.2) * smooth((tip + 0.06 - patch.y) / 0.1)
    patch.bump += (0.3 + 0.7 * along) * 0.62 * people.nose_depth * square(ridge) * ends
    patch.bump += 0.05 * dome(x / 0.10, (patch.y - tip + 0.03) / 0.10)
    lift = 0.5 * (shape.left.nostril + shape.right.nostril)
    wing_y = tip + 0.005 + lift
    wing = dome((np.abs(x) - people.nose_width + 0.025) / 0.065, (patch.y - wing_y) / 0.075)
    patch.bump += 0.055 * wing
    under = dome(x / (people.nose_width + 0.05), (patch.y - wing_y - 0.075) / 0.055)
    patch.darken(0.28 * under)
    nostril = square((np.abs(x) - 0.055) / 0.036) + square((patch.y - wing_y - 0.042) / 0.022)
    patch.paint(0.10 * people.skin, 0.85 * patch.cover((nostril - 1) * 0.015))
    side = (np.abs(x) - people.nose_width - 0.03) + 1.6 * square(patch.y - wing_y)
    patch.groove(side, 0.024, 0.55 * _fade((patch.y - wing_y + 0.085) / 0.17))
    # AU9 folds the skin of the bridge.
    for offset, slope in ((0.03, 0.9), (0.10, 0.7)):
        fold = patch.y - root - offset - slope * np.maximum(np.abs(x) - 0.02, 0)
        ends = np.maximum(1 - square(x / 0.15), 0)
        patch.groove(fold, 0.022, 1.1 * shape.nose_wrinkle * ends)


def _mouth(canvas: Canvas, people: People, shape: Shape) -> None:
    patch = canvas.patch(-0.50, 0.50, 0.15, 1.15)
    right = patch.x > 0
    t = patch.x / np.where(right, shape.right.corner_x, shape.left.corner_x)
    rest = np.maximum(1 - square(t), 0)
    # Between a lens and a box: AU10 and AU16 pull the lips square.
    bow = rest * (1.35 - 0.35 * rest) + shape.lip_square * rest * (1 - rest) * 1.2
    corner = np.where(right, shape.right.corner_y, shape.left.corner_y)
    centre = shape.mouth_y + corner * square(t) * (1.15 - 0.15 * square(t))
    upper_inner = centre - shape.part_up * bow
    lower_inner = centre + shape.part_down * bow
    cupid = 1 - 0.28 * np.maximum(1 - square(t / 0.22), 0)
    upper_outer = upper_inner - shape.upper_lip * bow * cupid
    lower_outer = lower_inner + shape.lower_lip * bow
    # Relief: the lips swell, the chin below the lower lip recedes.
    below = dome(patch.x / 0.22, (patch.y - lower_outer - 0.055) / 0.07)
    patch.bump -= 0.030 * below
    patch.darken(0.14 * below)
    boss = dome(patch.x / 0.24, (patch.y - shape.chin + 0.17) / 0.15)
    patch.bump += (0.03 + 0.06 * shape.chin_boss) * boss
    # AU17 dimples the chin.
    for x, y in ((-0.07, 0.20), (0.06, 0.22), (0.0, 0.15), (-0.11, 0.14), (0.11, 0.15)):
        dent = dome((patch.x - x) / 0.045, (patch.y - shape.chin + y) / 0.04)
        patch.darken(0.22 * shape.chin_boss * dent)
    patch.bump += 0.030 * dome(t / 0.9, (patch.y - 0.5 * (lower_inner + lower_outer)) / 0.07)
    redness = people.lips - 0.25 * people.makeup
    lips = patch.cover(np.maximum(upper_outer - patch.y, patch.y - lower_outer))
    # The upper lip faces down and is darker than the lower one.
    lip_tone = people.skin * redness * np.where(patch.y < centre, np.float32(0.82), np.float32(1.0))
    patch.paint(lip_tone, 0.9 * lips * (rest > 0))
    opening = np.maximum(upper_inner - patch.y, patch.y - lower_inner)
    inside = patch.cover(opening) * (rest > 0)
    gap = shape.part_up + shape.part_down
    inside *= np.clip(gap / 0.02, 0, 1)
    patch.paint(0.07, inside)
    tongue = dome(t / 0.75, (patch.y - lower_inner) / (0.05 + 0.45 * gap))
    patch.paint(0.28, 0.7 * inside * tongue)
    teeth = np.minimum(0.085, 0.75 * gap)
    upper = patch.cover(patch.y - upper_inner - teeth * np.maximum(1 - square(t), 0.2))
    patch.paint(0.86, inside * upper * shape.upper_teeth)
    lower = patch.cover(lower_inner - 0.7 * teeth * rest - patch.y)
    patch.paint(0.74, inside * lower * shape.lower_teeth)
    # The line where closed lips meet, and the dimples at the corners.
    ends = np.maximum(1 - square(t / 1.08), 0)
    seam = np.maximum(1 - square((patch.y - centre) / (0.026 + 0.4 * patch.edge)), 0)
    closed = 1 - np.clip(gap / 0.03, 0, 1)
    patch.darken(0.62 * seam * np.minimum(4 * ends, 1) * closed)
    corners = dome((np.abs(t) - 1.0) / 0.20, (patch.y - centre) / 0.05)
    patch.darken(0.40 * corners)


def _eye(
    canvas: Canvas, people: People, half: Half, gaze: tuple[Floats, Floats], sign: int
) -> None:
    patch = _beside(canvas, sign, 0.05, 0.62, -0.40, 0.12)
    x = patch.x * sign - people.eye_x
    y = patch.y - people.eye_y - people.eye_tilt * x
    t = x / people.eye_width
    arch = np.maximum(1 - square(t), 0)
    upper = -half.upper_lid * arch * (1.25 - 0.25 * arch)
    lower = half.lower_lid * arch
    inside = patch.cover(np.maximum(upper - y, y - lower)) * (arch > 0)
    inside *= np.clip((half.upper_lid + half.lower_lid) / 0.03, 0, 1)
    patch.paint(0.55 + 0.30 * np.sqrt(people.skin), inside)
    iris = square(x - sign * 0.055 * gaze[0]) + square(y + 0.012 - 0.03 * gaze[1])
    patch.paint(
        people.iris * (0.6 + 0.4 * people.skin), inside * patch.cover((iris / 0.071 - 0.071) / 2)
    )
    patch.paint(0.03, inside * patch.cover((iris / 0.034 - 0.034) / 2))
    glint = square(patch.x - sign * people.eye_x - 0.055 * gaze[0] + 0.022) + square(y + 0.035)
    patch.paint(0.95, 0.8 * inside * patch.cover((glint / 0.016 - 0.016) / 2))
    # The lid throws a shadow on the eye; its lashes draw its rim.
    patch.darken(0.35 * inside * np.clip(1 - (y - upper) / 0.03, 0, 1))
    ends = np.minimum(4 * np.maximum(1 - square(t / 1.1), 0), 1)
    rim = 0.014 + 0.012 * people.makeup
    lash = patch.cover(np.abs(y - upper) - rim, 0.01) * ends
    patch.paint(0.12 * people.skin, (0.75 + 0.2 * people.makeup) * lash)
    patch.darken(0.30 * patch.cover(np.abs(y - lower) - 0.008, 0.01) * ends)
    crease = y - upper + 0.040 + 0.25 * np.maximum(half.upper_lid - 0.07, 0)
    patch.groove(crease, 0.018, people.lid_crease * ends)


def _brow(canvas: Canvas, people: People, half: Half, sign: int) -> None:
    patch = _beside(canvas, sign, 0.0, 0.66, -0.9, 0.0)
    x = patch.x * sign
    centre, span = 0.5 * (half.brow_end + half.brow_start), 0.5 * (half.brow_end - half.brow_start)
    t = (x - centre) / span
    line = bend(t, half.brow_inner, half.brow_middle, half.brow_outer)
    thickness = people.brow_thickness * (1 - 0.30 * (t + 1) * 0.5) - 0.02 * square(np.maximum(t, 0))
    distance = np.maximum(
        np.abs(patch.y - line) - np.maximum(thickness, 0.008), span * (np.abs(t) - 1)
    )
    tone = np.minimum(people.hair * 0.8 + 0.02, people.skin * 0.62)
    patch.paint(tone, 0.85 * patch.cover(distance, 0.016))


def _beard(canvas: Canvas, people: People, shape: Shape) -> None:
    kind = people.beard
    patch = canvas.patch(-3, 3, 0.10, 3)
    across = np.abs(patch.x)
    cheek = 0.42 + 0.10 * np.minimum(across / 0.5, 1.2) - 0.9 * np.maximum(across - 0.42, 0)
    jaw = smooth((patch.y - cheek) / 0.16) * smooth((patch.y - 0.15) / 0.15)
    lip = shape.mouth_y - shape.part_up - 0.115 + 0.10 * square(patch.x / 0.25)
    moustache = patch.cover(np.maximum(np.abs(patch.y - lip) - 0.045, across - 0.27), 0.05)
    full = (kind == BEARDS.index("full")).astype(np.float32)
    stubble = (kind == BEARDS.index("stubble")).astype(np.float32)
    upper = np.maximum(full, (kind == BEARDS.index("moustache")).astype(np.float32))
    chin_bare = 1 - 0.9 * dome(patch.x / 0.10, (patch.y - shape.mouth_y - 0.14) / 0.05)
    tone = np.minimum(people.hair * 0.85 + 0.02, people.skin * 0.7)
    patch.paint(tone, 0.85 * np.maximum(full * jaw * chin_bare, upper * moustache))
    patch.darken(0.28 * stubble * np.maximum(jaw, 0.7 * moustache))


def _beside(canvas: Canvas, sign: int, near: float, far: float, top: float, bottom: float) -> Patch:
    """A patch on one side, its x range mirrored on the left."""
    left, right = sorted((sign * near, sign * far))
    return canvas.patch(left, right, top, bottom)


def _fade(along: Floats) -> Floats:
    """1 in the middle of a line that runs from 0 to 1, 0 at its ends and beyond."""
    return np.clip(4 * along * (1 - along), 0, 1)
