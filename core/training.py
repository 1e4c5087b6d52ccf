"""The training loop: compiled once for each shape, many iterations a call."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy.typing import NDArray

from handgrad.core.augmentation import Augmentation
from handgrad.core.compilation import compiler_options
from handgrad.core.config import Pixels, TrainConfig
from handgrad.core.network import Loss, Network, initial_statistics, loss_and_grads
from handgrad.core.operations.base import Params
from handgrad.core.operations.convolution import Convolution
from handgrad.core.operations.losses import l2_penalty_bwd
from handgrad.core.optimizers import Hyperparameters, Optimizer, OptState, clipped
from handgrad.core.schedules import learning_rates

SECONDS_PER_CALL = 0.03
"""How long a call of the compiled loop should take: long enough to hide the call, short enough to cancel and watch."""

_FIRST_CALL_ITERATIONS = 1


class TrainState(NamedTuple):
    """What an iteration changes."""

    params: Params
    opt_state: OptState
    statistics: Params


@dataclass(frozen=True)
class Recipe:
    """What an iteration is compiled for, besides its shapes.

    Attributes:
        network: The architecture.
        optimizer: Makes the updates.
        loss: What is minimized.
        pixels: How pixels become inputs.
        augmentation: What is done to images.
        decays: Whether weight decay adds to the gradients.
        clips: Whether gradients are clipped.
        loops: Whether a call runs a loop of iterations, or a single one. XLA's loops on a CPU run convolutions on one
            thread and by its own plain code: six times as long for `lenet`, seventeen times for `cnn`. Outside of them
            an iteration of a convolutional network is long enough to hide its call.
    """

    network: Network
    optimizer: Optimizer
    loss: Loss
    pixels: Pixels
    augmentation: Augmentation
    decays: bool
    clips: bool
    loops: bool


def recipe_of(network: Network, config: TrainConfig) -> Recipe:
    """Gives what a configuration compiles to."""
    optimizer = config.method
    decays = config.weight_decay > 0 and not optimizer.decoupled
    return Recipe(
        *(network, optimizer, config.objective, config.pixels, config.augmentation),
        decays=decays,
        clips=config.clip_norm > 0,
        loops=jax.default_backend() != "cpu" or not any(isinstance(leaf, Convolution) for leaf in network.leaves),
    )


def initial_state(recipe: Recipe, params: Params) -> TrainState:
    """Gives the state that a run begins with."""
    return TrainState(params, recipe.optimizer.init(params), initial_statistics(recipe.network))


def hyperparameters_of(config: TrainConfig) -> Hyperparameters:
    """Gives the numbers of a configuration's updates."""
    return Hyperparameters(*(jnp.float32(getattr(config, field)) for field in Hyperparameters._fields))


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


def train_iterations(
    state: TrainState,
    losses: Array,
    images: Array,
    labels: Array,
    permutation: Array,
    rates: Array,
    hyperparameters: Hyperparameters,
    key: Array,
    start: Array,
    stop: Array,
    *,
    recipe: Recipe,
    batch_size: int,
) -> tuple[TrainState, Array]:
    """Runs the iterations from `start` to before `stop` of one epoch, without leaving the device; `compiled` runs it.

    Iteration i takes the images `permutation[i B : (i + 1) B]`, with B the batch size. `start` and `stop` are values,
    not shapes, so that the loop is compiled once whatever the number of iterations a call.

    Args:
        state: Params, optimizer state and statistics; given away when compiled.
        losses: `[iterations of the epoch]`, float32; given away when compiled. Elements start to stop - 1 are filled
            in.
        images: `[N, D]`, uint8 or float32; a batch is converted to float32 as it is gathered.
        labels: `[N]`, integer.
        permutation: Indices into the images, `[at least stop * B]`, int32.
        rates: Learning rates, `[iterations of the epoch]`, float32.
        hyperparameters: Scalars, float32; the learning rate's place is taken by `rates`.
        key: Of the epoch; each iteration's is `fold_in(key, i)`.
        start: First iteration, a scalar int32.
        stop: The iteration to stop before, a scalar int32; `start + 1` for a recipe that does not loop.
        recipe: What an iteration does.
        batch_size: B.

    Returns:
        The state and the losses after these iterations.
    """

    def iteration(i: Array, carry: tuple[TrainState, Array]) -> tuple[TrainState, Array]:
        state, losses = carry
        # A permutation is in bounds by construction, which spares the gather its checks.
        indices = lax.dynamic_slice(permutation, (i * batch_size,), (batch_size,))
        inputs = scale_pixels(images.at[indices].get(mode="promise_in_bounds"), recipe.pixels)
        targets = labels.at[indices].get(mode="promise_in_bounds")
        # Nothing is computed of a key that nobody uses.
        images_key, layers_key = jax.random.split(jax.random.fold_in(key, i))
        if recipe.augmentation:
            shaped = inputs.reshape(batch_size, *recipe.network.input_shape)
            inputs = recipe.augmentation(images_key, shaped).reshape(batch_size, -1)
        loss, grads, statistics = loss_and_grads(
            recipe.network, state.params, state.statistics, inputs, targets, layers_key, recipe.loss
        )
        if recipe.decays:
            grads = with_decay(grads, state.params, hyperparameters.weight_decay)
        if recipe.clips:
            grads = clipped(grads, hyperparameters.clip_norm)
        params, opt_state = recipe.optimizer.update(
            grads, state.opt_state, state.params, hyperparameters._replace(learning_rate=rates[i])
        )
        return TrainState(params, opt_state, statistics), losses.at[i].set(loss)

    if not recipe.loops:
        return iteration(start, (state, losses))
    after: tuple[TrainState, Array] = lax.fori_loop(start, stop, iteration, (state, losses))
    return after


