"""From the bytes of a picture to square grey faces: decoding, finding, cropping, resizing.

Shared by the pipeline and the service, so that a face is treated alike in both. Pure functions on
NumPy arrays; a picture is a uint8 array ``[H, W]`` of grey levels, a face is ``[S, S]``.
"""

import contextlib
import io
import re
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from mien.errors import MienError

Grey = NDArray[np.uint8]

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "TIFF", "WEBP", "PPM")
"""What is decoded. Pillow's other decoders are rarely needed and widen what hostile files reach."""
MAX_PIXELS = 50_000_000
"""A larger picture is refused from its header, before memory is taken for it."""
MAX_SCANS = 100
"""Times that a JPEG may go over all its pixels; usual ones do up to ten times. In 20 MiB there is
room for 270,000, which takes hours. libtiff draws the same line."""
MAX_SCANNED = 20 * MAX_PIXELS
"""Pixels that a JPEG may go over in all its scans, which takes less than a second."""
MAX_STRIPS = 25_000
"""Strips or tiles of a TIFF, each of which takes time and memory however small it is. Writers make
strips of 8 KiB, or of a row where that is longer: 24,415 of the largest picture with four bands."""
MIN_SIDE = 12
"""Pixels of the shorter side under which no expression can be seen."""
BACKGROUND = 128
"""Grey level that stands behind transparent pixels."""
MARGIN = 0.05
"""Added on each side of a found face, as a share of its box."""

_DETECTION_SIDE = 640
"""Faces are sought in a picture shrunk to this longer side."""
_DETECTION_SHARE = 1 / 12
"""Smallest face sought, as a share of the picture's shorter side."""


# Pillow warns of what stands in a file, and whoever sends one may make megabytes of lines of that
warnings.filterwarnings("ignore", module=r"PIL\.")


class PictureError(MienError):
    """A picture that no face can be taken from; the message is the reason."""

    kind = "unreadable"


class NoFaceError(PictureError):
    """A picture in which no face was found."""

    kind = "no_face"


class Box(NamedTuple):
    """A square region of a picture, in pixels; may reach beyond the picture's edge."""

    x: int
    y: int
    side: int


Spend = Callable[[int], object]
"""Is told how many pixels a picture has before they are decoded; raises `PictureError` where that
is too much."""


def decode_picture(data: bytes, spend: Spend | None = None) -> Grey:
    """Decode a picture to grey levels, upright as its EXIF orientation says.

    Colour becomes luma (ITU-R 601); CMYK, palette and 16-bit grey are converted; transparent
    pixels show `BACKGROUND`. The embedded second views of phone pictures (MPO) are passed over.

    Returns:
        uint8 ``[H, W]``.

    Raises:
        PictureError: the data are empty, truncated, no picture of the known `FORMATS`, animated or
            of several pages, of more than `MAX_PIXELS`, of a shorter side under `MIN_SIDE`, or of
            an unbounded (32-bit or floating-point) range, a JPEG of more than `MAX_SCANS` or
            `MAX_SCANNED`, or a TIFF of more than `MAX_STRIPS`; or ``spend`` raises it.
    """
    if not data:
        raise PictureError("the file is empty")
    try:
        _check_strips(data)  # Pillow has made an object of each when it has opened the picture
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            _check_header(picture)
            _check_scans(picture, data)
            if spend is not None:
                spend(picture.width * picture.height)
            picture.load()
            return _grey(_upright(picture))
    except PictureError:
        raise
    except UnidentifiedImageError:
        known = ", ".join(FORMATS)
        raise PictureError(
            f"not a picture, or of an unknown kind; save it as JPEG or PNG (known: {known})"
        ) from None
    except Image.DecompressionBombError:
        raise PictureError(f"giant: more than the {MAX_PIXELS:,} pixels allowed") from None
    except Exception as error:  # decoders raise almost anything on broken data
        raise PictureError(f"truncated or broken ({type(error).__name__})") from None


def _check_strips(data: bytes) -> None:
    """Look at how many strips or tiles the first directory of a TIFF names."""
    if not data.startswith((b"II", b"MM")):
        return

    def number(at: int, width: int) -> int:
        return int.from_bytes(data[at : at + width], "little" if data[:1] == b"I" else "big")

    # bytes of an offset, of the number of entries, and of an entry; where they end Pillow says so
    wide, many, entry = (8, 8, 20) if data[2:3] == b"+" else (4, 2, 12)  # "+" is BigTIFF
    start = number(wide, wide)
    end = start + many + entry * number(start, many)
    for at in range(start + many, min(end, len(data)), entry):
        if number(at, 2) in (273, 324) and (strips := number(at + 4, wide)) > MAX_STRIPS:
            raise PictureError(f"{strips:,} strips or tiles, {MAX_STRIPS:,} at most; save it again")


