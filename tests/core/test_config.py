"""Settings: each bound, named where it is passed."""

import math
from dataclasses import asdict, replace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from handgrad.core.config import (
    MAX_EPOCHS,
    MAX_SEED,
    MIN_LEARNING_RATE,
    PRESETS,
    UNUSED,
    TrainConfig,
    overridden,
    preset,
    unread_overrides,
)
from handgrad.core.errors import InvalidInputError
from handgrad.core.network import LOSSES, Loss, Network, fully_connected, init, initial_statistics, make_network
from handgrad.core.network import training_loss as loss_of
from handgrad.core.network_spec import layers_from_spec
from handgrad.core.optimizers import SGD

REPORT = preset("report").config
NETWORK = fully_connected(784, (100,), 10)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("batch_size", 0),
        ("batch_size", -1),
        ("batch_size", 60_001),
        ("epochs", 0),
        ("epochs", MAX_EPOCHS + 1),
        ("learning_rate", 0.0),
        ("learning_rate", -0.1),
        ("learning_rate", math.nan),
        ("learning_rate", math.inf),
        ("learning_rate", 1e-38),
        ("learning_rate", 1e39),
        ("seed", -1),
        ("seed", MAX_SEED + 1),
        ("publish_every_iterations", -1),
    ],
)
def test_a_setting_out_of_range_is_named(setting: str, value: Any) -> None:
    with pytest.raises(InvalidInputError) as raised:
        replace(REPORT, **{setting: value}).check(NETWORK, 60_000)
    assert raised.value.field == setting
    assert str(value) in raised.value.problem


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("batch_size", 1),
        ("batch_size", 60_000),
        ("epochs", 1),
        ("learning_rate", MIN_LEARNING_RATE),
        ("learning_rate", 1e38),
        ("seed", 0),
        ("seed", MAX_SEED),
        ("publish_every_iterations", 10**9),
    ],
)
def test_the_ends_of_a_range_belong_to_it(setting: str, value: Any) -> None:
    replace(REPORT, **{setting: value}).check(NETWORK, 60_000)


def test_too_many_iterations_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="iterations in all"):
        TrainConfig(batch_size=1, epochs=2_000, learning_rate=0.1).check(NETWORK, 60_000)


def test_a_batch_that_fits_no_memory_is_refused() -> None:
    wide = fully_connected(784, (60_000,), 10)
    with pytest.raises(InvalidInputError, match="fits in memory") as raised:
        replace(REPORT, batch_size=60_000).check(wide, 60_000)
    assert raised.value.field == "batch_size"


def test_the_last_batch_counts_as_an_iteration() -> None:
    assert replace(REPORT, batch_size=100).iterations_per_epoch(60_000) == 600
    assert replace(REPORT, batch_size=99).iterations_per_epoch(60_000) == 607
    assert replace(REPORT, batch_size=60_000).iterations_per_epoch(60_000) == 1


def test_an_unknown_preset_is_answered_with_those_there_are() -> None:
    with pytest.raises(InvalidInputError, match="report") as raised:
        preset("rapport")
    assert raised.value.field == "preset"


def test_the_preset_is_the_reports() -> None:
    assert make_network(preset("report").layers, (28, 28), 10) == fully_connected(784, (100,), 10)
    assert TrainConfig(batch_size=100, epochs=10, learning_rate=0.01) == REPORT