@cache
def compiled() -> Callable[..., tuple[TrainState, Array]]:
    """Gives `train_iterations`, compiled for each recipe and each shape of its arguments."""
    return jax.jit(
        train_iterations,
        static_argnames=("recipe", "batch_size"),
        donate_argnames=("state", "losses"),
        compiler_options=compiler_options(),
    )


def with_decay(grads: Params, params: Params, decay: Array) -> Params:
    """Adds the gradient of `l2_penalty` to that of each array of weights."""

    def decayed(layer: dict[str, Array], layer_grads: dict[str, Array]) -> dict[str, Array]:
        if "W" not in layer:
            return layer_grads
        W_grad, _ = l2_penalty_bwd((layer["W"], decay), jnp.ones_like(decay))
        return layer_grads | {"W": layer_grads["W"] + W_grad}

    return tuple(decayed(layer, layer_grads) for layer, layer_grads in zip(params, grads, strict=True))


def scale_pixels(images: Array | NDArray[Any], pixels: Pixels) -> Array:
    """Gives images as float32 inputs: as they are for `raw`, divided by 255 for `unit`."""
    inputs = jnp.asarray(images, jnp.float32)
    return inputs / 255 if pixels == "unit" else inputs


def keys_of_run(seed: int) -> tuple[Array, Array]:
    """Gives the two keys of a run: one for the initial params, one for the permutations and all else that is random."""
    init_key, run_key = jax.random.split(jax.random.key(seed))
    return init_key, run_key


_VALIDATION_SEED = 0x68616E64
"""Of the choice of validation images, which is the same in every run, so that none ever trains on them."""


def split_indices(size: int, validation_images: int) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Gives the images of a training split that are trained on, and those that are kept for validation.

    Args:
        size: Images of the split.
        validation_images: How many are kept.

    Returns:
        Indices, `[size - validation_images]` and `[validation_images]`, int32, in order; the same for the same numbers.
    """
    order = np.random.Generator(np.random.Philox(_VALIDATION_SEED)).permutation(np.arange(size, dtype=np.int32))
    return np.sort(order[validation_images:]), np.sort(order[:validation_images])


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
    recipe: Recipe,
    config: TrainConfig,
    state: TrainState,
    images: Array,
    labels: Array,
    key: Array,
    start: Position = FIRST,
) -> Iterator[Chunk]:
    """Trains a network, some iterations at a time; between two chunks the caller may look, publish or stop.

    A run that goes on from the state and the position after any chunk, with the same key, gives the same bits as one
    that was never interrupted.

    Args:
        recipe: What an iteration does: `recipe_of` the network and the settings.
        config: The settings, which have been checked.
        state: Where to begin. Its arrays are given away.
        images: `[N, D]` on the device, uint8 or float32, those for validation included.
        labels: `[N]` on the device, integer.
        key: Of the epochs' permutations, and of what is random in their iterations.
        start: Where in the run `state` is.

    Yields:
        A chunk each SECONDS_PER_CALL or so, cut at each epoch's end and each multiple of publish_every_iterations. The
        cuts change no bit of the result.
    """
    trained, _ = split_indices(images.shape[0], config.validation_images)
    size = len(trained)
    per_epoch = config.iterations_per_epoch(images.shape[0])
    full, rest = divmod(size, config.batch_size)
    hyperparameters = hyperparameters_of(config)
    run = partial(compiled(), recipe=recipe)
    pace = _FIRST_CALL_ITERATIONS
    first_epoch, begin = divmod(start.iteration, per_epoch)
    for epoch in range(first_epoch + 1, config.epochs + 1):
        done = (epoch - 1) * per_epoch
        permutation = jnp.asarray(trained[epoch_permutation(key, epoch, size)])
        rates = jnp.asarray(_rates(config, done, per_epoch))
        epoch_key = jax.random.fold_in(key, epoch)
        known = np.zeros(full, np.float32)
        known[:begin] = start.epoch_losses[:begin]
        losses = jnp.array(known)
        while begin < full:
            stop = min(begin + pace, full, _next_publication(done + begin, config) - done)
            began = time.perf_counter()
            for first in (begin,) if recipe.loops else range(begin, stop):
                state, losses = run(
                    *(state, losses, images, labels, permutation, rates, hyperparameters, epoch_key),
                    *(first, stop if recipe.loops else first + 1),
                    batch_size=config.batch_size,
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
            tail_key = jax.random.fold_in(epoch_key, full)
            state, one = run(
                *(state, one, images, labels, tail, rates[full:], hyperparameters, tail_key, 0, 1), batch_size=rest
            )
            new = np.array(one)
            total = float(np.sum(np.array(losses), dtype=np.float64)) * config.batch_size + float(new[0]) * rest
            yield Chunk(epoch, done + per_epoch, new, state, total / size)
        begin = 0


def _rates(config: TrainConfig, begin: int, per_epoch: int) -> NDArray[np.float32]:
    return learning_rates(
        *(config.learning_rate, config.schedule, begin, per_epoch),
        per_epoch=per_epoch,
        epochs=config.epochs,
        factor=config.schedule_factor,
        every=config.schedule_epochs,
        warmup=config.warmup_epochs,
    )


def _next_publication(iteration: int, config: TrainConfig) -> int:
    every = config.publish_every_iterations or config.epochs * 2**31
    return (iteration // every + 1) * every


def _next_pace(pace: int, iterations: int, seconds: float) -> int:
    fitting = round(iterations * SECONDS_PER_CALL / max(seconds, 1e-6))
    return min(max(fitting, pace // 2, 1), 4 * pace)
