"""Optimizers: each is a pair `(init, update)` of pure functions on pytrees, gathered in an `Optimizer`.

In the formulas, theta is an array of the params, g = dE/dtheta, eta the learning rate, t = 1, 2, 3, ... the number of
the update; squares, roots and quotients of arrays are of each element.
"""

from collections.abc import Callable
from typing import Final, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from handgrad.core.operations.base import Params


class OptState(NamedTuple):
    """What an optimizer keeps.

    Attributes:
        slots: Pytrees shaped like the params.
        steps: Updates done, a scalar int32; None for an optimizer that does not count.
    """

    slots: tuple[Params, ...] = ()
    steps: Array | None = None


class Hyperparameters(NamedTuple):
    """The numbers of an update: scalar arrays, so that they can differ between networks that `jax.vmap` trains at once.

    Attributes:
        learning_rate: Step size, eta.
        momentum: Part of the step before that each step repeats, mu; Adam's beta_1. 0 to less than 1.
        beta2: Part of a mean of squares that stays: Adam's beta_2, RMSProp's and AdaDelta's rho. 0 to less than 1.
        epsilon: Added to what is divided by.
        weight_decay: lambda: of the penalty, or of the step itself for the optimizers that decouple it.
        clip_norm: The largest norm that the gradients may have together.
    """

    learning_rate: Array
    momentum: Array
    beta2: Array
    epsilon: Array
    weight_decay: Array
    clip_norm: Array


class Optimizer(NamedTuple):
    """An optimizer.

    Attributes:
        name: What it is called in a configuration, and where its state is kept.
        init: `init(params) -> opt_state`, the state before the first update.
        update: `update(grads, opt_state, params, hyperparameters) -> (params, opt_state)`, one step.
        momentum: What the hyperparameter is where nobody says.
        beta2: What the hyperparameter is where nobody says.
        epsilon: What the hyperparameter is where nobody says.
        reads: Those of these three that it reads. All read the others: learning rate, weight decay and clipping norm.
        decoupled: Whether it applies the weight decay by itself, apart from the gradient.
    """

    name: str
    init: Callable[[Params], OptState]
    update: Callable[[Params, OptState, Params, Hyperparameters], tuple[Params, OptState]]
    momentum: float
    beta2: float
    epsilon: float
    reads: frozenset[str]
    decoupled: bool


class Update(NamedTuple):
    """The numbers of an update of one array.

    Attributes:
        learning_rate: As in Hyperparameters.
        momentum: As in Hyperparameters.
        beta2: As in Hyperparameters.
        epsilon: As in Hyperparameters.
        weight_decay: As in Hyperparameters.
        clip_norm: As in Hyperparameters.
        t: Number of the update, 1, 2, 3, ..., for an optimizer that counts.
        is_weight: Whether the array is one of weights.
    """

    learning_rate: Array
    momentum: Array
    beta2: Array
    epsilon: Array
    weight_decay: Array
    clip_norm: Array
    t: Array
    is_weight: bool


Rule: TypeAlias = Callable[..., tuple[Array, ...]]
"""`rule(update, theta, g, *slots) -> (theta, *slots)`, for one array."""


def _optimizer(
    name: str,
    rule: Rule,
    *,
    slots: int,
    reads: tuple[str, ...],
    counts: bool = False,
    momentum: float = 0.0,
    beta2: float = 0.0,
    epsilon: float = 0.0,
    decoupled: bool = False,
) -> Optimizer:
    """Makes an optimizer of a rule for one array."""

    def initial(params: Params) -> OptState:
        zeros = tuple(jax.tree.map(jnp.zeros_like, params) for _ in range(slots))
        return OptState(zeros, jnp.zeros((), jnp.int32) if counts else None)

    def update(
        grads: Params, opt_state: OptState, params: Params, hyperparameters: Hyperparameters
    ) -> tuple[Params, OptState]:
        steps = None if opt_state.steps is None else opt_state.steps + 1
        t = jnp.int32(0) if steps is None else steps
        new: tuple[list[dict[str, Array]], ...] = tuple([] for _ in range(slots + 1))
        for layer, layer_grads, *layer_slots in zip(params, grads, *opt_state.slots, strict=True):
            for tree in new:
                tree.append({})
            for array, theta in layer.items():
                old = (slot[array] for slot in layer_slots)
                results = rule(Update(*hyperparameters, t, array == "W"), theta, layer_grads[array], *old)
                for tree, result in zip(new, results, strict=True):
                    tree[-1][array] = result
        first, *rest = (tuple(tree) for tree in new)
        return first, OptState(tuple(rest), steps)

    return Optimizer(name, initial, update, momentum, beta2, epsilon, frozenset(reads), decoupled)


