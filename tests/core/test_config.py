"""Settings: each bound, named where it is passed."""

import math
from dataclasses import replace
from typing import Any

import pytest

from handgrad.core.config import MAX_EPOCHS, MAX_SEED, MIN_LEARNING_RATE, TrainConfig, preset
from handgrad.core.errors import InvalidInputError
from handgrad.core.network import fully_connected, make_network

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
