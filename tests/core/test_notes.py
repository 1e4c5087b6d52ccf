"""What is told of runs that are not what they may seem."""

import math
from dataclasses import replace
from typing import Any

import pytest

from handgrad.core.config import overridden, preset
from handgrad.core.network import Network, make_network
from handgrad.core.network_spec import layers_from_spec
from handgrad.core.notes import notes, stuck_note

REPORT = preset("report").config
DROPOUT = {"kind": "dropout", "rate": 0.5}


def made(*layers: Any) -> Network:
    spec = [{"kind": layer} if isinstance(layer, str) else layer for layer in layers]
    return make_network(layers_from_spec(spec), (12,), 10)


PLAIN = made("affine")
LEAST = f"{math.log(1 + 9 / math.e):.4f}"
"""The loss of outputs of 1 for the label and 0 for the nine others."""


@pytest.mark.parametrize("name", ["report", "mlp", "lenet", "cnn", "resnet"])
def test_nothing_is_told_of_presets(name: str) -> None:
    start = preset(name)
    assert notes(make_network(start.layers, (32, 32, 3), 10), start.config, 10, start.config) == ()


@pytest.mark.parametrize(
    ("network", "told"),
    [
        (
            made("affine", "sigmoid"),
            f"layer 2, sigmoid, ends the network with numbers from 0 to 1, so that the loss cannot fall below {LEAST}",
        ),
        (
            made("affine", "tanh", "flatten"),
            f"from -1 to 1, so that the loss cannot fall below {math.log(1 + 9 * math.exp(-2)):.4f}",
        ),
        (made("affine", "relu"), "layer 2, relu, ends the network with no number below 0"),
    ],
)
def test_an_activation_before_the_softmax_is_told(network: Network, told: str) -> None:
    (note,) = notes(network, REPORT, 10)
    assert told in note
    assert notes(network, replace(REPORT, loss="squared_error"), 10) == ()


@pytest.mark.parametrize("last", ["leaky_relu", "batch_norm", "affine"])
def test_other_ends_are_not_told(last: str) -> None:
    assert notes(made("affine", last), REPORT, 10) == ()


def test_dropout_of_outputs_is_told_with_any_loss() -> None:
    for loss in ("softmax_cross_entropy", "squared_error"):
        (note,) = notes(made("affine", DROPOUT), replace(REPORT, loss=loss), 10)
        assert "the last layer, dropout" in note


def test_more_outputs_than_classes_are_told() -> None:
    (note,) = notes(PLAIN, REPORT, 8)
    assert note.startswith("the network has 10 outputs, and the data set 8 classes: those from 8 on")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"warmup_epochs": 10.0}, "the learning rate rises to the run's end: warmup_epochs 10, epochs 10"),
        ({"schedule": "step", "schedule_factor": 0.5, "schedule_epochs": 10.0}, "schedule step does not change"),
        ({"validation_images": 5, "patience": 10}, "patience 10 is not over within 10 epochs"),
    ],
)
def test_settings_without_an_effect_in_so_many_epochs_are_told(settings: dict[str, Any], told: str) -> None:
    (note,) = notes(PLAIN, replace(REPORT, **settings), 10)
    assert note.startswith(told)
    assert notes(PLAIN, replace(REPORT, **settings, epochs=12), 10) == ()


def test_what_a_preset_sets_on_purpose_and_nothing_reads_is_told() -> None:
    start = preset("cnn").config
    (note,) = notes(PLAIN, overridden(start, {"loss": "squared_error"}), 10, start)
    assert note.startswith("label_smoothing 0.05 of the preset is not used: loss squared_error does not read it")
    start = preset("resnet").config
    (note,) = notes(PLAIN, overridden(start, {"optimizer": "rmsprop"}), 10, start)
    assert note.startswith("momentum 0.9 of the preset is not used: optimizer rmsprop does not read it")
    # Adam's usual numbers, which the preset did not choose, go without a word.
    start = preset("lenet").config
    assert notes(PLAIN, overridden(start, {"optimizer": "sgd", "schedule": "constant"}), 10, start) == ()


@pytest.mark.parametrize(
    ("loss", "losses"),
    [
        ("softmax_cross_entropy", [2.31, 2.3, 2.302]),
        ("softmax_cross_entropy", [math.log(10)]),
        ("squared_error", [0.4501, 0.4499]),
    ],
)
def test_a_run_that_guesses_is_told(loss: str, losses: list[float]) -> None:
    told = stuck_note(loss, 10, losses)
    assert "guessing among 10 classes has" in told
    assert ("stayed at" in told) == (len(losses) > 1)


def test_a_loss_that_did_not_fall_is_told() -> None:
    for losses in ([1.5, 1.4, 1.5001], [1.5, 1.4, 1.4999], [2.5369, 2.5366]):
        told = f"did not fall: {losses[0]:.4f} in the first epoch, {losses[-1]:.4f} in the last"
        assert told in stuck_note("softmax_cross_entropy", 10, losses)


def test_a_loss_that_ends_above_that_of_guessing_is_told() -> None:
    told = "the mean loss is 30.0000 in the last epoch, and guessing among 10 classes has 2.3026"
    assert told in stuck_note("softmax_cross_entropy", 10, [40.0, 30.0])
    assert stuck_note("softmax_cross_entropy", 10, [40.0]) == ""


@pytest.mark.parametrize(
    ("loss", "classes", "losses"),
    [
        ("softmax_cross_entropy", 10, [2.31, 2.3, 2.2]),
        ("softmax_cross_entropy", 10, [2.6, 1.4]),
        ("softmax_cross_entropy", 11, [2.31, 2.2]),
        ("softmax_cross_entropy", 10, [0.3]),
        ("squared_error", 10, [0.45, 0.2]),
        ("softmax_cross_entropy", 10, []),
        ("softmax_cross_entropy", 10, [0.0, 0.0]),
        ("softmax_cross_entropy", 1, [0.0, 0.0]),
    ],
)
def test_a_loss_that_fell_is_not_told(loss: str, classes: int, losses: list[float]) -> None:
    assert stuck_note(loss, classes, losses) == ""
