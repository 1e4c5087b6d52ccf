"""A person's own pictures: every form of a digit gives the image of its clean form, or a line that says why not."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageDraw, ImageOps

from handgrad.client.errors import InvalidArgumentError
from handgrad.client.pictures import Picture, read_picture

SIDE = 280
EVENED = 8.0
"""Mean levels, at most, that a photo whose ground was evened out lies from the clean picture."""

MODEL = (28, 28, 1)
MNIST_MEAN = 33.3
KEPT = "its sides keep their ratio, and the rest is filled with its border's colour"

# The strokes of a seven-segment display, in the parts of a side: top, upper left, upper right, middle, ...
_LEFT, _RIGHT, _TOP, _MIDDLE, _BOTTOM = 0.32, 0.68, 0.16, 0.5, 0.84
SEGMENTS = (
    (_LEFT, _TOP, _RIGHT, _TOP),
    (_LEFT, _TOP, _LEFT, _MIDDLE),
    (_RIGHT, _TOP, _RIGHT, _MIDDLE),
    (_LEFT, _MIDDLE, _RIGHT, _MIDDLE),
    (_LEFT, _MIDDLE, _LEFT, _BOTTOM),
    (_RIGHT, _MIDDLE, _RIGHT, _BOTTOM),
    (_LEFT, _BOTTOM, _RIGHT, _BOTTOM),
)
DIGITS = ("012456", "25", "02346", "02356", "1235", "01356", "013456", "025", "0123456", "012356")


def drawn(digit: int) -> Image.Image:
    """Gives a digit in white on black, with soft edges."""
    large = Image.new("L", (2 * SIDE, 2 * SIDE))
    draw = ImageDraw.Draw(large)
    for segment in DIGITS[digit]:
        draw.line([2 * SIDE * part for part in SEGMENTS[int(segment)]], fill=255, width=56)
    return large.resize((SIDE, SIDE), Image.Resampling.BOX)


def inked(ink: Image.Image, level: int, beneath: int = 0) -> Image.Image:
    """Gives a digit in ink of a level on a transparent ground, whose unseen colour is another."""
    grey = Image.composite(Image.new("L", ink.size, level), Image.new("L", ink.size, beneath), ink)
    return Image.merge("LA", (grey, ink))


def of(array: NDArray[Any]) -> Image.Image:
    return Image.fromarray(array)


def values(ink: Image.Image) -> NDArray[np.float64]:
    return np.asarray(ink, np.float64)


def hard(ink: Image.Image) -> Image.Image:
    """Gives a digit without its soft edges."""
    return of((np.asarray(ink) > 127).astype(np.uint8) * 255)


def in_lab(ink: Image.Image) -> Image.Image:
    found = ImageCms.profileToProfile(
        ink.convert("RGB"), ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
    )
    assert found
    return found


def page(ink: Image.Image) -> Image.Image:
    """Gives a picture of a window: dark ink on a light page, whose corners are transparent."""
    alpha = Image.new("L", ink.size, 0)
    ImageDraw.Draw(alpha).rounded_rectangle((0, 0, SIDE - 1, SIDE - 1), 20, fill=255)
    return Image.merge("LA", (ImageOps.invert(ink), alpha))


Form = Callable[[Image.Image], Image.Image]

LIGHT: dict[str, tuple[str, Form, dict[str, Any]]] = {
    "clean": ("png", lambda ink: ink, {}),
    "JPEG": ("jpg", lambda ink: ink, {"quality": 90}),
    "colours": ("png", lambda ink: ink.convert("RGB"), {}),
    "an opaque alpha": ("png", lambda ink: ink.convert("RGBA"), {}),
    "white ink, transparent": ("png", lambda ink: inked(ink, 255), {}),
    "light grey ink, transparent": ("png", lambda ink: inked(of(np.minimum(np.asarray(ink), 250)), 255), {}),
    "white ink, white beneath": ("png", lambda ink: inked(ink, 255, 255).convert("RGBA"), {}),
    "white ink in WebP": ("webp", lambda ink: inked(ink, 255).convert("RGBA"), {"lossless": True}),
    "one grey transparent": ("png", lambda ink: ink, {"transparency": 0}),
    "one colour transparent": ("png", lambda ink: ink.convert("RGB"), {"transparency": (0, 0, 0)}),
    "16 bits": ("png", lambda ink: of(np.asarray(ink).astype(np.uint16) * 257), {}),
    "16 bits, one transparent": ("png", lambda ink: of(np.asarray(ink).astype(np.uint16) * 257), {"transparency": 0}),
    "16 bits in a TIFF": ("tif", lambda ink: of(np.asarray(ink).astype(np.uint16) * 257), {}),
    "16 bits, big-endian": ("tif", lambda ink: of((np.asarray(ink).astype(np.uint16) * 257).astype(">u2")), {}),
    "16 bits as integers": ("pgm", lambda ink: of(np.asarray(ink).astype(np.int32) * 257), {}),
    "32 bits": ("tif", lambda ink: of(np.asarray(ink).astype(np.int32) * 257), {}),
    "floats to 1": ("tif", lambda ink: of((values(ink) / 255).astype(np.float32)), {}),
    "floats to 255": ("tif", lambda ink: of(values(ink).astype(np.float32)), {}),
    "floats to 65535": ("tif", lambda ink: of((values(ink) * 257).astype(np.float32)), {}),
    "a palette": ("png", lambda ink: ink.convert("P"), {}),
    "GIF": ("gif", lambda ink: ink, {}),
    "BMP": ("bmp", lambda ink: ink, {}),
    "CMYK": ("tif", lambda ink: ink.convert("CMYK"), {}),
    "YCbCr": ("tif", lambda ink: ink.convert("RGB").convert("YCbCr"), {}),
    "LAB": ("tif", in_lab, {}),
    "one bit": ("png", lambda ink: hard(ink).convert("1"), {}),
}
DARK: dict[str, tuple[str, Form, dict[str, Any]]] = {
    "paper": ("png", ImageOps.invert, {}),
    "paper in JPEG": ("jpg", lambda ink: ImageOps.invert(ink).convert("RGB"), {"quality": 85}),
    "paper in CMYK": ("jpg", lambda ink: ImageOps.invert(ink).convert("RGB").convert("CMYK"), {"quality": 90}),
    "paper in 16 bits": ("png", lambda ink: of((255 - np.asarray(ink)).astype(np.uint16) * 257), {}),
    "black ink, transparent": ("png", lambda ink: inked(ink, 0), {}),
    "black ink, in colours": ("png", lambda ink: inked(ink, 0).convert("RGBA"), {}),
    "black ink, white beneath": ("png", lambda ink: inked(ink, 0, 255).convert("RGBA"), {}),
    "black ink in a palette": ("png", lambda ink: inked(ink, 0).convert("RGBA").quantize(16), {}),
    "black ink in a GIF": ("gif", lambda ink: inked(hard(ink), 0).convert("RGBA"), {}),
    "a page with round corners": ("png", page, {}),
}
FORMS = {(kind, False): form for kind, form in LIGHT.items()} | {(kind, True): form for kind, form in DARK.items()}


def read(file: Path, shape: tuple[int, int, int] = MODEL, *, invert: bool = False) -> Picture:
    return read_picture(file, shape, invert=invert, mean=MNIST_MEAN)


def distance(found: NDArray[np.uint8], expected: Any) -> float:
    assert found.dtype == np.uint8
    return float(np.abs(found.astype(float) - np.asarray(expected, float).reshape(found.shape)).mean())


def clean(digit: int) -> NDArray[np.uint8]:
    return np.asarray(drawn(digit).resize((28, 28), Image.Resampling.BOX)).reshape(MODEL)


@pytest.mark.parametrize(("kind", "dark"), FORMS)
def test_each_form_gives_the_image_of_the_clean_one(tmp_path: Path, kind: str, dark: bool) -> None:  # noqa: FBT001
    ending, form, options = FORMS[kind, dark]
    file = tmp_path / f"digit.{ending}"
    for digit in range(10):
        form(drawn(digit)).save(file, **options)
        found = read(file, invert=dark)
        assert distance(found.pixels, clean(digit)) < 3, digit
        taken = [note for note in found.notes if ": taken as 0 to" not in note]
        assert taken == []
    # Without --invert where it is needed, and with it where it is not, a line says so.
    found = read(file, invert=not dark)
    told = f"{file} is dark on light{'' if dark else ' after --invert'}, the data set light on dark: "
    assert found.notes[-1] == told + ("--invert swaps them" if dark else "leave --invert out")
    for mean in (120.0, None):
        assert found.notes[:-1] == read_picture(file, MODEL, invert=not dark, mean=mean).notes


def test_a_digit_is_its_neighbours_no_twin() -> None:
    # What the tests above allow is far less than what tells one digit from another.
    assert min(distance(clean(a), clean(b)) for a in range(10) for b in range(a)) > 6


@pytest.mark.parametrize("ending", ["jpg", "png", "tif", "webp"])
def test_a_picture_is_seen_as_its_camera_was_held(tmp_path: Path, ending: str) -> None:
    back: dict[int, list[Image.Transpose]] = {
        2: [Image.Transpose.FLIP_LEFT_RIGHT],
        3: [Image.Transpose.ROTATE_180],
        4: [Image.Transpose.FLIP_TOP_BOTTOM],
        5: [Image.Transpose.TRANSPOSE],
        6: [Image.Transpose.ROTATE_90],
        7: [Image.Transpose.TRANSVERSE],
        8: [Image.Transpose.ROTATE_270],
    }
    for orientation, turns in back.items():
        stored = drawn(7)
        for turn in turns:
            stored = stored.transpose(turn)
        exif = Image.Exif()
        exif[0x0112] = orientation
        file = tmp_path / f"{orientation}.{ending}"
        stored.convert("RGB").save(file, exif=exif, quality=90)
        assert distance(read(file).pixels, clean(7)) < 4, orientation


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "tif"])
def test_of_several_frames_the_first_is_taken_and_told(tmp_path: Path, ending: str) -> None:
    file = tmp_path / f"many.{ending}"
    drawn(3).save(file, save_all=True, append_images=[drawn(4), drawn(5)], lossless=True)
    found = read(file)
    assert distance(found.pixels, clean(3)) < 4
    assert found.notes == (f"{file} has 3 frames or pages: the first is taken",)


def test_a_telephones_second_picture_is_no_frame(tmp_path: Path) -> None:
    file = tmp_path / "phone.mpo"
    drawn(3).convert("RGB").save(file, save_all=True, append_images=[drawn(4).convert("RGB")])
    assert read(file).notes == ()


@pytest.mark.parametrize("dark", [False, True])
def test_sides_keep_their_ratio_and_the_ground_fills_the_rest(tmp_path: Path, dark: bool) -> None:  # noqa: FBT001
    for number, size in enumerate(((420, 280), (280, 420))):
        wide = Image.new("L", size, 0)
        wide.paste(drawn(5), ((size[0] - 280) // 2, (size[1] - 280) // 2))
        square = Image.new("L", (420, 420), 0)
        square.paste(drawn(5), (70, 70))
        file = tmp_path / f"{number}.png"
        (ImageOps.invert(wide) if dark else wide).save(file)
        found = read(file, invert=dark)
        # 280 * 28 / 420 is 18.7 pixels, of which 19 are made.
        assert distance(found.pixels, square.resize((28, 28), Image.Resampling.BOX)) < 8
        assert found.notes == (f"{file} has {size[0]}x{size[1]} pixels, the model's images 28x28: {KEPT}",)
    (_, crop) = read(save(Image.new("L", (4000, 280), 0), drawn(5), tmp_path / "long.png")).notes
    assert "crop it so that it fills the picture" in crop


def save(ground: Image.Image, ink: Image.Image, file: Path) -> Path:
    ground.paste(ink, (9, 0))
    ground.save(file)
    return file


def test_a_small_digit_on_a_page_is_told(tmp_path: Path) -> None:
    for ground, ink in ((0, drawn(8)), (255, ImageOps.invert(drawn(8)))):
        file = save(Image.new("L", (1400, 1400), ground), ink, tmp_path / f"{ground}.png")
        note = read(file, invert=ground == 255).notes
        assert note == (f"what {file} shows fills 16% of its side: crop it so that it fills the picture",)


def test_shaded_paper_is_dark_on_light(tmp_path: Path) -> None:
    ink = values(drawn(4)) / 255
    for number, bright in enumerate((200, 140)):
        shade = bright * (1 - 0.25 * np.linspace(0, 1, SIDE)[None, :])
        noise = np.random.default_rng(number).normal(0, 4, ink.shape)
        file = tmp_path / f"{number}.jpg"
        of(np.clip(shade * (1 - 0.8 * ink) + noise, 0, 255).astype(np.uint8)).save(file, quality=80)
        assert read(file).notes == (f"{file} is dark on light, the data set light on dark: --invert swaps them",)
        (note,) = read(file, invert=True).notes
        assert note.startswith(f"the ground of {file} is grey")
        assert "--even takes it for black" in note


@pytest.mark.parametrize("bright", [230, 200, 140])
@pytest.mark.parametrize("shadow", [0.0, 0.25, 0.5])
def test_a_photos_ground_is_evened_out_where_that_is_asked(tmp_path: Path, bright: int, shadow: float) -> None:
    across = np.linspace(0, 1, SIDE)
    for digit in range(10):
        ink = values(drawn(digit)) / 255
        shade = bright * (1 - shadow * (across[None, :] + across[:, None]) / 2)
        noise = np.random.default_rng(digit).normal(0, 4, ink.shape)
        file = tmp_path / f"{digit}.jpg"
        of(np.clip(shade * (1 - 0.8 * ink) + noise, 0, 255).astype(np.uint8)).save(file, quality=80)
        found = read_picture(file, MODEL, invert=True, mean=33, even=True)
        assert found.notes == ()
        assert distance(found.pixels, clean(digit)) < EVENED


def test_a_light_data_set_wants_dark_on_light(tmp_path: Path) -> None:
    drawn(2).save(tmp_path / "two.png")
    found = read_picture(tmp_path / "two.png", MODEL, invert=False, mean=220)
    assert found.notes[0].endswith("two.png is light on dark, the data set dark on light: --invert swaps them")
    assert read_picture(tmp_path / "two.png", MODEL, invert=True, mean=220).notes == ()


BLANKS: dict[str, Image.Image] = {
    "white": Image.new("L", (50, 50), 255),
    "transparent": Image.new("RGBA", (50, 50), (9, 99, 9, 0)),
    "faint": Image.fromarray(np.random.default_rng(0).integers(230, 250, (28, 28), np.uint8)),
    "bytes in 16 bits": of(np.asarray(drawn(3)).astype(np.uint16)),
    "ink that fills it": Image.new("RGBA", (50, 50), (0, 0, 0, 254)),
}


@pytest.mark.parametrize("kind", BLANKS)
def test_a_picture_without_contrast_is_told(tmp_path: Path, kind: str) -> None:
    BLANKS[kind].save(tmp_path / "blank.png")
    (note,) = read(tmp_path / "blank.png").notes
    assert "blank.png has almost no contrast: the model sees levels " in note


def test_images_of_a_model_come_back_as_they_are(tmp_path: Path) -> None:
    generator = np.random.default_rng(3)
    for shape in ((9, 16, 1), (16, 9, 1), (32, 32, 3), (5, 7, 3), (1, 40, 1)):
        pixels = generator.integers(0, 256, shape, np.uint8)
        image = of(pixels[:, :, 0] if shape[2] == 1 else pixels)
        for factor in (1, 10):
            file = tmp_path / f"{factor}.png"
            image.resize((shape[1] * factor, shape[0] * factor), Image.Resampling.NEAREST).save(file)
            found = read(file, shape)
            np.testing.assert_array_equal(found.pixels, pixels)
            assert not any("ratio" in note for note in found.notes)


def test_colours_are_kept_where_the_model_takes_them(tmp_path: Path) -> None:
    image = Image.new("RGB", (64, 64), (200, 30, 10))
    image.paste((10, 20, 250), (0, 20, 64, 64))
    image.save(tmp_path / "colours.png")
    found = read(tmp_path / "colours.png", (32, 32, 3))
    np.testing.assert_array_equal(found.pixels[[0, 31], 0], [(200, 30, 10), (10, 20, 250)])
    grey = read(tmp_path / "colours.png", (32, 32, 1))
    np.testing.assert_array_equal(grey.pixels[[0, 31], 0, 0], [79, 43])
    drawn(1).save(tmp_path / "grey.png")
    three = read(tmp_path / "grey.png", (28, 28, 3)).pixels
    for channel in range(3):
        np.testing.assert_array_equal(three[:, :, [channel]], clean(1))
    for channels in (2, 4):
        with pytest.raises(
            InvalidArgumentError, match=rf"grey\.png: the model takes images of 28x28x{channels}; a pic"
        ):
            read(tmp_path / "grey.png", (28, 28, channels))


def png_of(width: int, height: int) -> bytes:
    """Gives the beginning of a PNG that says it is so large."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    start = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))
    return start + struct.pack(">I", 50) + b"IDAT" + bytes(50)


