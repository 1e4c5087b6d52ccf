"""Forward passes against known values: golden outputs of other libraries, and each of many wrong formulas is caught."""

import importlib
import inspect
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from numpy.typing import NDArray

from handgrad.core.network import Loss, forward, loss_and_grads, make_network
from handgrad.core.operations import dropout as dropout_module
from handgrad.core.operations import normalization as normalization_module
from handgrad.core.operations.activations import ReLU
from handgrad.core.operations.affine import Affine
from handgrad.core.operations.base import Golden, Operation, Params
from handgrad.core.operations.convolution import Convolution
from handgrad.core.operations.flatten import Flatten
from handgrad.core.operations.normalization import BatchNorm
from handgrad.core.operations.pooling import MaxPool
from handgrad.core.operations.residual import Residual
from handgrad.core.operations.table import OPERATIONS

GOLDEN = [
    pytest.param(operation, golden, id=f"{operation.name} {number}")
    for operation in OPERATIONS
    for number, golden in enumerate(operation.golden, start=1)
]


def arguments(operation: Operation, golden: Golden, dtype: type) -> list[Array]:
    """Returns a golden's arguments, floating where those of the operation's examples are."""
    examples = operation.examples(np.random.default_rng(0))[0].arrays
    return [
        jnp.asarray(np.asarray(array, dtype if example.dtype.kind == "f" else example.dtype))
        for array, example in zip(golden.arrays, examples, strict=True)
    ]


def hold(operation: Operation, golden: Golden) -> None:
    """Holds both functions of an operation that compute its output against a golden one."""
    arrays = arguments(operation, golden, np.float64)
    for output in (operation.op(*arrays, **golden.settings), operation.fwd(*arrays, **golden.settings)[0]):
        np.testing.assert_allclose(output, np.asarray(golden.output), rtol=1e-12)


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_every_operation_has_a_golden_output_and_tells_where_it_is_from(operation: Operation) -> None:
    assert operation.golden
    assert all(golden.source for golden in operation.golden)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(("operation", "golden"), GOLDEN)
def test_the_output_is_the_golden_one(operation: Operation, golden: Golden) -> None:
    hold(operation, golden)


@pytest.mark.parametrize(("operation", "golden"), GOLDEN)
def test_the_output_is_the_golden_one_in_float32(operation: Operation, golden: Golden) -> None:
    output = operation.op(*arguments(operation, golden, np.float32), **golden.settings)
    assert output.dtype == jnp.float32
    np.testing.assert_allclose(output, np.asarray(golden.output), rtol=1e-5, atol=1e-6)


# Layers that keep statistics, or draw


def hold_running_statistics(normalization: Any) -> None:
    """Holds the running statistics after a mini-batch.

    They are PyTorch's: of the running mean and variance a part `decay` stays, which is 1 - momentum there, and the
    variance that is added is the unbiased one, over M - 1. The output is normalized by the biased one, over M. Both
    libraries differ in this from Keras, whose running variance is biased.
    """
    before = {"mean": jnp.array([0.5, -1.0]), "variance": jnp.array([2.0, 0.25])}
    params = {"gamma": jnp.array([2.0, -0.5]), "beta": jnp.array([0.25, 1.0])}
    vectors = np.array([[1, -4], [3, 0], [-2, 2], [5, 6.5]])
    # PyTorch 2.13.0, torch.nn.functional.batch_norm(..., training=True, momentum=1 - decay, eps=1e-5), float64.
    for decay, mean, variance in (
        (0.9, [0.625, -0.7875], [2.69166666666667, 2.13125]),
        (0.6, [1.0, -0.15], [4.76666666666667, 7.775]),
    ):
        layer = normalization.BatchNorm(epsilon=1e-5, decay=decay)
        for inputs in (vectors, vectors.reshape(2, 1, 2, 2)):
            outputs, _, after = layer.fwd(params, before, jnp.asarray(inputs), jax.random.key(0))
            np.testing.assert_allclose(outputs[0].ravel()[:2], [-0.330041459751703, 1.67770885801708], rtol=1e-12)
            np.testing.assert_allclose(after["mean"], mean, rtol=1e-12)
            np.testing.assert_allclose(after["variance"], variance, rtol=1e-12)
        # At inference by hand, since (1 - 0.5) / sqrt(2 + 1e-5) is 0.353552..., and nothing moves.
        outputs, _, after = layer.fwd(params, before, jnp.array([[1.0, -4.0]]), None)
        deviation = np.sqrt([2.00001, 0.25001])
        np.testing.assert_allclose(outputs, [[0.25 + 2 * 0.5 / deviation[0], 1 + 0.5 * 3 / deviation[1]]], rtol=1e-12)
        assert after == before


