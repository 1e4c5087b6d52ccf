"""Pictures of a person's own, of any kind and size, as the images that a model takes.

Only what reads pictures imports this module, for it loads Pillow.
"""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from handgrad.client.errors import InvalidArgumentError
from handgrad.client.text import printable
from handgrad.client.upload import named_errors

MODES: Final = {1: "L", 3: "RGB"}
"""What a picture is turned into, by the channels of the model's images."""

_READABLE: Final = "PNG, JPEG, GIF, BMP, TIFF and WebP are read"
# Their readers start other programs.
_VECTORS: Final = ("EPS", "WMF", "EMF")
_WHITE: Final = 255
_FULL_16_BITS: Final = 65_535

_MIN_CONTRAST: Final = 32
_OWN_CONTRAST: Final = 64
"""Levels between what is darkest and lightest in the opaque part of a picture that has a ground of its own there."""

_ALIKE_RATIOS: Final = 1.05
_SMALL: Final = 2 / 5
_DARK_MEAN, _LIGHT_MEAN = 100, 155
_BORDER: Final = 1 / 50
_GREY: Final = 40
"""Levels that a picture's ground may lie from the data set's mean towards the ink without being told."""

_GRID: Final = 8
_GROUND_PERCENTILE: Final = 20
_GRAIN: Final = 1 / 5


@dataclass(frozen=True)
class Picture:
    """A picture as an image that a model takes.

    Attributes:
        pixels: `[rows, columns, channels]`, uint8.
        notes: What a person should know before believing the model's answer, a line each.
    """

    pixels: NDArray[np.uint8]
    notes: tuple[str, ...]


def read_picture(
    file: Path, shape: tuple[int, int, int], *, invert: bool, mean: float | None, even: bool = False
) -> Picture:
    """Reads a picture and brings it to the shape of a model's images.

    It is turned as its camera was held; what is transparent gets a ground; 16 bits and floats become bytes; its sides
    keep their ratio, and what is left of the image is filled with the colour of its border.

    Args:
        file: The picture.
        shape: Rows, columns and channels of the model's images.
        invert: Whether to swap black and white.
        even: Whether to take its ground, the paper of a photo, for black where it is dark and for white where it is
            light, wherever shadows lie on it, and to stretch its contrast.
        mean: Mean of the bytes that the model was trained on, from 0 to 255; None where it is not known.

    Raises:
        InvalidArgumentError: It is no picture, or damaged, or too large, or its numbers have an unknown range; or the
            model's images are no pictures.
        OSError: The file is not there, or cannot be read.
    """
    name = printable(str(file))
    rows, columns, channels = shape
    if channels not in MODES or min(rows, columns) < 1:
        raise InvalidArgumentError(
            f"{name}: the model takes images of {rows}x{columns}x{channels}; a picture has 1 channel (grey) or 3 "
            "(red, green, blue)",
            str(file),
        )
    image, notes = _read(file, name)
    image = image.convert(MODES[channels])
    if invert:
        image = ImageOps.invert(image)
    if even:
        image = _evened(image)
    ground = _ground(image)
    if max(image.width * rows, image.height * columns) > _ALIKE_RATIOS * min(
        image.width * rows, image.height * columns
    ):
        notes.append(
            f"{name} has {image.width}x{image.height} pixels, the model's images {columns}x{rows}: its sides keep "
            "their ratio, and the rest is filled with its border's colour"
        )
    pixels = np.asarray(_fitted(image, columns, rows, ground), np.uint8).reshape(shape)
    notes += _doubts(name, image, pixels, ground, invert=invert, mean=mean)
    return Picture(pixels, tuple(notes))


def _read(file: Path, name: str) -> tuple[Image.Image, list[str]]:
    """Reads a file as a picture of bytes without transparency, grey or in colours, and notes what was left out."""
    with named_errors(file):
        if file.is_dir():
            raise InvalidArgumentError(f"{name}: it is a folder; expected a picture", str(file))
        if not file.exists():
            raise FileNotFoundError(f"{name}: there is no such file")
        # Opened here, so that only the system's own errors are told as such.
        stream = file.open("rb")
    try:
        with stream, warnings.catch_warnings():
            # Of strange metadata, and of pictures that are large but below the bound.
            warnings.simplefilter("ignore")
            with Image.open(stream) as image:
                return _upright(image, name, str(file))
    except InvalidArgumentError:
        raise
    except UnidentifiedImageError as error:
        found = "the file is empty" if not file.stat().st_size else "it is no picture that can be read"
        raise InvalidArgumentError(f"{name}: {found}; {_READABLE}", str(file)) from error
    except Image.DecompressionBombError as error:
        raise InvalidArgumentError(f"{name}: the picture is too large: {error}", str(file)) from error
    except Exception as error:
        # Of any kind: Pillow's readers raise a dozen of them at damaged bytes, and none is a fault of ours.
        raise InvalidArgumentError(f"{name}: the picture is cut or damaged: {error}", str(file)) from error