def _sgd(u: Update, theta: Array, g: Array) -> tuple[Array, ...]:
    """Steps down the gradient, theta <- theta - eta g: Robbins and Monro 1951, with a step that is fixed."""
    return (theta - u.learning_rate * g,)


def _momentum(u: Update, theta: Array, g: Array, v: Array) -> tuple[Array, ...]:
    """Classical momentum, v <- mu v - eta g, theta <- theta + v, from v = 0.

    Polyak 1964, as written in Sutskever, Martens, Dahl, Hinton, "On the importance of initialization and momentum in
    deep learning", ICML 2013, equations 1 and 2.
    """
    v = u.momentum * v - u.learning_rate * g
    return theta + v, v


def _nesterov(u: Update, theta: Array, g: Array, v: Array) -> tuple[Array, ...]:
    """Nesterov's momentum: v <- mu v - eta g, theta <- theta + mu v - eta g.

    Nesterov 1983; Sutskever and others 2013, equations 3 and 4, whose gradient stands at theta + mu v: this is the same
    with that point as the params, as in Bengio, Boulanger-Lewandowski, Pascanu, "Advances in optimizing recurrent
    networks" (2012), equations 6 and 7.
    """
    v = u.momentum * v - u.learning_rate * g
    return theta + u.momentum * v - u.learning_rate * g, v


def _adagrad(u: Update, theta: Array, g: Array, s: Array) -> tuple[Array, ...]:
    """AdaGrad: s <- s + g^2, theta <- theta - eta g / (sqrt(s) + epsilon).

    Duchi, Hazan, Singer, "Adaptive subgradient methods for online learning and stochastic optimization", JMLR 12
    (2011), figure 1 with the diagonal matrix.
    """
    s = s + jnp.square(g)
    return theta - u.learning_rate * g / (jnp.sqrt(s) + u.epsilon), s


def _rmsprop(u: Update, theta: Array, g: Array, s: Array) -> tuple[Array, ...]:
    """RMSProp: s <- rho s + (1 - rho) g^2, theta <- theta - eta g / (sqrt(s) + epsilon).

    Tieleman, Hinton, "Neural networks for machine learning", lecture 6.5 (2012).
    """
    s = u.beta2 * s + (1 - u.beta2) * jnp.square(g)
    return theta - u.learning_rate * g / (jnp.sqrt(s) + u.epsilon), s


def _adadelta(
    u: Update,
    theta: Array,
    g: Array,
    s: Array,
    d: Array,
) -> tuple[Array, ...]:
    """AdaDelta: s <- rho s + (1 - rho) g^2, x = -sqrt(d + epsilon) / sqrt(s + epsilon) g, d <- rho d + (1 - rho) x^2.

    Then theta <- theta + eta x; the paper has eta = 1. Zeiler, "ADADELTA: an adaptive learning rate method" (2012),
    algorithm 1.
    """
    s = u.beta2 * s + (1 - u.beta2) * jnp.square(g)
    x = -jnp.sqrt(d + u.epsilon) / jnp.sqrt(s + u.epsilon) * g
    return theta + u.learning_rate * x, s, u.beta2 * d + (1 - u.beta2) * jnp.square(x)


def _adam(
    u: Update,
    theta: Array,
    g: Array,
    m: Array,
    v: Array,
) -> tuple[Array, ...]:
    """Adam: m <- beta_1 m + (1 - beta_1) g, v <- beta_2 v + (1 - beta_2) g^2, and with the bias of both taken off,

    theta <- theta - eta (m / (1 - beta_1^t)) / (sqrt(v / (1 - beta_2^t)) + epsilon).

    Kingma, Ba, "Adam: a method for stochastic optimization", ICLR 2015, algorithm 1.
    """  # noqa: D415 - the formula belongs to the sentence
    m = u.momentum * m + (1 - u.momentum) * g
    v = u.beta2 * v + (1 - u.beta2) * jnp.square(g)
    updates = u.t.astype(theta.dtype)
    mean, square = m / (1 - u.momentum**updates), v / (1 - u.beta2**updates)
    return theta - u.learning_rate * mean / (jnp.sqrt(square) + u.epsilon), m, v


