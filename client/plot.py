"""The plot of a run: the loss of every iteration, its running mean, the epochs' means, and the validation's losses."""

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from handgrad.client.errors import InvalidArgumentError
from handgrad.client.files import whole_file
from handgrad.client.signature import loss_axis
from handgrad.v1 import job_pb2

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from handgrad.client.sweep import Measure

ENDINGS: Final = (".png", ".svg")
_TITLES: Final = {"softmax_cross_entropy": "Cross Entropy Error", "squared_error": "Squared Error"}
MAX_WINDOW: Final = 200
"""Iterations of the running mean, at most; short runs take a twentieth of theirs."""


def check_plot(file: Path) -> None:
    """Raises InvalidArgumentError where a file's ending is not a picture's, or pictures cannot be drawn here."""
    if file.suffix not in ENDINGS:
        raise InvalidArgumentError(f"{file.name}: a plot ends in {' or '.join(ENDINGS)}", file.name)
    if importlib.util.find_spec("matplotlib") is None:
        raise InvalidArgumentError("--plot needs matplotlib: pip install 'handgrad[plot]'", "plot")


def plot_losses(
    file: str | os.PathLike[str],
    losses: NDArray[np.floating[Any]],
    epochs: Sequence[job_pb2.Epoch] = (),
    *,
    iterations_per_epoch: int,
    skip: int = 0,
    loss: str = "softmax_cross_entropy",
) -> None:
    """Draws losses against iterations, as PNG or SVG by the file's ending.

    It is told apart by shape and lightness, so that it can be read when it is printed in grey.

    Args:
        file: Where to write it.
        losses: Of the iterations after the first `skip`, `[iterations]`.
        epochs: The epochs whose means are drawn.
        iterations_per_epoch: Mini-batches of an epoch.
        skip: Iterations before the first loss.
        loss: Which loss it is, as the contract names it.

    Raises:
        InvalidArgumentError: The ending is another, or matplotlib is not installed.
        OSError: The file cannot be written.
    """
    path = Path(file)
    check_plot(path)
    # Here and not above: matplotlib takes most of a second to import.
    from matplotlib.figure import Figure  # noqa: PLC0415

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    _draw(axes, np.asarray(losses, np.float64), epochs, iterations_per_epoch, skip)
    axes.set_title(_TITLES.get(loss, loss))
    axes.set_ylabel(loss_axis(loss))
    _save(figure, path)


def plot_sweep(
    file: str | os.PathLike[str],
    curves: Sequence[Sequence[job_pb2.Epoch]],
    label: str,
    *,
    measure: "Measure",
    mean_of_seeds: bool = False,
) -> None:
    """Draws what the members of a sweep are ranked by against epochs, as PNG or SVG by the file's ending.

    Args:
        file: Where to write it.
        curves: The epochs of each member, the best member first.
        label: What tells the best member from the others.
        measure: What it is.
        mean_of_seeds: Whether members are ranked by its mean over seeds.

    Raises:
        InvalidArgumentError: The ending is another, or matplotlib is not installed.
        OSError: The file cannot be written.
    """
    path = Path(file)
    check_plot(path)
    from matplotlib.figure import Figure  # noqa: PLC0415 - as above
    from matplotlib.ticker import MaxNLocator  # noqa: PLC0415

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for place, epochs in reversed(list(enumerate(curves))):
        x = [epoch.epoch for epoch in epochs]
        y = [getattr(epoch, measure) for epoch in epochs]
        look: dict[str, Any] = {"color": "tab:blue", "linewidth": 2.2, "marker": "o", "label": f"the best: {label}"}
        if place:
            look = {"color": "0.6", "linewidth": 0.8, "marker": ".", "markersize": 3}
            look |= {"label": f"the other {len(curves) - 1}"} if place == 1 else {}
        axes.plot(x, y, **look)
    axes.set_title("Sweep, ranked by the mean over seeds" if mean_of_seeds else "Sweep")
    axes.set_xlabel("epoch")
    axes.set_ylabel(measure.replace("_", " "))
    if measure != "validation_accuracy":
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter("{x:g}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(visible=True, which="both", color="0.92")
    axes.set_axisbelow(True)
    axes.legend()
    _save(figure, path)


def _save(figure: "Figure", path: Path) -> None:
    with whole_file(path) as opened:
        figure.savefig(opened, format=path.suffix.removeprefix("."))


def _draw(
    axes: "Axes",
    losses: NDArray[np.float64],
    epochs: Sequence[job_pb2.Epoch],
    iterations_per_epoch: int,
    skip: int,
) -> None:
    iterations = np.arange(skip + 1, skip + 1 + len(losses), dtype=np.float64)
    # Rasterized: an SVG of a million points would be a file that nothing opens.
    axes.plot(iterations, losses, color="0.78", linewidth=0.6, rasterized=True, label="each iteration")
    window = min(MAX_WINDOW, max(1, len(losses) // 20))
    if window > 1:
        mean = np.convolve(losses, np.full(window, 1 / window), mode="valid")
        label = f"running mean of {window} iterations"
        # A mean stands in the middle of what it is the mean of; at its end it would seem to lag behind.
        axes.plot(iterations[: len(mean)] + (window - 1) / 2, mean, color="tab:blue", linewidth=1.8, label=label)
    middles = [((epoch.epoch - 0.5) * iterations_per_epoch + 0.5, epoch.mean_loss) for epoch in epochs]
    middles = [(middle, mean) for middle, mean in middles if skip < middle <= skip + len(losses)]
    if middles:
        x, y = zip(*middles, strict=True)
        axes.plot(x, y, "o--", color="black", linewidth=1, markersize=5, label="mean of each epoch")
    ends = [(epoch.epoch * iterations_per_epoch, epoch) for epoch in epochs if epoch.HasField("validation_loss")]
    ends = [(end, epoch) for end, epoch in ends if skip < end <= skip + len(losses)]
    if ends:
        validation = [epoch.validation_loss for _, epoch in ends]
        axes.plot(
            [end for end, _ in ends],
            validation,
            "s-",
            color="tab:orange",
            linewidth=1.4,
            markersize=5,
            label=f"validation, accuracy {ends[-1][1].validation_accuracy:.2%} at the end",
        )
    axes.set_xlabel("iteration")
    axes.set_ylim(bottom=0)
    axes.margins(x=0.01)
    axes.grid(visible=True, color="0.9")
    axes.set_axisbelow(True)
    axes.legend()
