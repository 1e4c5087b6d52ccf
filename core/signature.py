"""Signatures: what a model takes, and what its outputs mean."""

import json
import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Final, Literal, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from handgrad.core.class_names import check_class_names
from handgrad.core.errors import InvalidInputError
from handgrad.core.network import LOSSES, Loss, Network
from handgrad.core.operations.losses import SOFTMAX_CROSS_ENTROPY

Transform: TypeAlias = Literal["identity", "unit"]
"""How an example's numbers become the network's inputs: as they are, or, of bytes alone, divided by 255."""

DataType: TypeAlias = Literal["uint8", "float32"]
Kind: TypeAlias = Literal["probabilities", "scores"]

TRANSFORMS: Final = ("identity", "unit")
DATA_TYPES: Final = ("uint8", "float32")
MAX_DIMENSIONS: Final = 3

OTHER_SCALE: Final = 8
"""Numbers that reach this many times as far as those of training are of another scale, and refused."""

BLANK: Final = 100
"""Numbers that reach only this part of those of training are of another scale too: 0 to 1 where it saw 0 to 255."""

_HALF: Final = 127
_MOSTLY_LOW: Final = 0.35
_ANOTHER_RANGE: Final = 0.25
_ENOUGH_TO_TELL: Final = 64
"""Numbers without one below 0 that are told of, where training saw some: one example may have none by chance."""


@dataclass(frozen=True)
class Numbers:
    """What the numbers of examples are.

    Attributes:
        data_type: Their type.
        low: The smallest; None where it is not known.
        high: The largest; None where it is not known.
        mean: Their mean; None where it is not known.
    """

    data_type: DataType
    low: float | None = None
    high: float | None = None
    mean: float | None = None

    @property
    def range(self) -> tuple[float, float]:
        """The smallest and the largest, of numbers whose range is known."""
        assert self.low is not None
        assert self.high is not None
        return self.low, self.high

    @property
    def told(self) -> str:
        """They in words: "bytes", "bytes from 0 to 1" where they leave out most, "floats from -1 to 2.5"."""
        kind = "bytes" if self.data_type == "uint8" else "floats"
        is_usual = self.data_type == "uint8" and self.high is not None and self.high > _HALF
        known = self.low is not None and self.high is not None
        return f"{kind} from {self.low:g} to {self.high:g}" if known and not is_usual else kind

    def joined(self, other: "Numbers") -> "Numbers":
        """Returns the numbers of a further data set with the range of both."""
        if self.low is None or self.high is None or other.low is None or other.high is None:
            return other
        return replace(other, low=min(self.low, other.low), high=max(self.high, other.high))


def numbers_of(examples: NDArray[Any]) -> Numbers:
    """Returns what the numbers of examples `[N, ...]`, uint8 or float32, are."""
    data_type: DataType = "uint8" if examples.dtype == np.uint8 else "float32"
    mean = float(examples.mean(dtype=np.float64))
    return Numbers(data_type, float(examples.min()), float(examples.max()), mean)


def is_other_scale(seen: Numbers, given: Numbers) -> bool:
    """Returns whether numbers of a known range are of another scale than those of training."""
    (seen_low, seen_high), (low, high) = seen.range, given.range
    reach, reached = max(-seen_low, seen_high), max(-low, high)
    is_unit = given.data_type == "float32" and seen_low >= 0 and seen_high <= 1
    outside = is_unit and (low < -1 / 2 or high > 3 / 2)
    return bool(reach) and (outside or reached > OTHER_SCALE * reach or 0 < reached <= reach / BLANK)


def doubts(seen: Numbers, given: Numbers, size: int | None) -> list[str]:
    """Returns what is to be told of numbers of a known range that differ from those of training, a sentence each.

    Args:
        seen: Those of training.
        given: The others.
        size: How many these are; None for a whole data set.
    """
    (seen_low, seen_high), (low, high) = seen.range, given.range
    reach, reached, width = max(-seen_low, seen_high), max(-low, high), seen_high - seen_low
    trained = f"the model was trained on numbers from {seen_low:g} to {seen_high:g}"
    if 0 < reached < reach / OTHER_SCALE:
        return [f"the numbers reach {reached:g}; {trained}"]
    if size is not None and size < _ENOUGH_TO_TELL:
        return []
    if seen.mean is not None and given.mean is not None and width:
        usual, mean = (seen.mean - seen_low) / width, (given.mean - seen_low) / width
        if min(usual, mean) < _MOSTLY_LOW and max(usual, mean) > 1 - _MOSTLY_LOW:
            now, before = ("high", "low") if mean > usual else ("low", "high")
            told_now, told_before = f"mostly {now}, {given.mean:g} in the mean", f"mostly {before}, {seen.mean:g}"
            return [f"the numbers are {told_now}, and those of the training {told_before}: are they inverted?"]
    if seen_low < -reach / 20 and low >= 0:
        return [f"no number is below 0; {trained}"]
    if size is None and max(abs(low - seen_low), abs(high - seen_high)) > _ANOTHER_RANGE * width:
        return [f"the numbers lie from {low:g} to {high:g}; {trained}: are they scaled alike?"]
    return []