def _upright(image: Image.Image, name: str, field: str) -> tuple[Image.Image, list[str]]:
    notes: list[str] = []
    if image.format in _VECTORS:
        raise InvalidArgumentError(f"{name}: it is a drawing ({image.format}); save it as PNG. {_READABLE}", field)
    frames = getattr(image, "n_frames", 1)
    # A telephone's MPO has the picture first, and a preview or depths after it.
    if frames > 1 and image.format != "MPO":
        notes.append(f"{name} has {frames} frames or pages: the first is taken")
    image.load()
    # Before all else: its turn is told by what the next steps drop.
    turned = ImageOps.exif_transpose(image)
    if turned.mode.startswith("I;16") or (turned.mode == "I" and image.format != "TIFF"):
        return _composed(_of_numbers(turned, np.asarray(turned) / _FULL_16_BITS)), notes
    if turned.mode in {"I", "F"}:
        numbers = np.asarray(turned, np.float64)
        full = _full_of(numbers, name, field, is_float=turned.mode == "F")
        notes.append(f"{name} has numbers from {numbers.min():g} to {numbers.max():g}: taken as 0 to {full}")
        return _composed(_of_numbers(turned, numbers / full)), notes
    return _composed(turned), notes


def _full_of(numbers: NDArray[np.float64], name: str, field: str, *, is_float: bool) -> int:
    """Gives what stands for white among numbers whose format does not say it, by what there is."""
    if np.isfinite(numbers).all() and numbers.min() >= 0:
        for full in ((1,) if is_float else ()) + (_WHITE, _FULL_16_BITS):
            if numbers.max() <= full:
                return full
    raise InvalidArgumentError(
        f"{name}: its numbers lie from {numbers.min():g} to {numbers.max():g}; expected {'0 to 1, ' * is_float}0 to "
        "255 or 0 to 65535: scale them, or save it as an 8-bit PNG",
        field,
    )


def _of_numbers(image: Image.Image, scaled: NDArray[np.float64]) -> Image.Image:
    """Gives numbers from 0 to 1 as a grey picture of bytes; one of the image's own numbers may mean transparent."""
    grey = Image.fromarray(np.rint(_WHITE * scaled).astype(np.uint8))
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        grey.putalpha(Image.fromarray(np.where(np.asarray(image) == clear, 0, _WHITE).astype(np.uint8)))
    return grey


def _composed(image: Image.Image) -> Image.Image:
    """Puts what is transparent onto a ground."""
    if image.mode in {"La", "RGBa"}:
        image = image.convert(image.mode.upper())
    if image.mode in {"1", "L"} and "transparency" not in image.info:
        return image.convert("L")
    if image.mode not in {"LA", "PA", "RGBA"} and "transparency" not in image.info:
        return image.convert("RGB")
    rgba = image.convert("RGBA")
    alpha = rgba.getchannel("A")
    if alpha.getextrema()[0] == _WHITE:
        return rgba.convert("RGB")
    colour = (*_ground_of_transparent(rgba.convert("RGB"), np.asarray(alpha, np.float32) / _WHITE), _WHITE)
    return Image.alpha_composite(Image.new("RGBA", rgba.size, colour), rgba).convert("RGB")


def _ground_of_transparent(image: Image.Image, alpha: NDArray[Any]) -> tuple[int, ...]:
    """Gives the colour that belongs behind what is transparent."""
    grey = np.asarray(image.convert("L"))
    opaque = alpha > 0.5
    # A picture with a ground of its own, of which only corners or an edge are transparent, goes on with that ground.
    if opaque.mean() > 0.5 and int(grey[opaque].max()) - int(grey[opaque].min()) >= _OWN_CONTRAST:
        return tuple(int(level) for level in np.median(np.asarray(image)[opaque], axis=0))
    # Otherwise what is opaque is ink. Programs show it over white, but light ink was drawn to be seen over black: over
    # white it would be gone. What a program left behind in its transparent pixels counts for nothing.
    ink = float((grey * alpha).sum() / max(float(alpha.sum()), 1e-9))
    return (0, 0, 0) if ink > _WHITE / 2 else (_WHITE,) * 3


def _ground(image: Image.Image) -> tuple[int, ...]:
    """Gives the median colour of a picture's border."""
    pixels = np.asarray(image).reshape(image.height, image.width, -1)
    wide = max(1, round(min(image.size) * _BORDER))
    edges = (pixels[:wide], pixels[-wide:], pixels[:, :wide], pixels[:, -wide:])
    border = np.concatenate([edge.reshape(-1, pixels.shape[2]) for edge in edges])
    return tuple(int(level) for level in np.median(border, axis=0))


def _is_light(image: Image.Image, ground: tuple[int, ...]) -> tuple[bool, int]:
    """Returns whether a picture's ground is lighter than its ink, and the ground's grey level."""
    grey = np.asarray(image.convert("L"), np.int16)
    level = int(np.asarray(Image.new(image.mode, (1, 1), ground).convert("L")).item())
    return bool(2 * level > grey.min() + grey.max()), level