def hold_dropout(dropout: Any) -> None:
    """Holds dropout: the identity at inference; while training, a part is kept, and scaled so that the mean stays."""
    inputs = jnp.asarray(np.linspace(1, 2, 10_000).reshape(100, 100))
    for rate in (0.2, 0.5):
        layer = dropout.Dropout(rate)
        np.testing.assert_array_equal(layer.fwd({}, {}, inputs, None)[0], inputs)
        outputs = np.asarray(layer.fwd({}, {}, inputs, jax.random.key(1))[0])
        kept = outputs != 0
        np.testing.assert_allclose(outputs[kept], np.asarray(inputs)[kept] / (1 - rate), rtol=1e-12)
        # Five standard deviations of 10,000 draws.
        assert np.mean(kept) == pytest.approx(1 - rate, abs=0.025)
        assert np.mean(outputs) == pytest.approx(1.5, abs=0.08)


LAYERS: dict[str, Callable[[Any], None]] = {"normalization": hold_running_statistics, "dropout": hold_dropout}


@pytest.mark.usefixtures("float64")
def test_batch_normalization_keeps_pytorchs_running_statistics() -> None:
    hold_running_statistics(normalization_module)


@pytest.mark.usefixtures("float64")
def test_dropout_is_the_identity_at_inference_and_keeps_the_mean_in_training() -> None:
    hold_dropout(dropout_module)


def numbers(shape: tuple[int, ...], start: int) -> NDArray[np.float64]:
    """Returns multiples of 1/2 from -1 to 1, in no order that an exchange of axes would leave."""
    return ((np.arange(np.prod(shape)) * 7 + start) % 5 - 2).reshape(shape) / 2


@pytest.mark.usefixtures("float64")
def test_a_networks_outputs_losses_and_statistics_are_pytorchs() -> None:
    network = make_network(
        [
            Convolution(2, 3, padding="same", bias=False),
            BatchNorm(),
            ReLU(),
            Residual((Convolution(2, 3, padding="same"),), shortcut=(Convolution(2, 1),)),
            MaxPool(2),
            Flatten(),
            Affine(),
        ],
        (4, 5),
        3,
    )
    params: Any = (
        {"W": numbers((2, 3, 3, 1), 1)},
        {"gamma": np.array([1.5, -0.5]), "beta": np.array([0.25, 0.5])},
        {},
        {"W": numbers((2, 3, 3, 2), 2), "b": np.array([0.5, -1])},
        {"W": numbers((2, 1, 1, 2), 3), "b": np.array([-0.25, 1.5])},
        *({}, {}),
        {"W": numbers((3, 8), 4), "b": np.array([0.1, -0.2, 0.3])},
    )
    params = jax.tree.map(jnp.asarray, params)
    running = {"mean": jnp.array([0.5, -1]), "variance": jnp.array([2, 0.25])}
    statistics: Params = ({}, running, *({} for _ in params[2:]))
    inputs = jnp.asarray(numbers((2, 20), 0) * np.arange(1, 41).reshape(2, 20) / 8)
    # PyTorch 2.13.0, float64, with the same functions of torch.nn.functional, whose axes were moved.
    np.testing.assert_allclose(
        jax.jit(lambda: forward(network, params, statistics, inputs))(),
        [
            [-0.0706483518543105, 5.64805030867064, -1.30781703479836],
            [3.24705858088414, 9.77326040724527, -7.99176880955159],
        ],
        rtol=1e-12,
    )
    losses = (Loss(), Loss(smoothing=0.2), Loss("squared_error"))
    trained = jax.jit(
        lambda: [
            loss_and_grads(network, params, statistics, inputs, jnp.array([2, 0]), jax.random.key(0), loss)
            for loss in losses
        ]
    )()
    for (found, _, after), expected in zip(
        trained, (1.69192889691798, 1.74480116266623, 5.85006564908864), strict=True
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-12)
        np.testing.assert_allclose(after[1]["mean"], [0.390625, -0.85703125], rtol=1e-12)
        np.testing.assert_allclose(after[1]["variance"], [2.92555088141026, 0.87729241786859], rtol=1e-12)


# Mutants. A formula of a forward pass is replaced in the text of its module, which must then hold no longer.