@dataclass(frozen=True)
class Signature:
    """What a model takes, and what its outputs mean.

    Attributes:
        shape: Shape of an example: `(features,)`, or `(rows, columns, channels)`.
        numbers: What it was trained on; None where that is not known.
        transform: From these numbers to the network's inputs.
        loss: The loss that was trained, a name of LOSSES.
        class_names: Name of each class; empty where they have none.
    """

    shape: tuple[int, ...]
    numbers: Numbers | None
    transform: Transform
    loss: str = SOFTMAX_CROSS_ENTROPY.name
    class_names: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        """What answers are: probabilities where the loss has a softmax, otherwise the outputs as they are."""
        return "probabilities" if self.loss == SOFTMAX_CROSS_ENTROPY.name else "scores"

    @property
    def objective(self) -> Loss:
        """What an evaluation measures: the loss that was trained, without smoothing."""
        return Loss(self.loss)

    @property
    def takes(self) -> str:
        """What it takes in words, such as "28x28x1 bytes"."""
        return told(self.shape, self.numbers)

    def check_examples(
        self, shape: tuple[int, ...], numbers: Numbers, field: str, *, size: int | None = None
    ) -> list[str]:
        """Holds examples against what the model takes.

        Args:
            shape: Shape of an example, as it comes.
            numbers: What they are.
            field: The field of an error.
            size: Numbers that there are in all; None for a whole data set, whose range can be compared.

        Returns:
            What was assumed, a sentence each.

        Raises:
            InvalidInputError: They have another shape, or are other numbers; it names both sides.
        """
        if not fits(self.shape, shape) or not _fits_type(self.numbers, numbers):
            raise self._mismatch(shape, numbers, field)
        check_transform(self.transform, numbers, field)
        if self.numbers is None:
            taken = "taken as they are" if self.transform == "identity" else "divided by 255"
            return [f"it is not known which numbers the model takes: these are {numbers.told}, and {taken}"]
        if numbers.data_type != self.numbers.data_type:
            return [f"the bytes are taken as they are, as the model takes {self.numbers.told}"]
        if None in (self.numbers.low, self.numbers.high, numbers.low, numbers.high):
            return []
        if is_other_scale(self.numbers, numbers):
            raise self._mismatch(shape, numbers, field)
        return doubts(self.numbers, numbers, size)

    def _mismatch(self, shape: tuple[int, ...], numbers: Numbers, field: str) -> InvalidInputError:
        return InvalidInputError(field, f"the model takes {self.takes}; got {told(shape, numbers)}")

    def read(self, examples: NDArray[Any], field: str) -> tuple[NDArray[Any], list[str]]:
        """Reads examples `[N, ...]`, uint8 or finite float32, for the model.

        Floats that hold whole numbers from 0 to 255, and more than 1, are taken for the bytes that they can only be.

        Returns:
            The examples `[N, D]`, and what was assumed, a sentence each.

        Raises:
            InvalidInputError: As for `check_examples`.
        """
        shape, notes = examples.shape[1:], []
        takes_bytes = self.numbers is not None and self.numbers.data_type == "uint8"
        if takes_bytes and examples.dtype != np.uint8 and _holds_bytes(examples):
            examples = examples.astype(np.uint8)
            notes = ["the floats are whole numbers from 0 to 255: they are taken for bytes"]
        notes += self.check_examples(shape, numbers_of(examples), field, size=examples.size)
        return examples.reshape(len(examples), -1), notes

    def trained_on(
        self, shape: tuple[int, ...], numbers: Numbers, class_names: tuple[str, ...], loss: str, field: str
    ) -> tuple["Signature", list[str]]:
        """Returns the signature after training on a data set, and what was assumed of it.

        Args:
            shape: Shape of an example.
            numbers: What the training split's numbers are.
            class_names: Its classes' names; empty for none.
            loss: The loss.
            field: The field of an error.

        Raises:
            InvalidInputError: The data set is not what the model takes, or names its classes otherwise.
        """
        notes = self.check_examples(shape, numbers, field)
        self.check_class_names(class_names, field)
        known = example_shape(shape)
        after = Signature(
            # A vector tells less than rows and columns do.
            known if len(known) > len(self.shape) else self.shape,
            self.numbers.joined(numbers) if self.numbers else numbers,
            self.transform,
            loss,
            class_names or self.class_names,
        )
        return after, notes

    def check_class_names(self, class_names: tuple[str, ...], field: str) -> None:
        """Raises InvalidInputError where a data set's classes have other names than the model's."""
        if class_names and self.class_names and class_names != self.class_names:
            pairs = enumerate(zip(self.class_names, class_names, strict=False))
            number, (own, other) = next(((n, p) for n, p in pairs if p[0] != p[1]), (-1, ("", "")))
            differing = (
                f"class {number} is {own!r}, not {other!r}" if number >= 0 else "there are more or fewer of them"
            )
            raise InvalidInputError(field, f"the model's classes have other names: {differing}")

    def agrees(self, other: "Signature") -> bool:
        """Says whether the same examples mean the same to both."""
        same_type = _fits_type(self.numbers, other.numbers) if other.numbers else True
        return fits(self.shape, other.shape) and same_type and self.transform == other.transform


