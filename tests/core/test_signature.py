"""Signatures: shapes compared as shapes, numbers as kinds of numbers, and what is not the same is refused by name."""

import json
import re
from typing import Any

import numpy as np
import pytest

from handgrad.core.errors import InvalidInputError
from handgrad.core.network import fully_connected
from handgrad.core.signature import (
    Numbers,
    Signature,
    fits,
    from_json,
    numbers_of,
    to_json,
    unknown,
)

BYTES = Numbers("uint8", 0.0, 255.0, 33.0)
UNIT_FLOATS = Numbers("float32", 0.0, 1.0, 0.1)
WIDE_FLOATS = Numbers("float32", 0.0, 255.0, 33.0)
STANDARDIZED = Numbers("float32", -0.42, 2.8, 0.0)
IMAGES = Signature((28, 28, 1), BYTES, "unit")
NETWORK = fully_connected(784, (), 10)
GENERATOR = np.random.default_rng(0)
PIXELS = GENERATOR.integers(0, 256, (3, 28, 28), np.uint8)


@pytest.mark.parametrize(
    ("takes", "given", "expected"),
    [
        ((28, 28, 1), (28, 28, 1), True),
        ((28, 28, 1), (28, 28), True),
        ((28, 28), (28, 28, 1), True),
        ((28, 28, 1), (784,), True),
        ((784,), (28, 28), True),
        ((784,), (28, 28, 1), True),
        ((30,), (30,), True),
        # As many numbers, and another shape.
        ((9, 16, 1), (12, 12), False),
        ((9, 16, 1), (16, 9), False),
        ((32, 32, 3), (3, 32, 32), False),
        ((32, 32, 3), (3072,), True),
        ((3072,), (32, 32, 3), False),
        ((32, 32, 3), (32, 96), False),
        ((4, 1, 1), (1, 4), False),
        ((30,), (1, 30, 1), True),
        ((28, 28, 1), (28, 28, 1, 1), False),
        ((784,), (783,), False),
    ],
)
def test_shapes_are_compared_as_shapes(takes: Any, given: Any, expected: bool) -> None:  # noqa: FBT001
    assert fits(takes, given) is expected


