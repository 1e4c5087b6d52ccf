"""What a run draws before and between its epochs: keys, initial params, orders of images. All of it on the host.

numpy draws there what jax would first have to compile for each shape: an order of 60,000 images takes 1 ms, where jax's
two sorts take 23 ms on a CPU, and the first params of a process take nothing besides, where compiling their normal
numbers took a second. What an iteration draws, for dropout or augmentation, is jax's.
"""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

_VALIDATION_SEED = 0x68616E64
"""Of the choice of validation images, which is the same in every run, so that none ever trains on them."""


def keys_of_run(seed: int) -> tuple[Array, Array]:
    """Gives the two keys of a run: one for the initial params, one for the permutations and all else that is random."""
    words = _words(4, seed)
    return key_of(words[:2]), key_of(words[2:])


def key_of(words: NDArray[np.uint32]) -> Array:
    """Gives the key of words `[2]`, or the keys of words `[keys, 2]`."""
    key: Array = jax.random.wrap_key_data(jnp.asarray(words))
    return key


def derived_keys(keys: Sequence[Array], *numbers: int) -> NDArray[np.uint32]:
    """Gives the words of a new key for each key and these numbers, such as those of an epoch: `[keys, 2]`."""
    return np.stack([_words(2, *_words_of(key), *numbers) for key in keys])


def generator_of(key: Array, stream: int) -> np.random.Generator:
    """Gives the generator that draws the numbers of a key and a stream: 0 for params, else the epoch."""
    high, low = _words_of(key)
    return np.random.Generator(np.random.Philox(key=np.array([high << 32 | low, stream], np.uint64)))


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

    Args:
        key: A jax random key.
        epoch: The epoch: 1, 2, 3, ...
        size: Number of images, N.

    Returns:
        A permutation of 0 to N - 1, `[N]`, int32.
    """
    return generator_of(key, epoch).permutation(np.arange(size, dtype=np.int32))


def epoch_orders(keys: Sequence[Array], trained: NDArray[np.int32], epochs: range) -> Iterator[list[NDArray[np.int32]]]:
    """Gives, for each epoch, the images in the order in which each run takes them.

    It is drawn once for a key, on all cores, and while the epoch before trains: for a thousand networks it takes a
    second.

    Args:
        keys: The key of each run.
        trained: The images that are trained on, `[N]`, int32.
        epochs: The epochs.
    """
    words_of_each = [_words_of(key) for key in keys]
    distinct = dict(zip(words_of_each, keys, strict=True))

    def order(key: Array, epoch: int) -> NDArray[np.int32]:
        return trained[epoch_permutation(key, epoch, len(trained))]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        following = {words: pool.submit(order, key, epochs[0]) for words, key in distinct.items() if epochs}
        for epoch in epochs:
            drawn, following = following, {}
            if epoch + 1 in epochs:
                following = {words: pool.submit(order, key, epoch + 1) for words, key in distinct.items()}
            yield [drawn[words].result() for words in words_of_each]


def _words(count: int, *entropy: int) -> NDArray[np.uint32]:
    return np.random.SeedSequence(entropy).generate_state(count, np.uint32).astype(np.uint32)


def _words_of(key: Array) -> tuple[int, int]:
    high, low = (int(word) for word in np.asarray(jax.random.key_data(key)))
    return high, low
