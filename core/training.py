"""The training loop: compiled once for each shape, many iterations a call."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy.typing import NDArray

from handgrad.core.config import Pixels, TrainConfig
from handgrad.core.network import Network, Params, loss_and_grads
from handgrad.core.optimizers import Hyperparameters, Optimizer, OptState

SECONDS_PER_CALL = 0.03
"""How long a call of the compiled loop should take: long enough to hide the call, short enough to cancel and watch."""

_FIRST_CALL_ITERATIONS = 1


class TrainState(NamedTuple):
    """What an iteration changes."""

    params: Params
    opt_state: OptState


@dataclass(frozen=True)
class Position:
    """Where in a run a state is.

    Attributes:
        iteration: Iterations done since the run began.
        epoch_losses: The losses of those of its unfinished epoch, `[iteration % iterations an epoch]`, float32.
    """

    iteration: int
    epoch_losses: NDArray[np.float32]


FIRST = Position(0, np.empty(0, np.float32))


@dataclass(frozen=True)
class Chunk:
    """The iterations of one call of the compiled loop.

    Attributes:
        epoch: The epoch they belong to: 1, 2, 3, ...
        iteration: Iterations done since the run began, these included.
        losses: The loss of each, `[iterations]`, float32.
        state: The state after them, on the device. Its arrays are given away when the next chunk is asked for: copy
            what is to be kept.
        epoch_mean_loss: At the end of an epoch, the mean of its losses, each weighed by its number of images;
            otherwise None.
    """

    epoch: int
    iteration: int
    losses: NDArray[np.float32]
    state: TrainState
    epoch_mean_loss: float | None


@partial(
    jax.jit,
    static_argnames=("network", "optimizer", "batch_size", "pixels"),
    donate_argnames=("state", "losses"),
)
def train_iterations(
    state: TrainState,
    losses: Array,
    images: Array,
    labels: Array,
    permutation: Array,
    hyperparameters: Hyperparameters,
    start: Array,
    stop: Array,
    *,
    network: Network,
    optimizer: Optimizer,
    batch_size: int,
    pixels: Pixels,
) -> tuple[TrainState, Array]:
    """Runs the iterations from `start` to before `stop` of one epoch, without leaving the device.

    Iteration i takes the images `permutation[i B : (i + 1) B]`, with B the batch size. `start` and `stop` are values,
    not shapes, so that the loop is compiled once whatever the number of iterations a call.

    Args:
        state: Params and optimizer state; donated.
        losses: `[iterations of the epoch]`, float32; donated. Elements start to stop - 1 are filled in.
        images: `[N, D]`, uint8 or float32; a batch is converted to float32 as it is gathered.
        labels: `[N]`, integer.
        permutation: Indices into the images, `[at least stop * B]`, int32.
        hyperparameters: Scalars, float32.
        start: First iteration, a scalar int32.
        stop: The iteration to stop before, a scalar int32.
        network: The architecture.
        optimizer: Makes the update.
        batch_size: B.
        pixels: How pixels become inputs.

    Returns:
        The state and the losses after these iterations.
    """

    def iteration(i: Array, carry: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
        state, losses = carry
        # A permutation is in bounds by construction, which spares the gather its checks.
        indices = lax.dynamic_slice(permutation, (i * batch_size,), (batch_size,))
        inputs = scale_pixels(images.at[indices].get(mode="promise_in_bounds"), pixels)
        targets = labels.at[indices].get(mode="promise_in_bounds")
        loss, grads = loss_and_grads(network, state.params, inputs, targets)
        params, opt_state = optimizer.update(grads, state.opt_state, state.params, hyperparameters)
        return TrainState(params, opt_state), losses.at[i].set(loss)

    after: tuple[TrainState, Array] = lax.fori_loop(start, stop, iteration, (state, losses))
    return after


def scale_pixels(images: Array, pixels: Pixels) -> Array:
    """Gives images as float32 inputs: as they are for `raw`, divided by 255 for `unit`."""
    inputs = images.astype(jnp.float32)
    return inputs / 255 if pixels == "unit" else inputs


def keys_of_run(seed: int) -> tuple[Array, Array]:
    """Gives the two keys of a run: one for the initial params, one for the permutations."""
    init_key, permutation_key = jax.random.split(jax.random.key(seed))
    return init_key, permutation_key


def epoch_permutation(key: Array, epoch: int, size: int) -> NDArray[np.int32]:
    """Draws the order in which an epoch takes its images: a pure function of key and epoch.

    It is drawn on the host, by numpy's Philox generator with the key's 64 bits and the epoch as its key: an order of
    60,000 images takes 1 ms there, where jax's two sorts take 23 ms on a CPU.

    Args:
        key: A jax random key.
        epoch: The epoch: 1, 2, 3, ...
        size: Number of images, N.

    Returns:
        A permutation of 0 to N - 1, `[N]`, int32.
    """
    high, low = (int(word) for word in np.asarray(jax.random.key_data(key)))
    generator = np.random.Generator(np.random.Philox(key=np.array([high << 32 | low, epoch], np.uint64)))
    return generator.permutation(np.arange(size, dtype=np.int32))


def train(
    network: Network,
    optimizer: Optimizer,
    config: TrainConfig,
    state: TrainState,
    images: Array,
    labels: Array,
    permutation_key: Array,
    start: Position = FIRST,
) -> Iterator[Chunk]:
    """Trains a network, some iterations at a time; between two chunks the caller may look, publish or stop.

    A run that goes on from the state and the position after any chunk, with the same key, gives the same bits as one
    that was never interrupted.

    Args:
        network: The architecture.
        optimizer: Makes the updates.
        config: The settings, which have been checked.
        state: Where to begin. Its arrays are given away.
        images: `[N, D]` on the device, uint8 or float32.
        labels: `[N]` on the device, integer.
        permutation_key: Of the epochs' permutations.
        start: Where in the run `state` is.

    Yields:
        A chunk each SECONDS_PER_CALL or so, cut at each epoch's end and each multiple of publish_every_iterations. The
        cuts change no bit of the result.
    """
    size = images.shape[0]
    per_epoch = config.iterations_per_epoch(size)
    full, rest = divmod(size, config.batch_size)
    hyperparameters = Hyperparameters(jnp.float32(config.learning_rate), jnp.float32(config.momentum))
    run = partial(train_iterations, network=network, optimizer=optimizer, pixels=config.pixels)
    pace = _FIRST_CALL_ITERATIONS
    first_epoch, begin = divmod(start.iteration, per_epoch)
    for epoch in range(first_epoch + 1, config.epochs + 1):
        done = (epoch - 1) * per_epoch
        permutation = jnp.asarray(epoch_permutation(permutation_key, epoch, size))
        known = np.zeros(full, np.float32)
        known[:begin] = start.epoch_losses[:begin]
        losses = jnp.array(known)
        while begin < full:
            stop = min(begin + pace, full, _next_publication(done + begin, config) - done)
            began = time.perf_counter()
            state, losses = run(
                state, losses, images, labels, permutation, hyperparameters, begin, stop, batch_size=config.batch_size
            )
            new = np.array(losses)[begin:stop]
            seconds = time.perf_counter() - began
            pace = _next_pace(pace, stop - begin, seconds)
            begin = stop
            # Summed once, over the whole epoch, so that the cuts do not change its rounding.
            mean = float(np.mean(np.array(losses), dtype=np.float64)) if stop == per_epoch else None
            yield Chunk(epoch, done + stop, new, state, mean)
        if rest:
            # Fewer images are another shape, and so another compiled loop, of one iteration.
            tail = permutation[full * config.batch_size :]
            one = jnp.zeros(1, jnp.float32)
            state, one = run(state, one, images, labels, tail, hyperparameters, 0, 1, batch_size=rest)
            new = np.array(one)
            total = float(np.sum(np.array(losses), dtype=np.float64)) * config.batch_size + float(new[0]) * rest
            yield Chunk(epoch, done + per_epoch, new, state, total / size)
        begin = 0


def _next_publication(iteration: int, config: TrainConfig) -> int:
    every = config.publish_every_iterations or config.epochs * 2**31
    return (iteration // every + 1) * every


def _next_pace(pace: int, iterations: int, seconds: float) -> int:
    fitting = round(iterations * SECONDS_PER_CALL / max(seconds, 1e-6))
    return min(max(fitting, pace // 2, 1), 4 * pace)