WRONG: dict[str, tuple[Signature, Any, str]] = {
    "floats for bytes": (
        IMAGES,
        (PIXELS / 255).astype(np.float32),
        r"the model takes 28x28x1 bytes; got 28x28x1 floats from 0 to 1",
    ),
    "standardized floats for bytes": (
        IMAGES,
        np.linspace(-0.42, 2.8, 784, dtype=np.float32).reshape(1, 784),
        r"takes 28x28x1 bytes; got 784 floats from -0.42 to 2.8",
    ),
    "bytes for floats from 0 to 1": (
        Signature((28, 28, 1), UNIT_FLOATS, "identity"),
        PIXELS,
        r"takes 28x28x1 floats from 0 to 1; got 28x28x1 bytes",
    ),
    "bytes for standardized floats": (
        Signature((28, 28, 1), STANDARDIZED, "identity"),
        PIXELS,
        r"takes 28x28x1 floats from -0.42 to 2.8; got 28x28x1 bytes",
    ),
    "floats from 0 to 255 for floats from 0 to 1": (
        Signature((28, 28, 1), UNIT_FLOATS, "identity"),
        PIXELS.astype(np.float32),
        r"takes 28x28x1 floats from 0 to 1; got 28x28x1 floats from 0 to 255",
    ),
    "floats from 0 to 1 for floats from 0 to 255": (
        Signature((28, 28, 1), WIDE_FLOATS, "identity"),
        (PIXELS / 255).astype(np.float32),
        r"takes 28x28x1 floats from 0 to 255; got 28x28x1 floats from 0 to 1",
    ),
    "standardized floats for floats from 0 to 1": (
        Signature((28, 28, 1), UNIT_FLOATS, "identity"),
        np.linspace(-0.42, 2.8, 784, dtype=np.float32).reshape(1, 784),
        r"takes 28x28x1 floats from 0 to 1; got 784 floats from -0.42 to 2.8",
    ),
    "bytes of 0 and 1 for bytes": (
        IMAGES,
        (PIXELS > 127).astype(np.uint8),
        r"takes 28x28x1 bytes; got 28x28x1 bytes from 0 to 1",
    ),
    "bytes for bytes from 0 to 16": (
        Signature((28, 28, 1), Numbers("uint8", 0.0, 16.0), "identity"),
        PIXELS,
        r"takes 28x28x1 bytes from 0 to 16; got 28x28x1 bytes",
    ),
    "another shape": (IMAGES, PIXELS.reshape(3, 14, 56), r"takes 28x28x1 bytes; got 14x56x1 bytes"),
    "channels first": (
        Signature((32, 32, 3), BYTES, "unit"),
        np.full((1, 3, 32, 32), 200, np.uint8),
        r"takes 32x32x3 bytes; got 3x32x32 bytes",
    ),
    "floats for a transform of bytes, of a file that says no more": (
        Signature((784,), None, "unit"),
        (PIXELS / 255).astype(np.float32),
        "unit divides bytes by 255, and these are floats from 0 to 1",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_something_else_is_refused_with_both_sides_named(kind: str) -> None:
    signature, examples, told = WRONG[kind]
    with pytest.raises(InvalidInputError, match=told) as raised:
        signature.read(examples, "images")
    assert raised.value.field == "images"


RIGHT: dict[str, tuple[Signature, Any, str]] = {
    "bytes": (IMAGES, PIXELS, ""),
    "a flat vector": (IMAGES, PIXELS.reshape(3, 784), ""),
    "a channel of 1": (IMAGES, PIXELS[..., None], ""),
    "an image without light": (IMAGES, np.zeros((1, 28, 28), np.uint8), ""),
    "a dim picture": (IMAGES, PIXELS // 10, "the numbers reach 25; the model was trained on numbers from 0 to 255"),
    "floats that can only be bytes": (IMAGES, PIXELS.astype(np.float32), "they are taken for bytes"),
    "floats": (Signature((784,), UNIT_FLOATS, "identity"), (PIXELS / 255).astype(np.float32), ""),
    "floats a little outside": (Signature((784,), UNIT_FLOATS, "identity"), (PIXELS / 250).astype(np.float32), ""),
    "floats without light": (Signature((784,), WIDE_FLOATS, "identity"), np.zeros((1, 784), np.float32), ""),
    "bytes within floats of their scale": (Signature((784,), WIDE_FLOATS, "identity"), PIXELS, "as they are"),
    "smaller floats": (
        Signature((784,), WIDE_FLOATS, "identity"),
        PIXELS.astype(np.float32) / 25,
        "reach 10.2; the model was trained on numbers from 0 to 255",
    ),
    "inverted": (
        IMAGES,
        255 - PIXELS // 4,
        "are mostly high, .* in the mean, and those of the training mostly low, 33: are they inverted?",
    ),
    "none below 0": (
        Signature((784,), STANDARDIZED, "identity"),
        (PIXELS / 255).astype(np.float32),
        "no number is below 0",
    ),
    "anything, of a file that does not say": (Signature((784,), None, "identity"), PIXELS, "it is not known"),
}


@pytest.mark.parametrize("kind", RIGHT)
def test_what_can_be_read_in_one_way_is_read_and_told(kind: str) -> None:
    signature, examples, told = RIGHT[kind]
    found, notes = signature.read(examples, "images")
    np.testing.assert_array_equal(found, examples.reshape(len(examples), -1))
    assert found.dtype == (np.uint8 if "can only be bytes" in kind else examples.dtype)
    assert len(notes) == bool(told)
    assert re.search(told, " ".join(notes))


@pytest.mark.parametrize(
    "signature",
    [
        IMAGES,
        unknown(NETWORK),
        Signature((784,), Numbers("float32"), "identity", "squared_error", tuple("abcdefghij")),
        Signature((28, 28, 1), UNIT_FLOATS, "identity", class_names=("naught", "one")),
    ],
)
def test_json_gives_it_back(signature: Signature) -> None:
    assert from_json(to_json(signature), NETWORK, "file") == signature


def told(**changes: Any) -> str:
    found = json.loads(to_json(IMAGES))
    for name, value in changes.items():
        found["outputs" if name in ("loss", "class_names") else "inputs"][name] = value
    return json.dumps(found)


HOSTILE = {
    "no JSON": "{",
    "a list": "[]",
    "nothing": "{}",
    "deep": "[" * 100_000,
    "another shape": told(shape=[27, 28, 1]),
    "no shape": told(shape=[]),
    "a negative shape": told(shape=[-28, -28, 1]),
    "a shape of texts": told(shape=["x"]),
    "a shape of many": told(shape=[784, 1, 1, 1, 1]),
    "an unknown transform": told(transform="cube"),
    "an unknown loss": told(loss="hinge"),
    "an unknown type": told(data_type="complex64"),
    "no finite range": told(low=float("nan")),
    "a range of texts": told(high="high"),
    "too many names": told(class_names=["a"] * 11),
    "a name that is none": told(class_names=[7]),
    "a long name": told(class_names=["a" * 101]),
    "a name that a terminal would run": told(class_names=["\x1b[2J"]),
    "names that are a number": told(class_names=7),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_json_of_anybodys_is_held_against_the_network(kind: str) -> None:
    with pytest.raises(InvalidInputError, match="its signature is not one") as raised:
        from_json(HOSTILE[kind], NETWORK, "file")
    assert raised.value.field == "file"


def test_a_data_set_of_another_range_is_told() -> None:
    signature = Signature((784,), STANDARDIZED, "identity")
    notes = signature.check_examples((784,), Numbers("float32", -1.0, 1.0, -0.5), "dataset")
    assert notes == [
        "the numbers lie from -1 to 1; the model was trained on numbers from -0.42 to 2.8: are they scaled alike?"
    ]
    assert signature.check_examples((784,), Numbers("float32", -0.42, 2.5, 0.0), "dataset") == []


def test_training_adds_what_the_file_did_not_say() -> None:
    after, notes = unknown(NETWORK).trained_on((28, 28), BYTES, ("a", "b"), "squared_error", "dataset")
    assert after == Signature((28, 28, 1), BYTES, "identity", "squared_error", ("a", "b"))
    assert len(notes) == 1


def test_training_on_widens_the_range_and_keeps_the_names() -> None:
    before = Signature((784,), UNIT_FLOATS, "identity", class_names=("a", "b"))
    after, notes = before.trained_on((28, 28), Numbers("float32", -0.25, 0.5, 0.1), (), before.loss, "dataset")
    assert after.numbers == Numbers("float32", -0.25, 1.0, 0.1)
    assert (after.shape, after.class_names, len(notes)) == ((28, 28, 1), ("a", "b"), 1)


def test_classes_of_other_names_are_refused() -> None:
    before = Signature((784,), BYTES, "unit", class_names=("cat", "dog"))
    with pytest.raises(InvalidInputError, match="class 0 is 'cat', not 'dog'"):
        before.trained_on((28, 28), BYTES, ("dog", "cat"), before.loss, "dataset")
    with pytest.raises(InvalidInputError, match="more or fewer"):
        before.trained_on((28, 28), BYTES, ("cat", "dog", "cow"), before.loss, "dataset")


def test_the_loss_says_what_the_outputs_are() -> None:
    assert Signature((784,), BYTES, "unit").kind == "probabilities"
    assert Signature((784,), BYTES, "unit", "squared_error").kind == "scores"


def test_numbers_are_told_by_their_range() -> None:
    assert numbers_of(np.array([[1, 2], [3, 10]], np.uint8)) == Numbers("uint8", 1, 10, 4)
    assert numbers_of(np.array([[-1, 2.5]], np.float32)).told == "floats from -1 to 2.5"
