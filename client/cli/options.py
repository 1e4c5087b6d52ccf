"""Options and kinds of values that several commands share."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np

from handgrad.client.cli.output import Output
from handgrad.client.client import Client, connect
from handgrad.client.errors import InvalidArgumentError
from handgrad.client.files import check_place
from handgrad.client.params import check_ending
from handgrad.client.plot import check_plot
from handgrad.client.signature import Transform

SERVER_VARIABLE = "HANDGRAD_SERVER"
MAX_VALUES = 1024

server = click.option(
    "--server",
    envvar=SERVER_VARIABLE,
    metavar="HOST:PORT",
    help=f"The server to call. Default: ${SERVER_VARIABLE}, otherwise a private one for as long as the command runs.",
)
server_needed = click.option(
    "--server", envvar=SERVER_VARIABLE, metavar="HOST:PORT", help=f"The server to call. Default: ${SERVER_VARIABLE}."
)
as_json = click.option("--json", "json_lines", is_flag=True, help="JSON Lines on stdout, people's text on stderr.")
transform = click.option(
    "--transform",
    type=click.Choice(["identity", "unit"]),
    help="How numbers become inputs, for a model that is made, or params whose file does not say it: as they are, or "
    "bytes divided by 255.",
)
data = click.option(
    "--data",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="A folder with MNIST's or CIFAR-10's files, gzipped or not, or an .npz file. Default: the MNIST that ships.",
)
_SETTINGS: tuple[tuple[str, Any, str], ...] = (
    ("--batch-size", int, "Images in a mini-batch."),
    ("--epochs", int, "Passes over the training images."),
    ("--learning-rate", float, "Step size."),
    ("--seed", int, "Of the initial params, the order of images, and what else is random."),
    ("--optimizer", str, "sgd, momentum, nesterov, adagrad, rmsprop, adadelta, adam, adamw or muon."),
    ("--momentum", float, "Part of each step that the next repeats; Adam's beta 1."),
    ("--beta2", float, "Part of the mean of squares that stays."),
    ("--epsilon", float, "Added to what the optimizer divides by."),
    ("--weight-decay", float, "Of the squares of all weights in the loss; of the step for adamw and muon."),
    ("--clip-norm", float, "Largest norm of all gradients together."),
    ("--schedule", str, "constant, step, exponential or cosine."),
    ("--schedule-factor", float, "What the learning rate is multiplied by, or a cosine's end."),
    ("--schedule-epochs", float, "Epochs from one multiplication to the next."),
    ("--warmup-epochs", float, "Epochs in which the learning rate rises."),
    ("--loss", str, "softmax_cross_entropy or squared_error."),
    ("--label-smoothing", float, "Part of a target that all classes share."),
    ("--crop", int, "Pixels that images are moved at most; mirrored pixels come in."),
    ("--shift", int, "Pixels that images are moved at most; zeros come in."),
    ("--validation-images", int, "Training images that are kept for validation after each epoch."),
    ("--patience", int, "Epochs without a smaller validation loss after which training stops."),
)


def settings(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the settings of a run, each with the preset's value where it is not given."""
    return _with_settings(command, lambda kind: kind, "")