def _adamw(
    u: Update,
    theta: Array,
    g: Array,
    m: Array,
    v: Array,
) -> tuple[Array, ...]:
    """AdamW: Adam's step, and besides it theta <- theta - eta lambda theta for the weights.

    Loshchilov, Hutter, "Decoupled weight decay regularization", ICLR 2019, algorithm 2, line 12, with lambda multiplied
    by the learning rate as its own code has it.
    """
    after, m, v = _adam(u, theta, g, m, v)
    return after - u.learning_rate * u.weight_decay * theta if u.is_weight else after, m, v


def _muon(
    u: Update,
    theta: Array,
    g: Array,
    m: Array,
    v: Array,
) -> tuple[Array, ...]:
    """Muon for weights, AdamW for all other arrays.

    m <- mu m + g, and with O the nearest matrix to g + mu m whose singular values are all equal, a weight of H rows and
    D columns (a kernel's elements and channels being its columns) is changed by

        theta <- theta - eta (0.2 sqrt(max(H, D)) O + lambda theta)

    Jordan and others, "Muon: an optimizer for hidden layers in neural networks" (2024); the factor, with which one
    learning rate fits this step and AdamW's: Liu and others, "Muon is scalable for LLM training" (2025), equation 4.
    """
    if not u.is_weight:
        return _adamw(u, theta, g, m, v)
    m = u.momentum * m + g
    matrix = (g + u.momentum * m).reshape(len(theta), -1)
    step = 0.2 * max(matrix.shape) ** 0.5 * orthogonalized(matrix).reshape(theta.shape)
    return theta - u.learning_rate * (step + u.weight_decay * theta), m, v


def orthogonalized(matrix: Array) -> Array:
    """Brings all singular values of a matrix near 1, by five Newton-Schulz iterations; the vectors stay.

    X <- a X + b (X X^T) X + c (X X^T)^2 X from X = M / |M| takes each singular value x to a x + b x^3 + c x^5; with
    a, b, c = 3.4445, -4.7750, 2.0315 any of them, but the smallest, ends between 0.7 and 1.2.

    References:
        Jordan and others (2024); Bernstein, Newhouse, "Old optimizer, new norm" (2024), appendix A.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    wide = matrix.shape[0] <= matrix.shape[1]
    X = matrix if wide else matrix.T
    X = X / (jnp.linalg.norm(X) + 1e-7)
    for _ in range(5):
        A = X @ X.T
        X = a * X + (b * A + c * A @ A) @ X
    orthogonal: Array = X if wide else X.T
    return orthogonal


_ALL: Final = ("momentum", "beta2", "epsilon")

# With momentum, plain SGD is classical momentum: TrainConfig.method chooses.
SGD: Final = _optimizer("sgd", _sgd, slots=0, reads=("momentum",))
MOMENTUM: Final = _optimizer("momentum", _momentum, slots=1, reads=("momentum",), momentum=0.9)
OPTIMIZERS: Final = {
    optimizer.name: optimizer
    for optimizer in (
        SGD,
        MOMENTUM,
        _optimizer("nesterov", _nesterov, slots=1, reads=("momentum",), momentum=0.9),
        _optimizer("adagrad", _adagrad, slots=1, reads=("epsilon",), epsilon=1e-10),
        _optimizer("rmsprop", _rmsprop, slots=1, reads=("beta2", "epsilon"), beta2=0.9, epsilon=1e-8),
        _optimizer("adadelta", _adadelta, slots=2, reads=("beta2", "epsilon"), beta2=0.95, epsilon=1e-6),
        _optimizer("adam", _adam, slots=2, reads=_ALL, counts=True, momentum=0.9, beta2=0.999, epsilon=1e-8),
        _optimizer(
            "adamw", _adamw, slots=2, reads=_ALL, counts=True, momentum=0.9, beta2=0.999, epsilon=1e-8, decoupled=True
        ),
        _optimizer(
            "muon", _muon, slots=2, reads=_ALL, counts=True, momentum=0.95, beta2=0.999, epsilon=1e-8, decoupled=True
        ),
    )
}


def clipped(grads: Params, max_norm: Array) -> Params:
    """Scales gradients so that their norm, of all arrays together, is at most `max_norm`: g min(1, max_norm / |g|).

    References:
        Pascanu, Mikolov, Bengio, "On the difficulty of training recurrent neural networks", ICML 2013, algorithm 1.
    """
    squares = [jnp.sum(jnp.square(g)) for g in jax.tree.leaves(grads)]
    norm = jnp.sqrt(sum(squares[1:], start=squares[0])) if squares else max_norm
    scale = jnp.minimum(1, max_norm / jnp.maximum(norm, float(np.finfo(norm.dtype).tiny)))
    scaled: Params = jax.tree.map(lambda g: g * scale, grads)
    return scaled
