"""`handgrad predict`: what a model takes images for."""

import gzip
import math
from importlib import resources
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from handgrad.client.cli import events, options
from handgrad.client.cli.output import Output
from handgrad.client.client import Client
from handgrad.client.errors import InvalidArgumentError
from handgrad.client.network import inputs_of
from handgrad.client.upload import FORMATS

_HEADER_BYTES = 16
SHOWN_CLASSES = 3


@click.command()
@click.argument("model")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--index", "indices", type=int, multiple=True, metavar="N", help="The Nth test image, from 0.")
@click.option("--invert", is_flag=True, help="Swap black and white: MNIST's digits are white on black.")
@options.data
@options.version
@options.pixels
@options.server_needed
@options.as_json
def predict(
    *,
    model: str,
    files: tuple[Path, ...],
    indices: tuple[int, ...],
    invert: bool,
    data: Path | None,
    version: int,
    pixels: Any,
    server: str | None,
    json_lines: bool,
) -> None:
    """Tell what MODEL takes images for: FILES (PNG or any other kind), or images of the test split.

    An image is turned grey and to the size that the network takes.
    """
    if not files and not indices:
        raise click.UsageError("name an image: FILE ..., or --index N")
    output = Output(json_lines=json_lines)
    with options.connect_to_server(server) as hg:
        inputs = inputs_of(hg.get_params(model, version).version.network)
        named = {str(file): _read_image(file, inputs, invert=invert) for file in files}
        tests = _test_images(data) if indices else np.empty((0, 0), np.uint8)
        for index in indices:
            if not 0 <= index < len(tests):
                raise click.BadParameter(f"from 0 to {len(tests) - 1}; got {index}", param_hint="--index")
            named[f"test image {index}"] = tests[index]
        _tell(hg, model, version, named, pixels, output)


def _tell(
    hg: Client, model: str, version: int, named: dict[str, NDArray[np.uint8]], pixels: Any, output: Output
) -> None:
    prediction = hg.predict(model, np.stack(list(named.values())), version, pixels=pixels)
    for name, label, probabilities in zip(named, prediction.labels, prediction.probabilities, strict=True):
        best = np.argsort(-probabilities)[:SHOWN_CLASSES]
        output.say(f"{name}: {label}   " + "  ".join(f"{k} {probabilities[k]:.1%}" for k in best))
        output.emit(events.prediction(name, int(label), probabilities, prediction.version))


def _read_image(file: Path, inputs: int, *, invert: bool) -> NDArray[np.uint8]:
    # Imported here, for the other commands need none of it.
    from PIL import Image, ImageOps, UnidentifiedImageError  # noqa: PLC0415

    side = math.isqrt(inputs)
    if side * side != inputs:
        raise InvalidArgumentError(f"{file}: the network takes {inputs} numbers, which is no square image", str(file))
    try:
        with Image.open(file) as image:
            grey = image.convert("L").resize((side, side))
    except (UnidentifiedImageError, Image.DecompressionBombError, SyntaxError, ValueError) as error:
        raise InvalidArgumentError(f"{file}: not an image: {error}", str(file)) from error
    return np.asarray(ImageOps.invert(grey) if invert else grey, np.uint8).reshape(-1)


def _test_images(folder: Path | None) -> NDArray[np.uint8]:
    """Reads the test images of a folder, or those that ship with the server; `[N, D]`."""
    name = FORMATS[0][2]
    if folder is None:
        content = (resources.files("handgrad.core.mnist") / f"{name}.gz").read_bytes()
    else:
        plain = folder / name
        content = plain.read_bytes() if plain.exists() else (folder / f"{name}.gz").read_bytes()
    if content[:2] == b"\x1f\x8b":
        content = gzip.decompress(content)
    count = int.from_bytes(content[4:8], "big")
    return np.frombuffer(content, np.uint8, offset=_HEADER_BYTES).reshape(count, -1)
