"""Optimizers: each is a pair `(init, update)` of pure functions on pytrees, gathered in an `Optimizer`."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import Array

from handgrad.core.network import Params

OptState: TypeAlias = tuple[Params, ...]


class Hyperparameters(NamedTuple):
    """The numbers of an update: scalar arrays, so that they can differ between networks that `jax.vmap` trains at once.

    Attributes:
        learning_rate: Step size, eta.
        momentum: Part of the step before that each step repeats, mu, 0 to less than 1.
    """

    learning_rate: Array
    momentum: Array


class Optimizer(NamedTuple):
    """An optimizer.

    Attributes:
        name: What it is called where its state is kept.
        init: `init(params) -> opt_state`, the state before the first update.
        update: `update(grads, opt_state, params, hyperparameters) -> (params, opt_state)`, one step.
    """

    name: str
    init: Callable[[Params], OptState]
    update: Callable[[Params, OptState, Params, Hyperparameters], tuple[Params, OptState]]


def _sgd_init(params: Params) -> OptState:
    del params
    return ()


def _sgd_update(
    grads: Params, opt_state: OptState, params: Params, hyperparameters: Hyperparameters
) -> tuple[Params, OptState]:
    return jax.tree.map(lambda p, g: p - hyperparameters.learning_rate * g, params, grads), opt_state


SGD = Optimizer("sgd", _sgd_init, _sgd_update)
"""Stochastic gradient descent, theta <- theta - eta dE/dtheta: Robbins and Monro 1951, with a step that is fixed."""


def _momentum_init(params: Params) -> OptState:
    return (jax.tree.map(jnp.zeros_like, params),)


def _momentum_update(
    grads: Params, opt_state: OptState, params: Params, hyperparameters: Hyperparameters
) -> tuple[Params, OptState]:
    eta, mu = hyperparameters
    (velocity,) = opt_state
    velocity = jax.tree.map(lambda v, g: mu * v - eta * g, velocity, grads)
    return jax.tree.map(jnp.add, params, velocity), (velocity,)


MOMENTUM = Optimizer("momentum", _momentum_init, _momentum_update)
"""Classical momentum, v <- mu v - eta dE/dtheta, theta <- theta + v, from v = 0: Polyak 1964, as written in Sutskever,
Martens, Dahl and Hinton 2013, equations 1 and 2."""


def optimizer_of(momentum: float) -> Optimizer:
    """Gives the optimizer of a run: plain SGD without momentum, which has no state to carry."""
    return MOMENTUM if momentum else SGD
