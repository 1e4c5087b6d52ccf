"""Optimizers: each is a pair `(init, update)` of pure functions on pytrees, gathered in an `Optimizer`."""

from collections.abc import Callable
from typing import NamedTuple, TypeAlias

import jax
from jax import Array

from handgrad.core.network import Params

OptState: TypeAlias = tuple[Params, ...]


class Optimizer(NamedTuple):
    """An optimizer.

    Attributes:
        init: `init(params) -> opt_state`, the state before the first update.
        update: `update(grads, opt_state, params, learning_rate) -> (params, opt_state)`, one step. `learning_rate` is a
            scalar array, so that it can differ between networks that `jax.vmap` trains at once.
    """

    init: Callable[[Params], OptState]
    update: Callable[[Params, OptState, Params, Array], tuple[Params, OptState]]


def _sgd_init(params: Params) -> OptState:
    del params
    return ()


def _sgd_update(grads: Params, opt_state: OptState, params: Params, learning_rate: Array) -> tuple[Params, OptState]:
    return jax.tree.map(lambda p, g: p - learning_rate * g, params, grads), opt_state


SGD = Optimizer(_sgd_init, _sgd_update)
"""Stochastic gradient descent, theta <- theta - eta dE/dtheta: Robbins and Monro 1951, with a step that is fixed."""