def whole(ending: str) -> Callable[[Path], bytes]:
    def content(folder: Path) -> bytes:
        of(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)).save(folder / f"whole.{ending}")
        return (folder / f"whole.{ending}").read_bytes()

    return content


WRONG: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "text": (lambda _: b"not a picture", "it is no picture that can be read; PNG, JPEG,"),
    "an HTML page": (lambda _: b"<!DOCTYPE html><html>", "it is no picture that can be read; PNG, JPEG,"),
    "nothing": (lambda _: b"", "the file is empty; PNG, JPEG,"),
    "a cut PNG": (lambda folder: whole("png")(folder)[:2000], "the picture is cut or damaged: "),
    "a cut JPEG": (lambda folder: whole("jpg")(folder)[:1500], "the picture is cut or damaged: "),
    "a cut TIFF": (lambda folder: whole("tif")(folder)[:500], "the picture is cut or damaged: "),
    "a cut BMP": (lambda folder: whole("bmp")(folder)[:2000], "the picture is cut or damaged: "),
    "a bomb": (lambda _: png_of(100_000, 100_000), r"the picture is too large: .*10000000000 pixels"),
    "a drawing": (
        lambda _: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n",
        r"it is a drawing \(EPS\); save it as PNG",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_file_that_is_no_whole_picture_is_named(tmp_path: Path, kind: str) -> None:
    make, told = WRONG[kind]
    (tmp_path / "seven.png").write_bytes(make(tmp_path))
    with pytest.raises(InvalidArgumentError, match=rf"seven\.png: ({told})") as raised:
        read(tmp_path / "seven.png")
    assert raised.value.field == str(tmp_path / "seven.png")


def test_no_bytes_do_worse_than_an_error(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for ending in ("png", "gif", "tif", "jpg", "webp"):
        content = bytearray(whole(ending)(tmp_path))
        for _ in range(20):
            damaged = content.copy()
            for position in generator.integers(0, min(len(content), 400), 3):
                damaged[position] = generator.integers(256)
            (tmp_path / "seven.png").write_bytes(damaged)
            try:
                assert read(tmp_path / "seven.png").pixels.shape == MODEL
            except InvalidArgumentError as error:
                assert "seven.png: " in str(error)  # noqa: PT017 - either outcome is right


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        (np.linspace(-1, 1, 16), "from -1 to 1; expected 0 to 1, 0 to 255 or 0 to 65535"),
        (np.linspace(0, 1e6, 16), r"from 0 to 1e\+06; expected"),
        (np.array([0, np.nan] * 8), "from nan to nan; expected"),
    ],
)
def test_numbers_of_an_unknown_range_are_refused(tmp_path: Path, numbers: NDArray[Any], told: str) -> None:
    of(numbers.astype(np.float32).reshape(4, 4)).save(tmp_path / "scan.tif")
    with pytest.raises(InvalidArgumentError, match=rf"scan\.tif: its numbers lie {told}"):
        read(tmp_path / "scan.tif")


def test_a_range_that_was_found_is_told(tmp_path: Path) -> None:
    of((values(drawn(3)) / 510).astype(np.float32)).save(tmp_path / "scan.tif")
    (note,) = read(tmp_path / "scan.tif").notes
    assert note.endswith("scan.tif has numbers from 0 to 0.5: taken as 0 to 1")


def test_what_is_not_there_is_told_in_plain_words(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"nothere\.png: there is no such file$"):
        read(tmp_path / "nothere.png")
    with pytest.raises(InvalidArgumentError, match="it is a folder; expected a picture"):
        read(tmp_path)