MUTANTS = [
    ("activations", "sigmoid of -x", "jnp.where(inputs >= 0, 1, decay)", "jnp.where(inputs >= 0, decay, 1)"),
    (
        "activations",
        "hard sigmoid",
        "jnp.where(inputs >= 0, 1, decay) / (1 + decay)",
        "jnp.clip(inputs / 6 + 0.5, 0, 1)",
    ),
    ("activations", "tanh of x / 2", "jnp.tanh(inputs)", "jnp.tanh(inputs / 2)"),
    ("activations", "relu6", "jnp.where(inputs > 0, inputs, 0)\n", "jnp.clip(inputs, 0, 6)\n"),
    ("activations", "no slope", "inputs, slope * inputs)", "inputs, 0.01 * inputs)"),
    ("activations", "elu without alpha", "alpha * jnp.expm1(", "jnp.expm1("),
    ("activations", "elu without -1", "alpha * jnp.expm1(", "alpha * jnp.exp("),
    ("activations", "gelu's constant", "(0.5**0.5)", "0.7071"),
    (
        "activations",
        "gelu by tanh",
        "lax.erfc(-inputs * (0.5**0.5)) / 2",
        "(1 + jnp.tanh((2 / np.pi) ** 0.5 * (inputs + 0.044715 * inputs**3))) / 2",
    ),
    ("activations", "gelu by sigmoid", "lax.erfc(-inputs * (0.5**0.5)) / 2", "sigmoid(1.702 * inputs)"),
    ("activations", "gelu cancels", "lax.erfc(-inputs * (0.5**0.5)) / 2", "(1 + lax.erf(inputs * 0.5**0.5)) / 2"),
    ("activations", "silu's constant", "gate = sigmoid(inputs)", "gate = sigmoid(1.702 * inputs)"),
    ("activations", "softplus of base 2", "jnp.log1p(", "jnp.log2(1 + "),
    ("activations", "softplus of -x", "jnp.where(inputs > 0, inputs + decay", "jnp.where(inputs > 0, decay - inputs"),
    ("affine", "no b", "_rows_by_rows(inputs, W) + b", "_rows_by_rows(inputs, W)"),
    ("affine", "b of another sign", "_rows_by_rows(inputs, W) + b", "_rows_by_rows(inputs, W) - b"),
    ("convolution", "no b", "return outputs + b", "return outputs"),
    ("convolution", "mirrored kernel", "inputs, W, (stride", "inputs, W[:, ::-1, ::-1], (stride"),
    ("convolution", "rows for columns", "inputs, W, (stride", "inputs, W.swapaxes(1, 2), (stride"),
    ("convolution", "no stride", "inputs, W, (stride, stride)", "inputs, W, (1, 1)"),
    ("convolution", "zeros at the end", "[(p, p), (p, p)]", "[(0, 2 * p), (0, 2 * p)]"),
    ("dropout", "not scaled", "kept, inputs / (1 - rate)", "kept, inputs"),
    ("dropout", "scaled by the rate", "kept, inputs / (1 - rate)", "kept, inputs / rate"),
    ("dropout", "scaled to the wrong side", "kept, inputs / (1 - rate)", "kept, inputs * (1 - rate)"),
    (
        "dropout",
        "leaves out what is kept",
        "jnp.where(kept, inputs / (1 - rate), 0)",
        "jnp.where(kept, 0, inputs / (1 - rate))",
    ),
    ("dropout", "the rate is what is kept", "jnp.float32) >= self.rate", "jnp.float32) < self.rate"),
    ("dropout", "scaled at inference", "return inputs, jnp.ones", "return inputs * (1 - self.rate), jnp.ones"),
    (
        "flatten",
        "channels first",
        "inputs.reshape(inputs.shape[0], -1)",
        "inputs.swapaxes(1, -1).reshape(inputs.shape[0], -1)",
    ),
    ("losses", "sum over the batch", "log_probabilities, 0) / B)", "log_probabilities, 0))"),
    ("losses", "mean over the classes too", "log_probabilities, 0) / B)", "log_probabilities, 0) / (B * C))"),
    ("losses", "the label keeps all", "(1 - smoothing) * loss", "loss"),
    ("losses", "smoothed among the others", "(smoothing / (B * C))", "(smoothing / (B * (C - 1)))"),
    ("losses", "no half", "/ (2 * len(outputs))", "/ len(outputs)"),
    ("losses", "mean over the classes", "/ (2 * len(outputs))", "/ (2 * outputs.size)"),
    ("losses", "no half of the decay", "decay / 2 * jnp.sum", "decay * jnp.sum"),
    ("losses", "no square", "decay / 2 * jnp.sum(jnp.square(W))", "decay / 2 * jnp.sum(jnp.abs(W))"),
    (
        "normalization",
        "unbiased in the batch",
        "jnp.square(inputs - mean)) / M",
        "jnp.square(inputs - mean)) / (M - 1)",
    ),
    ("normalization", "mean over the batch alone", "mean = sum_to_last(inputs) / M", "mean = jnp.mean(inputs, axis=0)"),
    (
        "normalization",
        "epsilon behind the root",
        "moments(inputs)\n    deviation = jnp.sqrt(variance + epsilon)",
        "moments(inputs)\n    deviation = jnp.sqrt(variance) + epsilon",
    ),
    (
        "normalization",
        "no root at inference",
        "mean, variance)\n    deviation = jnp.sqrt(variance + epsilon)",
        "mean, variance)\n    deviation = variance + epsilon",
    ),
    (
        "normalization",
        "momentum of the mean",
        'self.decay * statistics["mean"]',
        '(1 - self.decay) * statistics["mean"]',
    ),
    (
        "normalization",
        "momentum swapped",
        '"variance": self.decay * statistics["variance"] + (1 - self.decay) *',
        '"variance": (1 - self.decay) * statistics["variance"] + self.decay *',
    ),
    ("normalization", "biased running variance", "variance * (size / max(size - 1, 1))", "variance"),
    ("normalization", "starts at the batch", "(1 - self.decay) * mean", "mean"),
    (
        "normalization",
        "the batch's own moments at inference",
        'mean, variance = statistics["mean"], statistics["variance"]',
        "mean, variance = moments(inputs)",
    ),
    (
        "normalization",
        "unbiased in the example",
        "jnp.mean(jnp.square(inputs - mean), axis=-1, keepdims=True)",
        "jnp.var(inputs, axis=-1, keepdims=True, ddof=1)",
    ),
    (
        "normalization",
        "mean of the whole example",
        "mean = jnp.mean(inputs, axis=-1, keepdims=True)",
        "mean = jnp.mean(inputs, axis=tuple(range(1, inputs.ndim)), keepdims=True)",
    ),
    ("pooling", "average over a side", "total / window**2, inputs", "total / window, inputs"),
    ("pooling", "average of the sum", "total / window**2, inputs", "total, inputs"),
    ("pooling", "smallest", "part > outputs", "part < outputs"),
    ("pooling", "not below 0", "outputs = next(parts)", "outputs = jnp.maximum(next(parts), 0)"),
    ("pooling", "stride is the window", "j : j + columns : stride]", "j : j + columns : window]"),
    ("residual", "no shortcut", "shortcut + branch, None", "branch, None"),
    ("residual", "taken off", "shortcut + branch, None", "shortcut - branch, None"),
    ("softmax", "of base 2", "exponentials = jnp.exp(", "exponentials = jnp.exp2("),
    ("softmax", "overflows", "jnp.exp(logits - jnp.max(logits, axis=-1, keepdims=True))", "jnp.exp(logits)"),
    (
        "softmax",
        "over the rows",
        "jnp.sum(exponentials, axis=-1, keepdims=True)",
        "jnp.sum(exponentials, axis=1, keepdims=True)",
    ),
]