@pytest.mark.parametrize(
    ("overrides", "setting", "told"),
    [
        (
            {"beta2": 0.9},
            "beta2",
            "optimizer sgd does not read it (those that do: rmsprop, adadelta, adam, adamw, muon)",
        ),
        ({"epsilon": 1e-8}, "epsilon", "optimizer sgd does not read it"),
        ({"optimizer": "momentum", "beta2": 0.9}, "beta2", "optimizer momentum"),
        ({"optimizer": "nesterov", "epsilon": 0.1}, "epsilon", "optimizer nesterov"),
        ({"optimizer": "adagrad", "beta2": 0.9}, "beta2", "optimizer adagrad"),
        ({"optimizer": "adagrad", "momentum": 0.9}, "momentum", "those that do: sgd, momentum, nesterov, adam,"),
        ({"optimizer": "rmsprop", "momentum": 0.9}, "momentum", "optimizer rmsprop"),
        ({"optimizer": "adadelta", "momentum": 0.9}, "momentum", "optimizer adadelta"),
        ({"schedule_factor": 0.5}, "schedule_factor", "schedule constant does not read it (those that do: step, exp"),
        ({"schedule_epochs": 2.0}, "schedule_epochs", "schedule constant"),
        ({"schedule": "cosine", "schedule_epochs": 2.0}, "schedule_epochs", "those that do: step, exponential)"),
        ({"loss": "squared_error", "label_smoothing": 0.1}, "label_smoothing", "those that do: softmax_cross_entropy)"),
        ({"patience": 3}, "patience", "needs validation_images"),
        ({"keep_best": True}, "keep_best", "needs validation_images"),
        ({"patience": 3, "validation_images": 0}, "patience", "needs validation_images"),
    ],
)
def test_a_setting_that_nothing_reads_is_refused(overrides: dict[str, Any], setting: str, told: str) -> None:
    with pytest.raises(InvalidInputError) as raised:
        overridden(REPORT, overrides)
    assert raised.value.field == setting
    assert told in raised.value.problem
    assert raised.value.problem.endswith(f"; got {overrides[setting]}")
    assert unread_overrides(REPORT, overrides).keys() == {setting}


@pytest.mark.parametrize(
    "overrides",
    [
        {"momentum": 0.9},
        {"optimizer": "adam", "momentum": 0.8, "beta2": 0.9, "epsilon": 0.1},
        {"optimizer": "adagrad", "epsilon": 0.1},
        {"schedule": "step", "schedule_factor": 0.5, "schedule_epochs": 2.0},
        {"schedule": "cosine", "schedule_factor": 0.5},
        {"label_smoothing": 0.1},
        {"validation_images": 10, "patience": 2, "keep_best": True},
        {"warmup_epochs": 1.0, "weight_decay": 0.1, "clip_norm": 1.0},
    ],
)
def test_a_setting_that_is_read_is_taken(overrides: dict[str, Any]) -> None:
    config = overridden(REPORT, overrides)
    assert {name: getattr(config, name) for name in overrides} == overrides
    config.check(NETWORK, 60_000)


def test_the_value_of_a_setting_that_is_not_used_may_always_be_given() -> None:
    unused = UNUSED | {"loss": "squared_error"}
    assert overridden(REPORT, unused) == replace(REPORT, loss="squared_error")
    # So the settings that a job tells can be given to another one.
    for name in PRESETS:
        config = preset(name).config
        assert overridden(REPORT, asdict(config)) == config


def test_what_a_preset_sets_and_the_callers_choice_does_not_read_is_as_if_not_set() -> None:
    assert overridden(preset("cnn").config, {"loss": "squared_error"}).label_smoothing == 0
    plain = overridden(preset("lenet").config, {"optimizer": "sgd", "schedule": "constant"})
    assert (plain.momentum, plain.beta2, plain.epsilon) == (0, 0, 0)
    assert plain.method is SGD
    step = overridden(preset("report").config, {"schedule": "step", "schedule_factor": 0.5, "schedule_epochs": 3.0})
    assert overridden(step, {"schedule": "cosine"}).schedule_epochs == 1


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_reads_what_it_says(name: str) -> None:
    network = fully_connected(3, (), 2)
    arrays = (init(network, jax.random.key(0)), initial_statistics(network), jnp.ones((1, 3)), jnp.zeros(1, int))
    plain, smoothed = (
        float(loss_of(network, *arrays, jax.random.key(0), Loss(name, smoothing))) for smoothing in (0.0, 0.5)
    )
    assert (plain != smoothed) == ("label_smoothing" in LOSSES[name].reads)


