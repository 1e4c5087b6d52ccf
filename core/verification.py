"""The certificate: hand-written gradients held against autodiff, against differences, and float32 against float64.

Each array of gradients is judged three times.

- **autodiff**, in float64: the hand-written gradient a against that of `jax.grad`, b. Both are exact up to rounding,
  about 1e-16 for each operation, so 1e-10 leaves room for long sums, and for nothing else.
- **differences**, in float64: the derivative along random directions d of length 1, (E(theta + h d) - E(theta - h d)) /
  2h, against <a, d>. It knows nothing of derivatives, and so judges autodiff too. With h = 1e-7 its own error is about
  1e-16 / h for rounding, and that of the few rectifiers and largest numbers that change side within h, each of which
  moves the slope by its own part of it. 1e-3 leaves room for both.
- **float32**: the hand-written gradient in float32, in which training runs, against that in float64. A float32 rounds
  by 6e-8, which deep sums and normalizations amplify; 1e-2 is what training does not notice.

Errors are relative: the largest, |a - b| over the largest |b| of the array; the typical one, the root of the mean of
the squares of both. An array whose own gradient is less than a thousandth of the network's largest, such as a bias in
front of a normalization, whose true gradient is 0, is held against that thousandth instead, for it is rounding alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from handgrad.core.network import CROSS_ENTROPY, Loss, Network, init, initial_statistics, loss_and_grads, training_loss
from handgrad.core.operations.base import Example, Operation, Params
from handgrad.core.operations.table import OPERATIONS

AUTODIFF_TOLERANCE: Final = 1e-10
DIFFERENCES_TOLERANCE: Final = 1e-3
FLOAT32_TOLERANCE: Final = 1e-2

STEP: Final = 1e-7
DIRECTIONS: Final = 2
BATCH_SIZE: Final = 4
MAX_PARAMETERS: Final = 3_000_000
"""A network with more is not certified: float64, autodiff and its residuals would take a server's memory."""

_FLOOR: Final = 1e-3
_SMALLEST: Final = 1e-5
"""What an array's largest gradient is taken for, at least. dE/dz of the losses is a difference of numbers near 1,
rounded by 1e-16: of a network that is sure of every label, nothing can be told to 1e-10 but that it is small."""

Arrays = NDArray[Any]


@dataclass(frozen=True)
class ArrayCheck:
    """What was found of the gradient of one array.

    Attributes:
        name: The array: `W_1`, or an argument of an operation.
        part: What it belongs to: the kind of its layer, or the operation.
        shape: Its shape.
        autodiff_max: Largest relative error against autodiff, float64.
        autodiff_typical: Typical relative error against autodiff, float64.
        differences_max: Largest relative error against differences, float64.
        float32_max: Largest relative error of float32 against float64.
        float32_typical: Typical relative error of float32 against float64.
    """

    name: str
    part: str
    shape: tuple[int, ...]
    autodiff_max: float
    autodiff_typical: float
    differences_max: float
    float32_max: float
    float32_typical: float

    @property
    def passed(self) -> bool:
        """Whether each error is within its tolerance. A NaN is not."""
        return (
            self.autodiff_max <= AUTODIFF_TOLERANCE
            and self.differences_max <= DIFFERENCES_TOLERANCE
            and self.float32_max <= FLOAT32_TOLERANCE
        )


@dataclass(frozen=True)
class Certificate:
    """What was found of all arrays.

    Attributes:
        checks: One for each array.
        batch_size: Examples in the mini-batch that it was checked with; 0 for operations, which have their own.
        seed: Of what was drawn.
        data: What the inputs were: `random`, or the name of a data set.
        jax: The version of jax that judged.
        loss: The title of the loss that was differentiated; empty for operations, which have their own cotangents.
            Certificates from before losses were told are of the plain cross-entropy.
    """

    checks: tuple[ArrayCheck, ...]
    batch_size: int
    seed: int
    data: str
    jax: str
    loss: str = CROSS_ENTROPY.title

    @property
    def passed(self) -> bool:
        """Whether there are checks, and all of them passed."""
        return bool(self.checks) and all(check.passed for check in self.checks)


