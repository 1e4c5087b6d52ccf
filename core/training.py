"""The training loop: compiled once for each shape, many iterations a call."""

import math
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
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
from handgrad.core.config import TrainConfig
from handgrad.core.network import Loss, Network, initial_statistics, loss_and_grads
from handgrad.core.operations.base import Params
from handgrad.core.operations.convolution import Convolution
from handgrad.core.operations.losses import l2_penalty_bwd
from handgrad.core.optimizers import Hyperparameters, Optimizer, OptState, clipped
from handgrad.core.randomness import derived_keys, epoch_orders, key_of, split_indices
from handgrad.core.schedules import learning_rates
from handgrad.core.signature import Transform, to_inputs

SECONDS_PER_CALL = 0.03
"""How long a call of the compiled loop should take: long enough to hide the call, short enough to cancel and watch."""

_FIRST_CALL_ITERATIONS = 1

SECONDS_PER_NETWORK = 0.0005
"""How much longer a call should take for each network that it trains besides: the caller looks at each after it."""

_MOST_TOGETHER, _BYTES_TOGETHER = 1024, 4 * 2**30


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
        transform: From examples to inputs.
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
    transform: Transform
    augmentation: Augmentation
    decays: bool
    clips: bool
    loops: bool


def recipe_of(network: Network, transform: Transform, config: TrainConfig) -> Recipe:
    """Returns what a configuration compiles to."""
    optimizer = config.method
    decays = config.weight_decay > 0 and not optimizer.decoupled
    return Recipe(
        *(network, optimizer, config.objective, transform, config.augmentation),
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
        epoch_mean_loss: At the end of an epoch, the mean of its losses, each weighed by its number of images;
            otherwise None.
        read: Gives `state`.
    """

    epoch: int
    iteration: int
    losses: NDArray[np.float32]
    epoch_mean_loss: float | None
    read: Callable[[], TrainState]

    @property
    def state(self) -> TrainState:
        """The state after them. Its arrays are given away when the next chunk is asked for: copy what is to be kept."""
        return self.read()


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
        inputs = to_inputs(images.at[indices].get(mode="promise_in_bounds"), recipe.transform)
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
    return _compiled(train_iterations)


@cache
def compiled_together() -> Callable[..., tuple[TrainState, Array]]:
    """Gives `train_iterations` for several networks at once, by jax.vmap.

    All arguments but the images, the labels, `start` and `stop` have a leading axis, one element for each network.
    """

    def run(*arguments: Any, recipe: Recipe, batch_size: int) -> tuple[TrainState, Array]:
        one = partial(train_iterations, recipe=recipe, batch_size=batch_size)
        of_each: tuple[TrainState, Array] = jax.vmap(one, (0, 0, None, None, 0, 0, 0, 0, None, None))(*arguments)
        return of_each

    return _compiled(run)


def _compiled(function: Callable[..., tuple[TrainState, Array]]) -> Callable[..., tuple[TrainState, Array]]:
    return jax.jit(
        function,
        static_argnames=("recipe", "batch_size"),
        donate_argnums=(0, 1),
        compiler_options=compiler_options(),
    )


def partition(runs: Sequence[tuple[Network, Transform, TrainConfig]]) -> list[list[int]]:
    """Tells which runs on a data set `train_together` should train at once on this device.

    On a GPU, those whose compiled loops are the same, as many as fit in a part of its memory with their batches:
    launches are the cost there, and do not grow with the networks. On a CPU each by itself: two loops of one network,
    each on a core of its own, took about as long as any number of them in one loop, and keep the bits of the network
    alone; benchmarks/README.md has the measurements.

    Args:
        runs: Network, transform and settings of each.

    Returns:
        The indices of the runs in each group, in order; groups of the same kind are of about one size.
    """
    alike: dict[Hashable, list[int]] = {}
    for index, (network, transform, config) in enumerate(runs):
        alike.setdefault(_together_key(recipe_of(network, transform, config), config), []).append(index)
    groups: list[list[int]] = []
    for members in alike.values():
        network, _, config = runs[members[0]]
        size = math.ceil(len(members) / math.ceil(len(members) / _most_together(network, config.batch_size)))
        groups += [members[begin : begin + size] for begin in range(0, len(members), size)]
    return groups


def _together_key(recipe: Recipe, config: TrainConfig) -> Hashable:
    """Gives what networks have in common that can train together: their shapes, and where chunks are cut."""
    return recipe, config.batch_size, config.epochs, config.publish_every_iterations, config.validation_images


def _most_together(network: Network, batch_size: int) -> int:
    if jax.default_backend() == "cpu":
        return 1
    numbers = 4 * network.parameters + 2 * batch_size * network.activations
    return max(1, min(_MOST_TOGETHER, _BYTES_TOGETHER // (numbers * np.dtype(np.float32).itemsize)))


def with_decay(grads: Params, params: Params, decay: Array) -> Params:
    """Adds the gradient of `l2_penalty` to that of each array of weights."""

    def decayed(layer: dict[str, Array], layer_grads: dict[str, Array]) -> dict[str, Array]:
        if "W" not in layer:
            return layer_grads
        W_grad, _ = l2_penalty_bwd((layer["W"], decay), jnp.ones_like(decay))
        return layer_grads | {"W": layer_grads["W"] + W_grad}

    return tuple(decayed(layer, layer_grads) for layer, layer_grads in zip(params, grads, strict=True))


def train(
    recipe: Recipe,
    config: TrainConfig,
    state: TrainState,
    images: Array,
    labels: Array,
    key: Array,
    start: Position = FIRST,
    epochs_before: int = 0,
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
        epochs_before: Epochs that the params were trained before the run: what is random in its epochs is drawn as in
            those that come after these, so that three runs of one epoch draw what one run of three draws.

    Yields:
        A chunk each SECONDS_PER_CALL or so, cut at each epoch's end and each multiple of publish_every_iterations. The
        cuts change no bit of the result.
    """
    for (chunk,) in train_together(recipe, (config,), (state,), images, labels, (key,), (start,), epochs_before):
        yield chunk


def train_together(
    recipe: Recipe,
    configs: Sequence[TrainConfig],
    states: Sequence[TrainState],
    images: Array,
    labels: Array,
    keys: Sequence[Array],
    starts: Sequence[Position],
    epochs_before: int = 0,
) -> Iterator[tuple[Chunk, ...]]:
    """Trains networks in one compiled loop, as `train` trains one; on the same images, each in an order of its own.

    The sums of a product may be taken in another order than in `train`, which changes last bits; the number of networks
    alone decides on that, and not what the others are. So a run that goes on among as many gives the same bits.

    Args:
        recipe: What an iteration of each does.
        configs: The settings of each, which differ in nothing that `partition` parts them by.
        states: Where each begins.
        images: As in `train`.
        labels: As in `train`.
        keys: The key of each.
        starts: Where in its run each is; all are at the same iteration.
        epochs_before: As in `train`, of each.

    Yields:
        A chunk for each network, as `train` gives them.
    """
    networks, config, iteration = len(configs), configs[0], starts[0].iteration
    assert all(_together_key(recipe, each) == _together_key(recipe, config) for each in configs)
    assert all(start.iteration == iteration for start in starts)
    alone = networks == 1
    trained, _ = split_indices(images.shape[0], config.validation_images)
    size = len(trained)
    per_epoch = config.iterations_per_epoch(images.shape[0])
    full, rest = divmod(size, config.batch_size)
    state, hyperparameters = _joined(states), _joined([hyperparameters_of(each) for each in configs])
    run = partial(compiled() if alone else compiled_together(), recipe=recipe)
    seconds_per_call = SECONDS_PER_CALL + (networks - 1) * SECONDS_PER_NETWORK
    pace = _FIRST_CALL_ITERATIONS
    epochs_done, begin = divmod(iteration, per_epoch)
    epochs = range(epochs_done + 1, config.epochs + 1)
    drawn = range(epochs.start + epochs_before, epochs.stop + epochs_before)
    for epoch, number, orders in zip(epochs, drawn, epoch_orders(keys, trained, drawn), strict=True):
        done = (epoch - 1) * per_epoch
        permutation = jnp.asarray(_joined(orders))
        rates = jnp.asarray(_joined([_rates(each, done, per_epoch) for each in configs]))
        epoch_key = key_of(_joined(list(derived_keys(keys, number))))
        known = [np.zeros(full, np.float32) for _ in starts]
        for losses_before, start in zip(known, starts, strict=True):
            losses_before[:begin] = start.epoch_losses[:begin]
        losses = jnp.array(_joined(known))
        while begin < full:
            stop = min(begin + pace, full, _next_publication(done + begin, config) - done)
            began = time.perf_counter()
            for first in (begin,) if recipe.loops else range(begin, stop):
                state, losses = run(
                    *(state, losses, images, labels, permutation, rates, hyperparameters, epoch_key),
                    *(first, stop if recipe.loops else first + 1),
                    batch_size=config.batch_size,
                )
            found = np.array(losses)
            seconds = time.perf_counter() - began
            pace = _next_pace(pace, stop - begin, seconds, seconds_per_call)
            # Summed once, over the whole epoch, so that the cuts do not change its rounding.
            means = np.mean(found, axis=-1, dtype=np.float64) if stop == per_epoch else None
            yield _chunks(epoch, done + stop, found[..., begin:stop], means, state, networks)
            begin = stop
        if rest:
            # Fewer images are another shape, and so another compiled loop, of one iteration.
            tail = permutation[..., full * config.batch_size :]
            one = jnp.zeros((*losses.shape[:-1], 1), jnp.float32)
            tail_key = key_of(_joined(list(derived_keys(keys, number, full))))
            state, one = run(
                *(state, one, images, labels, tail, rates[..., full:], hyperparameters, tail_key, 0, 1), batch_size=rest
            )
            new = np.array(one)
            total = np.sum(np.array(losses), axis=-1, dtype=np.float64) * config.batch_size
            means = (total + new[..., 0].astype(np.float64) * rest) / size
            yield _chunks(epoch, done + per_epoch, new, means, state, networks)
        begin = 0


def _joined(trees: Sequence[Any]) -> Any:
    """Gives the arrays of one network as they are, and those of several with a leading axis, joined on the host."""
    return trees[0] if len(trees) == 1 else jax.tree.map(lambda *leaves: jnp.asarray(np.stack(leaves)), *trees)


def _chunks(
    epoch: int,
    iteration: int,
    losses: NDArray[np.float32],
    means: NDArray[np.float64] | np.float64 | None,
    state: TrainState,
    networks: int,
) -> tuple[Chunk, ...]:
    """Gives the chunk of each network. The states of several are copied from the device once, when one is read."""
    if networks == 1:
        return (Chunk(epoch, iteration, losses, None if means is None else float(means), lambda: state),)
    copied: Callable[[], TrainState] = cache(lambda: jax.tree.map(np.array, state))

    def state_of(network: int) -> TrainState:
        own: TrainState = jax.tree.map(lambda array: array[network], copied())
        return own

    mean_of = [None] * networks if means is None else np.atleast_1d(means).tolist()
    return tuple(
        Chunk(epoch, iteration, losses[network], mean_of[network], partial(state_of, network))
        for network in range(networks)
    )


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


def _next_pace(pace: int, iterations: int, seconds: float, wanted: float) -> int:
    fitting = round(iterations * wanted / max(seconds, 1e-6))
    return min(max(fitting, pace // 2, 1), 4 * pace)