def _evened(image: Image.Image) -> Image.Image:
    """Takes the light that lies on a picture's ground from it, and stretches what is left to all levels.

    The ground is looked for in a grid of blocks, in each of which it is what is lightest on a light ground, or darkest
    on a dark one; between their middles it changes smoothly.
    """
    is_light, _ = _is_light(image, _ground(image))
    pixels = np.asarray(image, np.float32).reshape(image.height, image.width, -1)
    ink_above = _WHITE - pixels if is_light else pixels
    grid = (min(_GRID, image.height), min(_GRID, image.width))
    blocks = [np.array_split(rows, grid[1], axis=1) for rows in np.array_split(ink_above, grid[0], axis=0)]
    darkest = np.array([[np.percentile(block, _GROUND_PERCENTILE, axis=(0, 1)) for block in row] for row in blocks])
    # A block that ink fills is taken for what lies around it.
    padded = np.pad(darkest, ((1, 1), (1, 1), (0, 0)), mode="edge")
    around = [padded[r : r + grid[0], c : c + grid[1]] for r in range(3) for c in range(3)]
    ground = np.min(around, axis=0).astype(np.float32)
    smooth = np.stack(
        [
            np.asarray(Image.fromarray(each).resize(image.size, Image.Resampling.BICUBIC))
            for each in ground.transpose(2, 0, 1)
        ],
        axis=-1,
    )
    ink = np.maximum(ink_above - smooth, 0)
    # What is left of the paper's grain and of the light's edges is no ink.
    ink = np.maximum(ink - _GRAIN * ink.max(), 0)
    stretched = _WHITE * np.minimum(ink / max(float(np.percentile(ink[ink > 0], 75)) if ink.any() else 1.0, 1.0), 1)
    found = np.rint(_WHITE - stretched if is_light else stretched).astype(np.uint8)
    return Image.fromarray(found.squeeze(-1) if found.shape[-1] == 1 else found)


def _fitted(image: Image.Image, columns: int, rows: int, ground: tuple[int, ...]) -> Image.Image:
    """Gives a picture in the model's size, its sides in their ratio, in the middle of its ground."""
    scale = min(columns / image.width, rows / image.height)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    if size != image.size:
        # The mean of what becomes a pixel, which brings back a picture that was enlarged; where less than two pixels
        # become one, that would be a ragged choice.
        image = image.resize(size, Image.Resampling.BOX if scale <= 1 / 2 else Image.Resampling.LANCZOS)
    if size == (columns, rows):
        return image
    fitted = Image.new(image.mode, (columns, rows), ground)
    fitted.paste(image, ((columns - size[0]) // 2, (rows - size[1]) // 2))
    return fitted


def _doubts(
    name: str,
    image: Image.Image,
    pixels: NDArray[np.uint8],
    ground: tuple[int, ...],
    *,
    invert: bool,
    mean: float | None,
) -> list[str]:
    """Says why a model's answer may be worth little: a picture unlike those it was trained on."""
    if np.ptp(pixels, axis=(0, 1)).max() < _MIN_CONTRAST:
        seen = f"levels {pixels.min()} to {pixels.max()} of {_WHITE}"
        return [f"{name} has almost no contrast: the model sees {seen}"]
    notes: list[str] = []
    grey = np.asarray(image.convert("L"), np.int16)
    is_light, level = _is_light(image, ground)
    if is_light != (2 * int(np.median(grey)) > int(grey.min()) + int(grey.max())):
        notes.append(f"the border of {name} and what it frames differ: crop off the frame, or what the paper lies on")
        return notes
    if mean is not None and (mean < _DARK_MEAN if is_light else mean > _LIGHT_MEAN):
        found, other = ("dark on light", "light on dark") if is_light else ("light on dark", "dark on light")
        notes.append(
            f"{name} is {found} after --invert, the data set {other}: leave --invert out"
            if invert
            else f"{name} is {found}, the data set {other}: --invert swaps them"
        )
    elif mean is not None and (level < mean - _GREY if is_light else level > mean + _GREY):
        notes.append(
            f"the ground of {name} is grey, level {level} of {_WHITE}, unlike the data set's: --even takes it for "
            f"{'white' if is_light else 'black'}, and shadows off it"
        )
    if (filled := _filled(grey, level, pixels.shape)) < _SMALL:
        notes.append(f"what {name} shows fills {filled:.0%} of its side: crop it so that it fills the picture")
    return notes


def _filled(grey: NDArray[Any], ground: int, shape: tuple[int, ...]) -> float:
    """Gives the part of the model's image, along a side, that the box around the ink takes."""
    distance = np.abs(grey - ground)
    ink = 2 * distance > distance.max()
    height, width = (float(np.ptp(np.flatnonzero(ink.any(axis=axis)))) + 1 for axis in (1, 0))
    scale = min(shape[1] / grey.shape[1], shape[0] / grey.shape[0])
    return float(max(width * scale / shape[1], height * scale / shape[0]))