def check_operations(seed: int = 0, operations: Sequence[Operation] = OPERATIONS) -> Certificate:
    """Checks operations, each at all of its examples; an argument's errors are the largest of these."""
    checks = [check for operation in operations for check in _check_operation(operation, seed)]
    return Certificate(tuple(checks), 0, seed, "random", jax.__version__, loss="")


def _check_operation(operation: Operation, seed: int) -> list[ArrayCheck]:
    generator = np.random.default_rng(seed)
    found: dict[int, list[ArrayCheck]] = {}
    for example in operation.examples(generator):
        for argument, check in _check_example(operation, example, generator):
            found.setdefault(argument, []).append(check)
    worst = ("autodiff_max", "autodiff_typical", "differences_max", "float32_max", "float32_typical")
    return [
        ArrayCheck(
            f"argument {argument + 1}",
            operation.name,
            checks[0].shape,
            # max() would pass over a NaN that is not the first.
            **{name: float(np.max([getattr(check, name) for check in checks])) for name in worst},
        )
        for argument, checks in found.items()
    ]


def _check_example(
    operation: Operation, example: Example, generator: np.random.Generator
) -> list[tuple[int, ArrayCheck]]:
    """Checks <op(arrays), c> for a random cotangent c, a scalar, by each array that is floating."""
    settings = example.settings
    differentiated = [i for i, array in enumerate(example.arrays) if array.dtype.kind == "f"]

    def hand(arrays: Sequence[Array], cotangent: Array) -> list[Any]:
        _, residuals = operation.fwd(*arrays, **settings)
        grads = operation.bwd(residuals, cotangent, **settings)
        return [grads[i] for i in differentiated]

    with jax.enable_x64(new_val=True):
        arrays = [jnp.asarray(array) for array in example.arrays]
        output = operation.op(*arrays, **settings)
        cotangent = jnp.asarray(generator.normal(size=output.shape))

        def scalar(parts: Sequence[Array]) -> Array:
            whole = list(arrays)
            for i, part in zip(differentiated, parts, strict=True):
                whole[i] = part
            return jnp.vdot(operation.op(*whole, **settings), cotangent)

        parts = [arrays[i] for i in differentiated]
        found = [np.asarray(grad) for grad in jax.jit(hand)(arrays, cotangent)]
        expected = [np.asarray(grad) for grad in jax.jit(jax.grad(scalar))(parts)]
        directions = _differences(jax.jit(scalar), parts, generator)
    single = [
        np.asarray(array, np.float32) if array.dtype.kind == "f" else np.asarray(array) for array in example.arrays
    ]
    with jax.enable_x64(new_val=False):
        rounded = jax.jit(hand)([jnp.asarray(array) for array in single], jnp.asarray(np.float32(cotangent)))
        rounded = [np.asarray(grad) for grad in rounded]
    names = [("", operation.name)] * len(found)
    return list(zip(differentiated, _judged(names, found, expected, directions, rounded), strict=True))


def check_network(
    network: Network,
    params: Params,
    statistics: Params,
    inputs: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    *,
    loss: Loss = CROSS_ENTROPY,
    seed: int = 0,
    data: str = "random",
) -> Certificate:
    """Checks the gradients of a network by each of its arrays.

    Args:
        network: The architecture, of MAX_PARAMETERS parameters at most.
        params: Its params.
        statistics: What its layers keep besides.
        inputs: `[B, D]`, as they enter the network.
        labels: `[B]`.
        loss: What is minimized.
        seed: Of the directions, and of the mini-batch's key.
        data: What the inputs are.
    """
    generator = np.random.default_rng(seed)
    key = jax.random.key(seed)
    exact = partial(jax.tree.map, lambda array: np.asarray(array, np.float64))
    grads_of = jax.jit(
        lambda params, statistics, inputs: loss_and_grads(
            network, params, statistics, inputs, jnp.asarray(labels), key, loss
        )[1]
    )
    with jax.enable_x64(new_val=True):
        theta, kept, X = jax.tree.map(jnp.asarray, (exact(params), exact(statistics), np.asarray(inputs, np.float64)))
        leaves, structure = jax.tree.flatten(theta)

        def scalar(parts: Sequence[Array]) -> Array:
            whole = jax.tree.unflatten(structure, parts)
            return training_loss(network, whole, kept, X, jnp.asarray(labels), key, loss)

        found = [np.asarray(grad) for grad in jax.tree.leaves(grads_of(theta, kept, X))]
        expected = [np.asarray(grad) for grad in jax.jit(jax.grad(scalar))(leaves)]
        directions = _differences(jax.jit(scalar), leaves, generator)
    with jax.enable_x64(new_val=False):
        single = jax.tree.map(lambda array: jnp.asarray(np.float32(array)), (theta, kept, X))
        rounded = [np.asarray(grad) for grad in jax.tree.leaves(grads_of(*single))]
    checks = _judged(_names_of(network, params), found, expected, directions, rounded)
    return Certificate(tuple(checks), len(labels), seed, data, jax.__version__, loss.title)