def example_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Returns the shape of an example as a signature has it: rows and columns get their channel."""
    return (*shape, 1) if len(shape) == 2 else shape


def fits(takes: tuple[int, ...], given: tuple[int, ...]) -> bool:
    """Says whether examples of a shape can be read as another in one way only.

    A flat vector, a missing last axis of 1, and, for a model of vectors, one channel of rows and columns can.
    """
    takes, given = example_shape(takes), example_shape(given)
    if takes == given or given == (math.prod(takes),):
        return True
    return takes == (math.prod(given),) and len(given) == 3 and given[2] == 1


def told(shape: tuple[int, ...], numbers: Numbers | None) -> str:
    """Returns examples in words: "28x28x1 bytes", "30 floats from -1 to 2.5"."""
    return f"{'x'.join(map(str, example_shape(shape)))} {numbers.told if numbers else 'numbers'}"


def check_transform(transform: Transform, numbers: Numbers, field: str) -> None:
    """Raises InvalidInputError where a transform does not take numbers of a type."""
    if transform == "unit" and numbers.data_type != "uint8":
        raise InvalidInputError(
            field, f"unit divides bytes by 255, and these are {numbers.told}, which identity takes as they are"
        )


def _fits_type(takes: Numbers | None, given: Numbers) -> bool:
    """Says whether numbers are of the type that a model takes, or bytes that floats as they are were seen to cover."""
    if takes is None or takes.data_type == given.data_type:
        return True
    if takes.data_type == "uint8" or takes.low is None or given.low is None:
        return False
    (low, high), (given_low, given_high) = takes.range, given.range
    return low <= given_low and 1 < given_high <= high


def _holds_bytes(examples: NDArray[Any]) -> bool:
    return bool(examples.min() >= 0 and 1 < examples.max() <= 255 and (examples == np.floor(examples)).all())


def to_inputs(examples: Array | NDArray[Any], transform: Transform) -> Array:
    """Transforms examples into the network's inputs, float32.

    Raises:
        TypeError: `unit` is asked for and they are not bytes.
    """
    if transform == "unit" and examples.dtype != jnp.uint8:
        raise TypeError(f"unit divides bytes; got {examples.dtype}")
    inputs = jnp.asarray(examples, jnp.float32)
    return inputs / 255 if transform == "unit" else inputs


def unknown(network: Network, transform: Transform = "identity") -> Signature:
    """Returns what is taken for the signature of params whose file does not say it: the network's own inputs."""
    return Signature(network.input_shape, None, transform)


def to_json(signature: Signature) -> str:
    """Returns a signature as the JSON that parameter files and the database hold."""
    inputs: dict[str, Any] = {"shape": signature.shape, "transform": signature.transform}
    if signature.numbers:
        inputs |= {name: value for name, value in asdict(signature.numbers).items() if value is not None}
    return json.dumps({"inputs": inputs, "outputs": {"loss": signature.loss, "class_names": signature.class_names}})


def from_json(text: str, network: Network, field: str) -> Signature:
    """Reads a signature of anybody's JSON, and holds it against the network.

    Raises:
        InvalidInputError: It is none, or not that of the network.
    """
    try:
        found = json.loads(text)
        inputs, outputs = found["inputs"], found["outputs"]
        shape = tuple(int(length) for length in inputs["shape"])
        names = tuple(outputs.get("class_names", ()))
        names = check_class_names(names, field) if names else ()
        data_type = inputs.get("data_type")
        limits = {name: float(inputs[name]) for name in ("low", "high", "mean") if inputs.get(name) is not None}
        numbers = Numbers(data_type, **limits) if data_type is not None else None
        signature = Signature(shape, numbers, inputs["transform"], outputs["loss"], names)
    except (InvalidInputError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InvalidInputError(field, f"its signature is not one: {error!r:.200}") from error
    if problem := _problem(signature, network):
        raise InvalidInputError(field, f"its signature is not one of its network: {problem}")
    return signature


def _problem(signature: Signature, network: Network) -> str:
    numbers = signature.numbers
    rank = len(signature.shape)
    if not 1 <= rank <= MAX_DIMENSIONS or min(signature.shape) < 1 or math.prod(signature.shape) != network.inputs:
        return f"the shape is {list(signature.shape)[:8]}, the network takes {list(network.input_shape)}"
    if signature.transform not in TRANSFORMS or signature.loss not in LOSSES:
        return f"the transform is {signature.transform!r:.80}, the loss {signature.loss!r:.80}"
    if numbers and (
        numbers.data_type not in DATA_TYPES
        or not all(math.isfinite(x) for x in (numbers.low, numbers.high, numbers.mean) if x is not None)
    ):
        return f"its numbers are {numbers!r:.200}"
    if len(signature.class_names) > network.outputs:
        return f"{len(signature.class_names)} names of classes for {network.outputs} outputs"
    return ""