def hold_module(module: ModuleType, name: str) -> None:
    """Holds all operations that a module defines, and its layers."""
    values = vars(module).values()
    own = [value for value in values if isinstance(value, Operation)]
    own += [vars(value)["operation"] for value in values if isinstance(value, type) and "operation" in vars(value)]
    for operation in own:
        for golden in operation.golden:
            hold(operation, golden)
    if name in LAYERS:
        LAYERS[name](module)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize(
    ("name", "old", "new"),
    [(name, old, new) for name, _, old, new in MUTANTS],
    ids=[f"{name}: {told}" for name, told, _, _ in MUTANTS],
)
def test_a_wrong_formula_is_caught(monkeypatch: pytest.MonkeyPatch, name: str, old: str, new: str) -> None:
    source = inspect.getsource(importlib.import_module(f"handgrad.core.operations.{name}"))
    assert source.count(old) == 1, "the formula that this mutant replaces"
    mutant = ModuleType(f"mutant_{name}")
    monkeypatch.setitem(sys.modules, mutant.__name__, mutant)
    exec(source.replace(old, new), vars(mutant))  # noqa: S102 - our own text
    with pytest.raises(AssertionError):
        hold_module(mutant, name)


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", sorted({name for name, *_ in MUTANTS}))
def test_a_module_as_it_is_holds(name: str) -> None:
    hold_module(importlib.import_module(f"handgrad.core.operations.{name}"), name)
