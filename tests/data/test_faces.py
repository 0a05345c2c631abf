"""Pictures of every kind: read rightly, or refused with a reason."""

import io
import struct
import subprocess
import sys
import time
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mien.data.faces import (
    BACKGROUND,
    Box,
    NoFaceError,
    PictureError,
    centre,
    crop,
    decode_picture,
    find_faces,
    resize,
)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def ramp(height: int = 20, width: int = 30) -> np.ndarray:
    return (np.add.outer(np.arange(height) * 5, np.arange(width) * 3) % 256).astype(np.uint8)


@settings(max_examples=25, deadline=None)
@given(st.integers(12, 70), st.integers(12, 70), st.integers(0, 2**32 - 1))
def test_a_grey_png_comes_back_unchanged(height: int, width: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    assert np.array_equal(decode_picture(encode(Image.fromarray(pixels))), pixels)


def test_colour_becomes_luma() -> None:
    red = Image.new("RGB", (16, 16), (255, 0, 0))
    assert np.all(decode_picture(encode(red)) == 76)  # 0.299 * 255


def test_palette_bilevel_and_cmyk() -> None:
    grey = Image.fromarray(ramp())
    assert np.array_equal(decode_picture(encode(grey.convert("P"), "GIF")), ramp())
    assert set(np.unique(decode_picture(encode(grey.convert("1"))))) <= {0, 255}
    cmyk = decode_picture(encode(grey.convert("CMYK"), "JPEG", quality=100))
    assert np.abs(cmyk.astype(int) - ramp()).mean() < 12


def test_transparent_pixels_show_the_background() -> None:
    image = Image.new("LA", (16, 16), (255, 0))
    image.putpixel((3, 2), (200, 255))
    pixels = decode_picture(encode(image))
    assert pixels[2, 3] == 200
    assert pixels[0, 0] == BACKGROUND


def test_transparency_of_a_palette() -> None:
    image = Image.new("P", (16, 16), 1)
    image.putpalette([0, 0, 0, 255, 255, 255])
    assert np.all(decode_picture(encode(image, transparency=1)) == BACKGROUND)


def test_half_transparent_pixels_are_mixed_with_the_background() -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.merge("LA", [Image.new("L", (16, 16), 250), Image.fromarray(levels)])
    mixed = np.rint(levels / 255 * 250 + (1 - levels / 255) * BACKGROUND)
    assert np.abs(decode_picture(encode(image)) - mixed).max() <= 1


def test_a_large_transparent_picture_takes_no_more_than_its_bytes() -> None:
    """In floats it took 1.4 GB and six seconds, which a service can't give to each caller."""
    data = encode(Image.new("RGBA", (5000, 5000), (10, 20, 30, 128)))
    tracemalloc.start()
    began = time.process_time()
    assert decode_picture(data).shape == (5000, 5000)
    assert time.process_time() - began < 3
    assert tracemalloc.get_traced_memory()[1] < 100e6  # NumPy's; Pillow's are bytes
    tracemalloc.stop()


def decode_apart(data: bytes) -> tuple[float, str]:
    """MB that decoding takes at most, in a process of its own, and what that writes."""
    code = (
        "import re, sys; from mien.data.faces import decode_picture\n"
        # not of `resource`, which goes on from the peak of what has started this
        "peak = lambda: int(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])\n"
        "data = sys.stdin.buffer.read(); before = peak()\n"
        "decode_picture(data); print(peak() - before)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, input=data, capture_output=True, check=True)
    return int(done.stdout) / 1000, done.stderr.decode()


def test_a_transparent_picture_is_not_copied_in_colour() -> None:
    """Such a copy took 200 MB of the largest picture."""
    data = encode(Image.new("RGBA", (5000, 5000), (10, 20, 30, 128)), compress_level=1)
    assert decode_apart(data)[0] < 250  # 100 are the picture


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA", "P"])
def test_transparency_is_that_of_a_copy_in_colour(mode: str) -> None:
    colour = np.random.default_rng(0).integers(0, 256, (300, 300, 4), dtype=np.uint8)
    image = Image.fromarray(colour).convert(mode)
    if mode == "P":
        image.info["transparency"] = colour[0, :256, 0].tobytes()
    copy = image.convert("RGBA")
    grey, behind = copy.convert("L"), Image.new("L", copy.size, BACKGROUND)
    expected = np.array(Image.composite(grey, behind, copy.getchannel("A")))
    assert np.array_equal(
        decode_picture(encode(image, "TIFF" if mode == "PA" else "PNG")), expected
    )


def test_an_animation_is_refused_without_counting_its_frames() -> None:
    still = [Image.new("L", (16, 16), level) for level in (0, 255)]
    whole = encode(still[0], "GIF", save_all=True, append_images=still[1:], duration=99)
    start = whole.rindex(b"!\xf9")  # of the second frame
    frame = whole[start:-1]
    data = whole[:start] + frame * (10_000_000 // len(frame)) + b";"
    began = time.process_time()
    with pytest.raises(PictureError, match="animated"):
        decode_picture(data)
    assert time.process_time() - began < 0.5


def test_16_bits_keep_their_range() -> None:
    values = np.linspace(0, 65535, 400).astype(np.uint16).reshape(20, 20)
    pixels = decode_picture(encode(Image.fromarray(values)))
    assert np.array_equal(pixels, values // 257)
    pgm = b"P5 20 20 65535\n" + values.astype(">u2").tobytes()
    assert np.array_equal(decode_picture(pgm), values // 257)


def test_exif_orientation_is_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 90 degrees clockwise to see it upright
    pixels = decode_picture(encode(Image.fromarray(ramp()), "PNG", exif=exif))
    assert np.array_equal(pixels, np.rot90(ramp(), -1))


def test_the_second_view_of_a_phone_picture_is_passed_over() -> None:
    image = Image.fromarray(ramp()).convert("RGB")
    data = encode(image, "MPO", save_all=True, append_images=[image])
    assert decode_picture(data).shape == ramp().shape


def progressive(scans: int, side: int) -> bytes:
    """A JPEG whose last scan, of 75 bytes, comes so many times."""
    data = encode(Image.new("L", (side, side)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * (scans - 6) + data[-2:]


@pytest.mark.parametrize(("side", "scans", "most"), [(7000, 21, 20), (500, 101, 100)])
def test_a_jpeg_that_takes_long_is_refused_at_once(side: int, scans: int, most: int) -> None:
    """Of 7000 × 7000 pixels a hundred scans take two seconds, in 100 kB."""
    data = progressive(scans, side)
    began = time.process_time()
    with pytest.raises(PictureError, match=f"over {most} scans"):
        decode_picture(data)
    assert time.process_time() - began < 0.5


@pytest.mark.parametrize(("side", "scans"), [(7000, 20), (500, 100)])
def test_the_scans_of_photos_are_few_enough(side: int, scans: int) -> None:
    assert decode_picture(progressive(scans, side)).shape == (side, side)


def test_what_a_phone_puts_behind_a_picture_has_no_scans() -> None:
    film = b"\xff\xda" * 1000
    data = encode(Image.fromarray(ramp()), "JPEG", comment=film)
    assert np.array_equal(decode_picture(data + film), decode_picture(data))


def striped(strips: int, *wrong: tuple[int, int, int, int]) -> bytes:
    """A TIFF of 12 pixels a row, whose rows are strips, all of them the same one.

    ``wrong`` are further tags: number, type, count, value.
    """
    at = 8 + 2 + 12 * (8 + len(wrong)) + 4
    tags = [(256, 4, 1, 12), (257, 4, 1, strips), (258, 3, 1, 8), (259, 3, 1, 1), (262, 3, 1, 1)]
    tags += [(273, 4, strips, at), (277, 3, 1, 1), (278, 4, 1, 1), *wrong]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    head = b"II*\0" + struct.pack("<IH", 8, len(tags))
    return head + entries + bytes(4) + struct.pack("<I", at) * strips


def test_a_tiff_of_a_great_many_strips_is_refused_at_once() -> None:
    """Four million in 16 MB took 16 seconds and 1.3 GB."""
    data = striped(400_000)
    began = time.process_time()
    with pytest.raises(PictureError, match="400,000 strips or tiles, 25,000 at most"):
        decode_picture(data)
    assert time.process_time() - began < 0.2
    assert decode_picture(striped(25_000)).shape == (25_000, 12)


TILED = {
    "little": struct.pack("<2sHIHHHII", b"II", 42, 8, 1, 324, 4, 30_000, 8),
    "big": struct.pack(">2sHIHHHII", b"MM", 42, 8, 1, 324, 4, 30_000, 8),
    "wide": struct.pack("<2sHHHQQHHQQ", b"II", 43, 8, 0, 16, 1, 324, 4, 30_000, 8),
}


@pytest.mark.parametrize("kind", TILED)
def test_tiles_are_counted_in_every_kind_of_tiff(kind: str) -> None:
    with pytest.raises(PictureError, match="30,000 strips or tiles"):
        decode_picture(TILED[kind])


def test_nothing_is_written_that_a_file_chooses() -> None:
    """Pillow warned of each wrong tag: 12 MB of lines for a TIFF of 720 kB."""
    wrong = [(40_000 + each, 4, 10**9, 8) for each in range(300)]
    assert decode_apart(striped(20, *wrong))[1] == ""


def giant_png(side: int) -> bytes:
    """A valid header of a giant picture, and no pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0"))


BAD = {
    "empty": (b"", "empty"),
    "text": (b"this is no picture at all", "not a picture"),
    "script": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n", "not a picture"),
    "truncated jpeg": (encode(Image.fromarray(ramp(90, 90)), "JPEG")[:-200], "truncated"),
    "truncated png": (encode(Image.fromarray(ramp(90, 90)))[:-60], "truncated"),
    "giant": (giant_png(8_000), "giant"),
    "bomb": (giant_png(60_000), "giant"),
    "small": (encode(Image.fromarray(ramp(5, 90))), "too small: 90×5"),
    "animated": (
        encode(
            Image.fromarray(ramp()),
            "GIF",
            save_all=True,
            append_images=[Image.fromarray(255 - ramp())],
        ),
        "animated",
    ),
    "integer": (encode(Image.fromarray(ramp().astype(np.int32)), "TIFF"), "32-bit"),
    "float": (encode(Image.fromarray(ramp().astype(np.float32)), "TIFF"), "32-bit"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_pictures_are_refused_with_a_reason(name: str) -> None:
    data, reason = BAD[name]
    with pytest.raises(PictureError, match=reason) as caught:
        decode_picture(data)
    assert caught.value.kind == "unreadable"
    assert "BytesIO" not in str(caught.value)


def test_of_a_giant_picture_pillow_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "giant.png"
    path.write_bytes(giant_png(10_000))  # of so many pixels it warns; pytest would hide that
    command = [sys.executable, "-m", "mien", "predict", "--model", "small", str(path)]
    told = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "giant: 10000×10000" in told.stdout + told.stderr
    assert "Warning" not in told.stderr


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_broken_bytes_never_crash(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]))
    broken = bytearray(encode(Image.fromarray(ramp()).convert("RGB"), kind))
    for _ in range(data.draw(st.integers(1, 8))):
        broken[data.draw(st.integers(0, len(broken) - 1))] = data.draw(st.integers(0, 255))
    try:
        pixels = decode_picture(bytes(broken[: data.draw(st.integers(0, len(broken)))]))
    except PictureError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 2


def test_centre_and_crop() -> None:
    assert centre(ramp(20, 30)) == Box(5, 0, 20)
    assert centre(ramp(20, 30), 0.5) == Box(10, 5, 10)
    assert np.array_equal(crop(ramp(20, 30), Box(5, 0, 20)), ramp(20, 30)[:, 5:25])


def test_a_box_beyond_the_edge_repeats_it() -> None:
    pixels = crop(ramp(20, 30), Box(-2, -2, 8))
    assert pixels.shape == (8, 8)
    assert np.all(pixels[:3, :3] == ramp()[0, 0])


def test_resizing_averages_areas() -> None:
    board = np.kron([[0, 255], [255, 0]], np.ones((1, 1))).astype(np.uint8)
    assert np.all(np.abs(resize(np.tile(board, (24, 24)), 24).astype(int) - 128) <= 1)
    assert resize(ramp(20, 20), 48).shape == (48, 48)


def test_no_face_in_noise() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200), dtype=np.uint8)
    with pytest.raises(NoFaceError) as caught:
        find_faces(noise)
    assert caught.value.kind == "no_face"


def cartoon(side: int) -> np.ndarray:
    """What the cascade takes for a face: dark eyes and mouth on a light oval."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    face = np.full((side, side), 90.0)
    face[(x / 0.72) ** 2 + (y / 0.95) ** 2 < 1] = 200
    for eye in (-0.3, 0.3):
        face -= 130 * np.exp(-(((x - eye) / 0.14) ** 2) - ((y + 0.22) / 0.08) ** 2)
        face -= 60 * np.exp(-(((x - eye) / 0.2) ** 2) - ((y + 0.42) / 0.05) ** 2)
    face += 30 * np.exp(-((x / 0.08) ** 2) - ((y - 0.05) / 0.25) ** 2)
    face -= 30 * np.exp(-((x / 0.16) ** 2) - ((y - 0.25) / 0.05) ** 2)
    face -= 110 * np.exp(-((x / 0.28) ** 2) - ((y - 0.52) / 0.07) ** 2)
    return face.clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize("shape", [(12, 20_000), (20_000, 12), (100, 130_000)])
def test_no_face_in_a_strip(shape: tuple[int, int]) -> None:
    with pytest.raises(NoFaceError):
        find_faces(np.full(shape, 99, np.uint8))


def test_faces_are_found_largest_first() -> None:
    picture = np.full((300, 500), 90, dtype=np.uint8)
    picture[60:160, 40:140] = cartoon(100)
    picture[60:240, 260:440] = cartoon(180)
    first, second = find_faces(picture)
    assert first.side > second.side
    assert 260 < first.x + first.side / 2 < 440
    assert 40 < second.x + second.side / 2 < 140
