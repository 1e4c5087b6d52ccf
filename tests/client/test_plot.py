"""The plot: what is drawn, and where it is written."""

import importlib.util
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import IO, Any

import matplotlib.figure
import numpy as np
import pytest
from matplotlib.axes import Axes

import handgrad
from handgrad.client.plot import plot_losses, plot_sweep
from handgrad.client.sweep import Measure
from handgrad.v1 import job_pb2

LOSSES = np.exp(-np.linspace(0, 3, 600)) + 0.1
EPOCHS = [job_pb2.Epoch(epoch=n, mean_loss=float(LOSSES[200 * (n - 1) : 200 * n].mean())) for n in (1, 2, 3)]


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Axes]:
    """The axes of the figures that are written."""
    found: list[Axes] = []
    savefig = matplotlib.figure.Figure.savefig

    def save(figure: matplotlib.figure.Figure, file: IO[bytes], **keywords: Any) -> None:
        found.extend(figure.axes)
        savefig(figure, file, **keywords)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", save)
    return found


def test_it_shows_losses_running_mean_and_epochs(tmp_path: Path, drawn: list[Axes]) -> None:
    plot_losses(tmp_path / "loss.png", LOSSES, EPOCHS, iterations_per_epoch=200)
    (axes,) = drawn
    assert axes.get_title() == "Cross Entropy Error"
    assert axes.get_xlabel() == "iteration"
    assert axes.get_ylabel() == "cross-entropy [nats]"
    each, running, epochs = axes.get_lines()
    legend = axes.get_legend()
    assert legend
    labels = [text.get_text() for text in legend.get_texts()]
    assert labels == ["each iteration", "running mean of 30 iterations", "mean of each epoch"]
    np.testing.assert_array_equal(each.get_xdata(), np.arange(1, 601))
    np.testing.assert_array_equal(each.get_ydata(), LOSSES)
    np.testing.assert_allclose(np.array(running.get_ydata(), float)[0], LOSSES[:30].mean())
    np.testing.assert_allclose(np.array(running.get_xdata(), float)[[0, -1]], [15.5, 585.5])
    np.testing.assert_allclose(np.array(epochs.get_xdata(), float), [100.5, 300.5, 500.5])
    np.testing.assert_allclose(np.array(epochs.get_ydata(), float), [epoch.mean_loss for epoch in EPOCHS])


def test_a_part_of_a_run_stands_where_it_belongs(tmp_path: Path, drawn: list[Axes]) -> None:
    plot_losses(tmp_path / "loss.png", LOSSES[250:550], EPOCHS, iterations_per_epoch=200, skip=250)
    each, _, epochs = drawn[0].get_lines()
    np.testing.assert_array_equal(np.array(each.get_xdata(), float)[[0, -1]], [251, 550])
    np.testing.assert_allclose(np.array(epochs.get_xdata(), float), [300.5, 500.5])


@pytest.mark.parametrize(
    "losses", [[], [2.0], [2.0, np.nan], np.full(100, np.nan)], ids=["none", "one", "NaN", "all NaN"]
)
def test_any_run_can_be_drawn(tmp_path: Path, losses: list[float]) -> None:
    plot_losses(tmp_path / "loss.png", np.array(losses, float), [], iterations_per_epoch=5)
    assert (tmp_path / "loss.png").read_bytes().startswith(b"\x89PNG\r\n")


def test_an_svg_is_one_and_stays_small(tmp_path: Path) -> None:
    file = tmp_path / "loss.svg"
    plot_losses(file, np.random.default_rng(0).random(50_000), [], iterations_per_epoch=600)
    assert ET.parse(file).getroot().tag == "{http://www.w3.org/2000/svg}svg"  # noqa: S314 - our own file
    # Every loss as a point of a path would take 1 MB.
    assert file.stat().st_size < 400_000


def test_other_endings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(handgrad.InvalidArgumentError, match=r"ends in \.png or \.svg") as raised:
        plot_losses(tmp_path / "loss.pdf", LOSSES, iterations_per_epoch=200)
    assert raised.value.field == "loss.pdf"
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_way_to_get_it_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(handgrad.InvalidArgumentError, match=r"pip install 'handgrad\[plot\]'"):
        plot_losses(tmp_path / "loss.png", LOSSES, iterations_per_epoch=200)


@pytest.mark.parametrize(
    ("measure", "label", "scale"),
    [
        ("mean_loss", "mean loss", "log"),
        ("validation_loss", "validation loss", "log"),
        ("validation_accuracy", "validation accuracy", "linear"),
    ],
)
def test_a_sweep_shows_what_its_members_are_ranked_by(
    tmp_path: Path, drawn: list[Axes], measure: Measure, label: str, scale: str
) -> None:
    values = (0.5, 0.25)
    curves = [[job_pb2.Epoch(epoch=n, **{measure: value / n}) for n in (1, 2)] for value in values]
    plot_sweep(tmp_path / "sweep.png", curves, "seed 3", measure=measure)
    (axes,) = drawn
    assert (axes.get_ylabel(), axes.get_yscale()) == (label, scale)
    other, best = axes.get_lines()
    assert (best.get_label(), other.get_label()) == ("the best: seed 3", "the other 1")
    np.testing.assert_array_equal(best.get_ydata(), [0.5, 0.25])
    np.testing.assert_array_equal(other.get_ydata(), [0.25, 0.125])
