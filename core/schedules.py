"""Learning rates over a run: each schedule gives, for iterations counted from 0, the part of the rate that is taken.

t is the iteration in epochs, so that a schedule means the same at any batch size, and T the epochs of the run.
"""

import math
from collections.abc import Callable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]


def constant(t: Times, T: float, factor: float, every: float) -> Times:
    """1."""
    del T, factor, every
    return np.ones_like(t)


def step(t: Times, T: float, factor: float, every: float) -> Times:
    """Gives factor^floor(t / every).

    Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks", NIPS 2012,
    section 5.
    """
    del T
    return factor ** np.floor(t / every)


def exponential(t: Times, T: float, factor: float, every: float) -> Times:
    """Gives factor^(t / every): Robbins and Monro's decreasing steps, in the form of geometric decay."""
    del T
    return factor ** (t / every)


def cosine(t: Times, T: float, factor: float, every: float) -> Times:
    """Gives factor + (1 - factor) (1 + cos(pi t / T)) / 2, from 1 down to factor.

    Loshchilov, Hutter, "SGDR: stochastic gradient descent with warm restarts", ICLR 2017, equation 5, one period.
    """
    del every
    return factor + (1 - factor) * (1 + np.cos(math.pi * np.minimum(t / T, 1))) / 2


class Schedule(NamedTuple):
    """A schedule.

    Attributes:
        rate: `rate(t, T, factor, every) -> part of the rate`.
        reads: Those of the settings `schedule_factor` and `schedule_epochs` that it reads.
    """

    rate: Callable[[Times, float, float, float], Times]
    reads: frozenset[str]


SCHEDULES: Final = {
    "constant": Schedule(constant, frozenset()),
    "step": Schedule(step, frozenset({"schedule_factor", "schedule_epochs"})),
    "exponential": Schedule(exponential, frozenset({"schedule_factor", "schedule_epochs"})),
    "cosine": Schedule(cosine, frozenset({"schedule_factor"})),
}


def learning_rates(
    base: float,
    schedule: str,
    begin: int,
    iterations: int,
    *,
    per_epoch: int,
    epochs: int,
    factor: float,
    every: float,
    warmup: float,
) -> NDArray[np.float32]:
    """Gives the learning rate of some iterations.

    While t < w, with w the epochs of the linear warm-up (Goyal and others, "Accurate, large minibatch SGD" (2017),
    section 2.2), it is base (t + 1 / per_epoch) / w, at most base; then the schedule begins, over what is left of the
    run.

    Args:
        base: The largest rate.
        schedule: A name of SCHEDULES.
        begin: Iterations of the run before the first of these.
        iterations: How many.
        per_epoch: Iterations of an epoch.
        epochs: Epochs of the run.
        factor: As the schedule says.
        every: Epochs, as the schedule says.
        warmup: w, epochs.

    Returns:
        `[iterations]`, float32.
    """
    t = (begin + np.arange(iterations, dtype=np.float64)) / per_epoch
    T = max(epochs - warmup, 1 / per_epoch)
    rates = base * SCHEDULES[schedule].rate(np.maximum(t - warmup, 0), T, factor, every)
    if warmup:
        rates = np.where(t < warmup, base * np.minimum((t + 1 / per_epoch) / warmup, 1), rates)
    return rates.astype(np.float32)