@pytest.mark.parametrize("schedule", ["step", "exponential"])
def test_a_schedule_that_would_end_training_after_its_first_step_is_refused(schedule: str) -> None:
    with pytest.raises(InvalidInputError, match="more than 0, at most 1; got 0") as raised:
        overridden(REPORT, {"schedule": schedule}).check(NETWORK, 60_000)
    assert raised.value.field == "schedule_factor"


def made(*layers: Any, shape: tuple[int, ...] = (12,)) -> Network:
    """Makes a network of layers, each a kind or a whole specification, for 3 classes."""
    spec = [{"kind": layer} if isinstance(layer, str) else layer for layer in layers]
    return make_network(layers_from_spec(spec), shape, 3)


BRANCH = {"kind": "residual", "layers": [{"kind": "affine"}, {"kind": "softmax"}], "shortcut": [{"kind": "affine"}]}
SHORTCUT = {"kind": "residual", "layers": BRANCH["shortcut"], "shortcut": BRANCH["layers"]}
POOL = {"kind": "average_pool", "window": 4}
CONVOLUTION = {"kind": "convolution", "channels": 3, "kernel": 1}


@pytest.mark.parametrize(
    ("network", "position"),
    [
        (made("affine", "softmax"), "2"),
        (made("affine", "softmax", {"kind": "dropout", "rate": 0.1}), "2"),
        (made("affine", "softmax", "flatten"), "2"),
        (made(CONVOLUTION, "softmax", POOL, "flatten", shape=(4, 4, 1)), "2"),
        (made("affine", BRANCH), "2.2"),
        (made("affine", SHORTCUT), "2.shortcut.2"),
        (made("affine", {"kind": "residual", "layers": [BRANCH]}), "2.1.2"),
    ],
)
def test_a_softmax_before_a_loss_with_its_own_is_refused(network: Network, position: str) -> None:
    with pytest.raises(InvalidInputError, match="leave the layer out") as raised:
        REPORT.check(network, 60_000)
    assert raised.value.field == "network.layers"
    assert raised.value.problem.startswith(f"layer {position}, softmax, ends the network")
    replace(REPORT, loss="squared_error").check(network, 60_000)


@pytest.mark.parametrize("last", ["affine", "relu", "sigmoid", "batch_norm", "layer_norm"])
def test_a_softmax_elsewhere_and_other_ends_are_taken(last: str) -> None:
    REPORT.check(made("softmax", "affine", last), 60_000)


NORMALIZED_IMAGES = made(CONVOLUTION, "batch_norm", "flatten", "affine", shape=(2, 2, 1))
POINTS = made(CONVOLUTION, "batch_norm", "flatten", "affine", shape=(1, 1, 5))
BLOCK = {"kind": "residual", "layers": [{"kind": "affine", "outputs": 12}, {"kind": "batch_norm"}]}


@pytest.mark.parametrize(
    ("network", "position"),
    [(made("affine", "batch_norm", "affine"), "2"), (POINTS, "2"), (made(BLOCK, "affine"), "1.2")],
)
def test_batch_normalization_over_one_number_is_refused(network: Network, position: str) -> None:
    with pytest.raises(InvalidInputError, match="2 or more") as raised:
        replace(REPORT, batch_size=1).check(network, 60_000)
    assert raised.value.field == "batch_size"
    assert f"layer {position}, batch_norm" in raised.value.problem
    # A last mini-batch of one image is right.
    replace(REPORT, batch_size=2).check(network, 60_001)
    replace(REPORT, batch_size=1).check(NORMALIZED_IMAGES, 60_000)
    replace(REPORT, batch_size=1).check(made("affine", "layer_norm", "affine"), 60_000)


@pytest.mark.parametrize("kind", ["layer_norm", "softmax"])
def test_a_layer_that_puts_out_the_same_for_every_image_is_refused(kind: str) -> None:
    with pytest.raises(InvalidInputError, match=f"layer 1, {kind}, .* the same for every image") as raised:
        REPORT.check(made(kind, "flatten", "affine", shape=(4, 4, 1)), 60_000)
    assert raised.value.field == "network.layers"