def settings_of_many(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the settings of a sweep, each with as many values as are given."""
    return _with_settings(command, Values, ",...")


def _with_settings(command: Callable[..., Any], of: Callable[[type[Any]], Any], more: str) -> Callable[..., Any]:
    for name, kind, told in reversed(_SETTINGS):
        metavar = {int: "N", float: "X", str: "NAME"}[kind] + more
        command = click.option(name, type=of(kind), metavar=metavar, help=told)(command)
    command = click.option("--flip/--no-flip", default=None, help="Mirror half of the images.")(command)
    told = "Publish the params of the epoch with the smallest validation loss last."
    return click.option("--keep-best/--no-keep-best", default=None, help=told)(command)


version = click.option("--version", "version", default=0, help="The version of the params. Default: the newest.")


class OutputFile(click.ParamType[Path]):
    """A file that will be written: that it can be is checked before the work, not after it."""

    name = "file"

    def __init__(self, check: Callable[[Path], None]) -> None:
        """Takes what else to check: a function that raises InvalidArgumentError."""
        self._check = check

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Path:
        """Gives the path, or fails."""
        path = Path(value)
        try:
            self._check(path)
            check_place(path)
        except InvalidArgumentError as error:
            self.fail(str(error), param, ctx)
        return path


class Values(click.ParamType[tuple[Any, ...]]):
    """Values of a setting: "0.1", "0.1,0.2", "1..8" for all whole numbers, "0.001..0.1:log:16", "0..1:linear:5"."""

    name = "values"

    def __init__(self, kind: type[Any]) -> None:
        """Takes what each value is."""
        self._kind = kind

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        """Gives the values, or fails."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(found for part in str(value).split(",") for found in self._values(part))
        except (ValueError, OverflowError):
            ranges = "" if self._kind is str else ", FIRST..LAST:log:COUNT, FIRST..LAST:linear:COUNT"
            ranges += ", FIRST..LAST" if self._kind is int else ""
            self.fail(f"values with commas between them{ranges}; got {value!r}", param, ctx)

    def _values(self, part: str) -> list[Any]:
        first, dots, rest = part.partition("..")
        if not dots or self._kind is str:
            return [self._kind(part)]
        last, _, spacing = rest.partition(":")
        if not spacing and self._kind is int:
            found = list(range(int(first), int(last) + 1))
        else:
            kind, _, count = spacing.partition(":")
            if kind not in ("log", "linear") or not 2 <= int(count) <= MAX_VALUES:
                raise ValueError(spacing)
            space = np.geomspace if kind == "log" else np.linspace
            drawn = space(float(first), float(last), int(count)).tolist()
            # Twelve digits, so that 0.01 is 0.01 wherever it stands.
            found = [self._kind(round(x) if self._kind is int else float(f"{x:.12g}")) for x in drawn]
        if not found or len(found) > MAX_VALUES:
            raise ValueError(part)
        return found


class Networks(click.ParamType[tuple[tuple[int, ...], ...]]):
    """Hidden layers of several networks: "50,100" for two of one layer each, "300x100" for one of two, "none"."""

    name = "networks"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Gives the widths of each, or fails."""
        if isinstance(value, tuple):
            return value
        try:
            parts = str(value).split(",")
            return tuple(() if part == "none" else tuple(int(width) for width in part.split("x")) for part in parts)
        except ValueError:
            self.fail(
                f"widths with commas between networks, such as 50,100,300x100, or none; got {value!r}", param, ctx
            )


class Widths(click.ParamType[tuple[int, ...]]):
    """Widths of hidden layers: "100", "300,100", or "none"."""

    name = "widths"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, ...]:
        """Gives the widths, or fails."""
        if isinstance(value, tuple):
            return value
        if value == "none":
            return ()
        try:
            return tuple(int(width) for width in str(value).split(","))
        except ValueError:
            self.fail(
                f"widths are numbers with commas between them, such as 300,100, or none; got {value!r}", param, ctx
            )


class Shape(click.ParamType[tuple[int, int, int]]):
    """Rows, columns and channels of an image: "28x28", "32x32x3"."""

    name = "shape"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int, int]:
        """Returns the three lengths, or fails."""
        if isinstance(value, tuple):
            return value
        try:
            rows, columns, *channels = (int(length) for length in str(value).split("x"))
            (depth,) = channels or [1]
        except ValueError:
            self.fail(f"rows and columns, such as 28x28, and channels, such as 32x32x3; got {value!r}", param, ctx)
        if min(rows, columns, depth) < 1:
            self.fail(f"lengths of 1 or more; got {value!r}", param, ctx)
        return rows, columns, depth


parameter_file = OutputFile(check_ending)
plot_file = OutputFile(check_plot)


def connect_to_server(address: str | None) -> Client:
    """Connects to the server that a command was given; a usage error where it was given none."""
    if not address:
        raise click.UsageError(f"name the server: --server HOST:PORT, or the variable {SERVER_VARIABLE}")
    return connect(address)


def upload_params(
    hg: Client,
    output: Output,
    file: Path,
    model: str = "",
    *,
    network: Path | None = None,
    dataset: str = "",
    transform: Transform | None = None,
) -> str:
    """Uploads a parameter file, and says what was assumed; returns the name of its model.

    Args:
        hg: The client.
        output: Where it is said.
        file: The file.
        model: The model that it is for; empty for a new one.
        network: The network that its params are of, where it is given.
        dataset: Data set whose examples that network takes, where it does not say it; "mnist" if empty.
        transform: From numbers to inputs, where the file does not say it.
    """
    shape = hg.get_dataset(dataset or "mnist").image_shape if network else ()
    uploaded = hg.upload_params(file, model, network=network, input_shape=shape, transform=transform)
    for note in uploaded.notes:
        output.note(f"{file.name}: {note}")
    return uploaded.params_version.model