def _check_header(picture: Image.Image) -> None:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise PictureError(f"giant: {width}×{height} is over the {MAX_PIXELS:,} pixels allowed")
    if min(width, height) < MIN_SIDE:
        raise PictureError(f"too small: {width}×{height}, at least {MIN_SIDE} pixels are needed")
    # not how many frames: a GIF has to be read through for that, and may have a million
    if getattr(picture, "is_animated", False) and picture.format != "MPO":
        raise PictureError("animated or of several pages; save a still from it")
    # a PGM of 16 bits is opened in mode I, and brought to 0 to 65535
    if picture.mode in ("I", "F") and (picture.mode, picture.format) != ("I", "PPM"):
        raise PictureError(f"32-bit grey levels (mode {picture.mode}); save it with 8 or 16 bits")


_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]")
"""Begins a JPEG's segment; the others have no length."""


def _check_scans(picture: Image.Image, data: bytes) -> None:
    start = b"\xff\xda"
    most = min(MAX_SCANS, MAX_SCANNED // (picture.width * picture.height))
    if picture.format not in ("JPEG", "MPO") or data.count(start) <= most:
        return
    # inside other segments, and in the film that some phones put behind the picture, it is chance
    at, scans = 0, 0
    while (found := _MARKER.search(data, at)) and found[0] != b"\xff\xd9":
        at = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
        scans += found[0] == start
        if scans > most:
            raise PictureError(f"over {most} scans, which take too long; save it again")


def _upright(picture: Image.Image) -> Image.Image:
    with contextlib.suppress(Exception):  # broken EXIF around a sound picture
        ImageOps.exif_transpose(picture, in_place=True)
    return picture


def _grey(picture: Image.Image) -> Grey:
    if picture.mode.startswith("I"):  # of 16 bits, as the header was checked
        return (np.asarray(picture, dtype=np.uint16) // 257).astype(np.uint8)
    if "A" in picture.getbands() or "transparency" in picture.info:
        # of 50 megapixels each copy in colour would take 200 MB
        shown = picture if picture.mode in ("RGBA", "LA") else picture.convert("RGBA")
        grey = Image.new("L", shown.size, BACKGROUND)
        grey.paste(shown.convert("L"), mask=shown)
        return np.array(grey)
    return np.array(picture if picture.mode == "L" else picture.convert("L"), dtype=np.uint8)


def find_faces(picture: Grey) -> list[Box]:
    """Frontal faces in a picture, the largest first (Viola and Jones 2001, OpenCV's cascade).

    Boxes are square, with `MARGIN` on each side. A face smaller than 1/12 of the picture's shorter
    side is passed over.

    Raises:
        NoFaceError: there is none.
    """
    small, scale = shrink(picture)
    least = max(24, round(min(small.shape) * _DETECTION_SHARE))
    found = _cascade().detectMultiScale(
        cv2.equalizeHist(small), scaleFactor=1.1, minNeighbors=4, minSize=(least, least)
    )
    if len(found) == 0:
        raise NoFaceError("no face was found")
    return square_boxes(np.asarray(found) / scale)


def shrink(picture: Grey) -> tuple[Grey, float]:
    """The picture at the size at which faces are sought, and what its sides were multiplied by."""
    # of a very long picture's shorter side one pixel must be left
    scale = min(1.0, max(_DETECTION_SIDE / max(picture.shape), 1 / min(picture.shape)))
    if scale == 1:
        return picture, scale
    small = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return np.asarray(small), scale


def square_boxes(found: NDArray[Any]) -> list[Box]:
    """A detector's rectangles ``[n, 4]`` (x, y, width, height) as boxes, the largest first."""
    boxes = []
    for x, y, w, h in found:
        side = round(max(w, h) * (1 + 2 * MARGIN))
        boxes.append(Box(round(x + w / 2 - side / 2), round(y + h / 2 - side / 2), side))
    return sorted(boxes, key=lambda box: (-box.side, box.y, box.x))


_thread = threading.local()


def _cascade() -> Any:
    """The face cascade of this thread: OpenCV's classifier is not safe to share."""
    if not hasattr(_thread, "cascade"):
        models = Path(cv2.__file__).parent / "data"
        _thread.cascade = cv2.CascadeClassifier(str(models / "haarcascade_frontalface_alt2.xml"))
    return _thread.cascade


def crop(picture: Grey, box: Box) -> Grey:
    """The pixels inside ``box``; where it reaches beyond the picture, the edge is repeated."""
    height, width = picture.shape
    right, bottom = box.x + box.side, box.y + box.side
    if min(box.x, box.y) >= 0 and right <= width and bottom <= height:
        return picture[box.y : bottom, box.x : right]
    rows = np.clip(np.arange(box.y, box.y + box.side), 0, height - 1)
    columns = np.clip(np.arange(box.x, box.x + box.side), 0, width - 1)
    return picture[np.ix_(rows, columns)]


def centre(picture: Grey, share: float = 1.0) -> Box:
    """The square in the middle of a picture; its side is ``share`` (0 to 1) of the shorter one."""
    height, width = picture.shape
    side = max(1, round(min(height, width) * share))
    return Box((width - side) // 2, (height - side) // 2, side)


def resize(picture: Grey, size: int) -> Grey:
    """Resample to ``[size, size]``: by area when shrinking, bicubic when enlarging."""
    if picture.shape == (size, size):
        return picture
    shrinks = min(picture.shape) >= size
    method = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(np.ascontiguousarray(picture), (size, size), interpolation=method))