def certify(
    network: Network,
    *,
    loss: Loss = CROSS_ENTROPY,
    inputs: NDArray[np.float32] | None = None,
    data: str = "random",
    seed: int = 0,
) -> Certificate:
    """Checks a network's gradients at random params, so that what begins as zeros hides nothing.

    Args:
        network: The architecture.
        loss: What is minimized.
        inputs: `[B, D]`; None for numbers of N(0, 1).
        data: What the inputs are.
        seed: Of what is drawn.
    """
    generator = np.random.default_rng(seed)

    def moved(array: Array) -> Arrays:
        drawn: Arrays = np.asarray(array) + np.float32(0.1) * generator.normal(size=array.shape).astype(np.float32)
        return drawn

    if inputs is None:
        inputs = generator.normal(size=(BATCH_SIZE, network.inputs)).astype(np.float32)
    labels = generator.integers(0, network.outputs, len(inputs))
    params = jax.tree.map(moved, init(network, jax.random.key(seed)))
    return check_network(network, params, initial_statistics(network), inputs, labels, loss=loss, seed=seed, data=data)


def _differences(
    scalar: Callable[[Sequence[Array]], Array], parts: Sequence[Array], generator: np.random.Generator
) -> list[list[tuple[Arrays, float]]]:
    """Gives, for each array, some directions and the derivative along each, by central differences."""
    found: list[list[tuple[Arrays, float]]] = []
    for i, part in enumerate(parts):
        found.append([])
        for _ in range(DIRECTIONS):
            direction = generator.normal(size=part.shape)
            direction /= np.linalg.norm(direction)
            ahead, behind = (
                float(scalar([*parts[:i], part + sign * STEP * direction, *parts[i + 1 :]])) for sign in (1, -1)
            )
            found[-1].append((direction, (ahead - behind) / (2 * STEP)))
    return found


def _judged(
    names: Sequence[tuple[str, str]],
    found: Sequence[Arrays],
    expected: Sequence[Arrays],
    directions: Sequence[Sequence[tuple[Arrays, float]]],
    rounded: Sequence[Arrays],
) -> list[ArrayCheck]:
    floor = max([_SMALLEST, *(_FLOOR * float(np.abs(array).max(initial=0)) for array in expected)])
    checks = []
    for (name, part), a, b, along, single in zip(names, found, expected, directions, rounded, strict=True):
        largest = max(float(np.abs(b).max(initial=0)), floor)
        typical = max(_root_mean_square(b), floor)
        slopes = [abs(slope - float(np.vdot(a, direction))) for direction, slope in along]
        checks.append(
            ArrayCheck(
                name,
                part,
                a.shape,
                autodiff_max=float(np.abs(a - b).max(initial=0)) / largest,
                autodiff_typical=_root_mean_square(a - b) / typical,
                differences_max=float(np.max(slopes)) / typical,
                float32_max=float(np.abs(single - a).max(initial=0)) / largest,
                float32_typical=_root_mean_square(single - a) / typical,
            )
        )
    return checks


def _root_mean_square(array: Arrays) -> float:
    return float(np.sqrt(np.mean(np.square(array, dtype=np.float64)))) if array.size else 0.0


def _names_of(network: Network, params: Params) -> list[tuple[str, str]]:
    """Gives each array's name, as parameter files have it, and the kind of its layer, in the order of jax's leaves."""
    names: list[tuple[str, str]] = []
    numbers = iter(range(1, len(params) + 1))
    for leaf, template, layer in zip(network.leaves, network.templates, params, strict=True):
        if template:
            k = next(numbers)
            names += [(f"{array}_{k}", leaf.kind) for array in sorted(layer)]
    return names
