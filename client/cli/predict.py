"""`handgrad predict`: what a model takes images for."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
from numpy.typing import NDArray

from handgrad.client.cli import events, options
from handgrad.client.cli.output import Output
from handgrad.client.client import Client, Prediction
from handgrad.client.errors import InvalidArgumentError
from handgrad.client.signature import takes
from handgrad.client.text import printable
from handgrad.v1 import signature_pb2, tensor_pb2

SHOWN_CLASSES = 3
_HIGHEST_BYTE: Final = 255


@dataclass(frozen=True)
class Named:
    """An image as the model takes it, and what a person calls it."""

    name: str
    numbers: NDArray[Any]


@click.command()
@click.argument("model")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--index", "indices", type=int, multiple=True, metavar="N", help="The Nth test image, from 0.")
@click.option("--invert", is_flag=True, help="Swap black and white: MNIST's digits are white on black.")
@click.option("--even", is_flag=True, help="Even out the ground of a photo, and stretch its contrast.")
@click.option(
    "--shape",
    type=options.Shape(),
    metavar="RxC[x3]",
    help="Rows, columns and channels of a picture, where the model knows only how many numbers it takes.",
)
@options.data
@options.version
@options.server_needed
@options.as_json
def predict(
    *,
    model: str,
    files: tuple[Path, ...],
    indices: tuple[int, ...],
    invert: bool,
    even: bool,
    shape: tuple[int, int, int] | None,
    data: Path | None,
    version: int,
    server: str | None,
    json_lines: bool,
) -> None:
    """Tell what MODEL takes images for: FILES (PNG or any other kind), or images of the test split.

    A picture is brought to the shape that the model takes, its sides in their ratio; the digit or thing should fill it.
    """
    if not files and not indices:
        raise click.UsageError("name an image: FILE ..., or --index N")
    output = Output(json_lines=json_lines)
    with options.connect_to_server(server) as hg:
        found = hg.get_version(model, version)
        named = [_picture(file, found.signature, shape, output, invert=invert, even=even) for file in files]
        if named and found.signature.inputs.data_type == tensor_pb2.DATA_TYPE_FLOAT32:
            output.note(f"pictures are brought to the model's scale, as it takes {takes(found.signature)}")
        if named:
            _tell(hg, model, found.version, named, output)
        if indices:
            dataset = hg.upload_dataset(data).dataset if data else "mnist"
            examples, _ = hg.get_examples(dataset, indices)
            tests = [Named(f"test image {index}", example) for index, example in zip(indices, examples, strict=True)]
            _tell(hg, model, found.version, tests, output)


def _tell(hg: Client, model: str, version: int, named: list[Named], output: Output) -> None:
    found = hg.predict(model, np.stack([each.numbers for each in named]), version)
    for note in found.notes:
        output.note(note)
    for index, each in enumerate(named):
        output.say(f"{printable(each.name)}: {_named(found, int(found.labels[index]))}   {_best(found, index)}")
        output.emit(events.prediction(each.name, found, index))


def _best(found: Prediction, index: int) -> str:
    """Returns the classes with the largest outputs, in words."""
    outputs = found.outputs[index]
    best = np.argsort(-outputs)[:SHOWN_CLASSES].tolist()
    if found.kind == "probabilities":
        return "  ".join(f"{_named(found, label)} {outputs[label]:.1%}" for label in best)
    return "scores: " + "  ".join(f"{_named(found, label)} {outputs[label]:.3g}" for label in best)


def _named(found: Prediction, label: int) -> str:
    return found.class_name(label) or str(label)


def _picture(
    file: Path,
    signature: signature_pb2.Signature,
    shape: tuple[int, int, int] | None,
    output: Output,
    *,
    invert: bool,
    even: bool,
) -> Named:
    """Reads a picture as the model takes it, and says what a person should know of it.

    Raises:
        InvalidArgumentError: It is no picture, or the model takes none.
    """
    # Imported here, for the other commands need none of it.
    from handgrad.client.pictures import read_picture  # noqa: PLC0415

    inputs = signature.inputs
    scale = _scale(inputs)
    if scale is None:
        raise InvalidArgumentError(
            f"{file}: the model takes {takes(signature)}, and how these were made of a picture's 0 to 255 is not "
            "known; ask Client.predict with an array",
            str(file),
        )
    mean = inputs.mean * _HIGHEST_BYTE / scale if inputs.HasField("mean") else None
    picture = read_picture(file, _shape_of(inputs, shape), invert=invert, even=even, mean=mean)
    for note in picture.notes:
        output.note(note)
    if inputs.data_type != tensor_pb2.DATA_TYPE_FLOAT32:
        return Named(str(file), picture.pixels)
    return Named(str(file), (picture.pixels * np.float32(scale / _HIGHEST_BYTE)).astype(np.float32))


def _scale(inputs: signature_pb2.InputSignature) -> float | None:
    """Returns what white is to the model: 255 in bytes; None where that cannot be known."""
    if inputs.data_type != tensor_pb2.DATA_TYPE_FLOAT32:
        return _HIGHEST_BYTE
    if not inputs.HasField("low") or inputs.low < 0:
        return None
    if 1 / 2 < inputs.high <= 1:
        return 1.0
    return _HIGHEST_BYTE if _HIGHEST_BYTE / 2 < inputs.high <= _HIGHEST_BYTE else None


def _shape_of(inputs: signature_pb2.InputSignature, asked: tuple[int, int, int] | None) -> tuple[int, int, int]:
    """Returns the rows, columns and channels of the model's images."""
    shape = tuple(inputs.shape)
    if len(shape) == 3:
        if asked and asked != shape:
            raise InvalidArgumentError(f"--shape: the model takes {'x'.join(map(str, shape))}", "shape")
        return shape
    if asked is None:
        raise InvalidArgumentError(
            f"the model takes {shape[0]} numbers, and it is not known of which rows and columns: name them, such as "
            "--shape 28x28",
            "shape",
        )
    if np.prod(asked) != shape[0]:
        raise InvalidArgumentError(
            f"--shape: the model takes {shape[0]} numbers; {'x'.join(map(str, asked))} are {np.prod(asked)}", "shape"
        )
    return asked
