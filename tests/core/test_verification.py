"""The certificate: what is right passes, and each of many ways to be wrong is caught."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array

from handgrad.core import datasets
from handgrad.core.config import PRESETS, preset
from handgrad.core.network import Loss, Network, make_network
from handgrad.core.operations import (
    affine,
    base,
    convolution,
    normalization,
    residual,
)
from handgrad.core.operations.base import Operation
from handgrad.core.operations.flatten import Flatten
from handgrad.core.operations.table import OPERATIONS
from handgrad.core.verification import Certificate, certify, check_operations

SHAPES = {"resnet": (16, 16, 3)}


def network_of(name: str) -> Network:
    return make_network(preset(name).layers, SHAPES.get(name, (28, 28)), 10)


def told(certificate: Certificate) -> str:
    return "\n".join(map(str, certificate.checks))


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_operation_passes(operation: Operation) -> None:
    certificate = check_operations(3, [operation])
    assert certificate.passed, told(certificate)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_passes(name: str) -> None:
    config = preset(name).config
    certificate = certify(network_of(name), loss=config.objective)
    assert certificate.passed, told(certificate)
    assert len(certificate.checks) == sum(len(layer) for layer in network_of(name).learned)


def test_a_network_passes_on_images(mnist: datasets.Dataset) -> None:
    inputs = mnist.train.images[:6].astype(np.float32)
    for loss in (Loss("squared_error"), Loss(smoothing=0.1)):
        certificate = certify(network_of("report"), loss=loss, inputs=inputs, data="mnist", seed=4)
        assert certificate.passed, told(certificate)
        assert (certificate.batch_size, certificate.data, certificate.seed) == (6, "mnist", 4)
        assert certificate.loss == loss.title


def test_operations_have_no_loss() -> None:
    assert check_operations(operations=OPERATIONS[:1]).loss == ""


def test_no_checks_are_no_pass() -> None:
    assert not Certificate((), 4, 0, "random", "1").passed


# Mutants. Every backward function is broken in each way that changes what it gives.

Backward = Callable[..., tuple[Any, ...]]


def at(index: int, change: Callable[[Array], Array], bwd: Backward) -> Backward:
    """Changes one of the cotangents."""

    def mutant(residuals: Any, g: Array, **settings: Any) -> tuple[Any, ...]:
        cotangents = list(bwd(residuals, g, **settings))
        cotangents[index] = change(cotangents[index])
        return tuple(cotangents)

    return mutant


def of_first_example(index: int, bwd: Backward) -> Backward:
    """Leaves all examples but the first out of one of the cotangents: a missing sum over the batch."""

    def mutant(residuals: Any, g: Array, **settings: Any) -> tuple[Any, ...]:
        cotangents = list(bwd(residuals, g, **settings))
        first = g * (jnp.arange(len(g)) == 0).reshape(-1, *[1] * (g.ndim - 1)) if g.ndim else 0 * g
        cotangents[index] = bwd(residuals, first, **settings)[index]
        return tuple(cotangents)

    return mutant


def of_residual(leaf: int, change: Callable[[Array], Array], bwd: Backward) -> Backward:
    """Takes another residual than the one that was kept."""

    def mutant(residuals: Any, g: Array, **settings: Any) -> tuple[Any, ...]:
        leaves, structure = jax.tree.flatten(residuals)
        leaves[leaf] = change(jnp.asarray(leaves[leaf]))
        return bwd(jax.tree.unflatten(structure, leaves), g, **settings)

    return mutant


def transposed(array: Array) -> Array:
    return jnp.swapaxes(array, 0, -1).reshape(array.shape)


def reversed_rows(array: Array) -> Array:
    return array[::-1]


def _mutants_of(operation: Operation) -> Iterator[tuple[str, Backward]]:
    example = operation.examples(np.random.default_rng(0))[0]
    arrays = [
        jnp.asarray(array, jnp.float32) if array.dtype.kind == "f" else jnp.asarray(array) for array in example.arrays
    ]
    _, residuals = operation.fwd(*arrays, **example.settings)
    for i, array in enumerate(arrays):
        if not jnp.issubdtype(array.dtype, jnp.floating):
            continue
        yield f"sign of {i}", at(i, jnp.negative, operation.bwd)
        yield f"scale of {i}", at(i, lambda x: 1.001 * x, operation.bwd)
        yield f"twice {i}", at(i, lambda x: 2 * x, operation.bwd)
        yield f"nothing of {i}", at(i, jnp.zeros_like, operation.bwd)
        yield f"another constant in {i}", at(i, lambda x: x + 1e-6, operation.bwd)
        yield f"batch not summed in {i}", of_first_example(i, operation.bwd)
        if array.ndim > 1:
            yield f"transposed {i}", at(i, transposed, operation.bwd)
        if array.ndim and len(array) > 1:
            yield f"examples exchanged in {i}", at(i, reversed_rows, operation.bwd)
    for leaf, kept in enumerate(jax.tree.leaves(residuals)):
        if not isinstance(kept, Array):
            continue
        if kept.dtype == bool:
            yield f"residual {leaf} inverted", of_residual(leaf, jnp.logical_not, operation.bwd)
        elif operation.name not in ("relu", "leaky_relu"):
            yield f"residual {leaf} moved", of_residual(leaf, lambda x: x + 1, operation.bwd)
        if kept.ndim and jnp.issubdtype(kept.dtype, jnp.floating):
            yield f"residual {leaf} negated", of_residual(leaf, jnp.negative, operation.bwd)


# What is equivalent is no mutant: it gives the same, since the derivative depends on x by x^2 alone, or n by n^2.
EQUIVALENT = {("tanh", "residual 0 negated")}


def _terms() -> Iterator[tuple[str, str, Backward]]:  # noqa: C901 - a list of small functions
    """Terms that a derivation may lose, of those operations whose backward pass has several."""

    def conv(residuals: Any, g: Array, *, stride: int = 1, padding: Any = 0) -> tuple[Array, ...]:
        inputs, W = residuals
        return convolution.convolution_bwd((inputs, W[:, ::-1, ::-1]), g, stride=stride, padding=padding)

    def conv_of_stride_one(residuals: Any, g: Array, *, stride: int = 1, padding: Any = 0) -> tuple[Array, ...]:
        inputs_grad, W_grad, b_grad = convolution.convolution_bwd(residuals, g, stride=stride, padding=padding)
        return inputs_grad / stride, W_grad, b_grad

    def conv_of_unmirrored_weights(residuals: Any, g: Array, *, stride: int = 1, padding: Any = 0) -> tuple[Array, ...]:
        inputs_grad, W_grad, b_grad = convolution.convolution_bwd(residuals, g, stride=stride, padding=padding)
        return inputs_grad, W_grad[:, ::-1, ::-1], b_grad

    def conv_of_one_place(residuals: Any, g: Array, *, stride: int = 1, padding: Any = 0) -> tuple[Array, ...]:
        inputs_grad, W_grad, _ = convolution.convolution_bwd(residuals, g, stride=stride, padding=padding)
        return inputs_grad, W_grad, jnp.sum(g[:, 0, 0], axis=0)

    for name, mutant in (
        ("the kernel is not mirrored", conv),
        ("the stride divides", conv_of_stride_one),
        ("dW is mirrored", conv_of_unmirrored_weights),
        ("db sums over no places", conv_of_one_place),
    ):
        yield "convolution", name, mutant

    def norm(
        mean_v: int,
        mean_vn: int,
        gamma_there: int,
        residuals: Any,
        g: Array,
        **settings: Any,
    ) -> tuple[Array, ...]:
        normalized, deviation, gamma = residuals
        original = normalization.batch_norm_bwd(residuals, g, **settings)
        v = g * gamma if gamma_there else g
        axes = tuple(range(g.ndim - 1))
        inputs_grad = v - mean_v * jnp.mean(v, axis=axes, keepdims=True)
        inputs_grad -= mean_vn * normalized * jnp.mean(v * normalized, axis=axes, keepdims=True)
        return (inputs_grad / deviation, *original[1:])

    for name, parts in (
        ("the mean's term is lost", (0, 1, 1)),
        ("the variance's term is lost", (1, 0, 1)),
        ("both are lost", (0, 0, 1)),
        ("gamma is lost", (1, 1, 0)),
    ):
        yield "batch_norm", name, partial(norm, *parts)

    def gelu(residuals: Any, g: Array) -> tuple[Array]:
        return (g * residuals[1],)

    def silu(residuals: Any, g: Array) -> tuple[Array]:
        return (g * residuals[0],)

    def softmax(residuals: Any, g: Array) -> tuple[Array]:
        return (g * residuals,)

    def softmax_diagonal(residuals: Any, g: Array) -> tuple[Array]:
        return (g * residuals * (1 - residuals),)

    def sigmoid(residuals: Any, g: Array) -> tuple[Array]:
        return (g * (1 - residuals),)

    def tanh(residuals: Any, g: Array) -> tuple[Array]:
        return (g * (1 - residuals),)

    def elu(residuals: Any, g: Array, *, alpha: float) -> tuple[Array]:
        del alpha
        return (jnp.where(residuals > 0, g, g * (residuals + 1)),)

    def leaky(residuals: Any, g: Array, *, slope: float) -> tuple[Array]:
        del slope
        return (jnp.where(residuals > 0, g, 0),)

    def relu(residuals: Any, g: Array) -> tuple[Array]:
        del residuals
        return (g,)

    def cross_entropy(residuals: Any, g: Array, *, smoothing: float = 0.0) -> tuple[Array, None]:
        del smoothing
        logs, is_label = residuals
        return g * (jnp.exp(logs) - is_label) / len(logs), None

    def cross_entropy_sum(residuals: Any, g: Array, *, smoothing: float = 0.0) -> tuple[Array, None]:
        logs, is_label = residuals
        return g * (jnp.exp(logs) - (1 - smoothing) * is_label - smoothing / logs.shape[1]), None

    def cross_entropy_labels(residuals: Any, g: Array, *, smoothing: float = 0.0) -> tuple[Array, None]:
        del smoothing
        logs, _ = residuals
        return g * jnp.exp(logs) / len(logs), None

    yield from (
        ("gelu", "the density is lost", gelu),
        ("silu", "the gate's derivative is lost", silu),
        ("softmax", "the sum is lost", softmax),
        ("softmax", "the diagonal alone", softmax_diagonal),
        ("sigmoid", "a factor is lost", sigmoid),
        ("tanh", "not squared", tanh),
        ("elu", "alpha is 1", elu),
        ("leaky_relu", "no slope", leaky),
        ("relu", "everything passes", relu),
        ("softmax_cross_entropy", "no smoothing", cross_entropy),
        ("softmax_cross_entropy", "not divided by the batch", cross_entropy_sum),
        ("softmax_cross_entropy", "the labels are lost", cross_entropy_labels),
    )


MUTANTS = [
    (operation, name, mutant)
    for operation in OPERATIONS
    for name, mutant in (
        *_mutants_of(operation),
        *((name, mutant) for wanted, name, mutant in _terms() if wanted == operation.name),
    )
    if (operation.name, name) not in EQUIVALENT
]


def test_there_are_many_mutants() -> None:
    # The count that the documentation tells.
    assert len(MUTANTS) == 351
    assert {operation.name for operation, _, _ in MUTANTS} == {operation.name for operation in OPERATIONS}


@pytest.mark.parametrize(("operation", "name", "mutant"), MUTANTS, ids=[f"{o.name}: {name}" for o, name, _ in MUTANTS])
def test_every_mutant_is_caught(operation: Operation, name: str, mutant: Backward) -> None:
    del name
    # Small operations one by one are compiled once for all mutants; each mutant as a whole, once each.
    with jax.disable_jit():
        assert not check_operations(0, [replace(operation, bwd=mutant)]).passed


SMALL = make_network(
    [
        convolution.Convolution(3, 3, bias=False),
        normalization.BatchNorm(),
        residual.Residual((convolution.Convolution(3, 3, padding="same"),)),
        Flatten(),
        affine.Affine(),
    ],
    (5, 5),
    3,
)


def test_the_small_network_itself_passes() -> None:
    certificate = certify(SMALL)
    assert certificate.passed, told(certificate)


def lost_shortcut(residuals: Any, g: Array) -> tuple[Array, Array]:
    del residuals
    return 0 * g, g


def lost_branch(residuals: Any, g: Array) -> tuple[Array, Array]:
    del residuals
    return g, 0 * g


@pytest.mark.parametrize(
    ("module", "name", "mutant"),
    [
        (residual, "residual_bwd", lost_shortcut),
        (residual, "residual_bwd", lost_branch),
        (affine, "affine_bwd", at(0, jnp.negative, affine.affine_bwd)),
        (affine, "affine_bwd", of_first_example(1, affine.affine_bwd)),
        (convolution, "convolution_bwd", at(0, lambda x: 2 * x, convolution.convolution_bwd)),
        (convolution, "convolution_bwd", at(1, transposed, convolution.convolution_bwd)),
        (normalization, "batch_norm_bwd", at(1, jnp.negative, normalization.batch_norm_bwd)),
    ],
)
def test_a_mutant_inside_a_network_is_caught(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, mutant: Backward
) -> None:
    monkeypatch.setattr(module, name, mutant)
    assert not certify(SMALL).passed


def test_a_loss_of_another_scale_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    chain = base.chain_bwd

    def wrong(layers: Any, residuals: Any, g: Array) -> Any:
        return chain(layers, residuals, 1.01 * g)

    monkeypatch.setattr("handgrad.core.network.chain_bwd", wrong)
    assert not certify(SMALL).passed
