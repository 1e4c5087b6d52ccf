"""What the tests of the core share."""

import struct
from collections.abc import Iterator

import jax
import numpy as np
import pytest
from numpy.typing import NDArray

from handgrad.core import datasets


@pytest.fixture
def float64() -> Iterator[None]:
    """Lets jax compute in float64, for this test alone."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def mnist() -> datasets.Dataset:
    return datasets.mnist()


@pytest.fixture
def idx_files() -> dict[str, bytes]:
    """A data set of 20 training and 10 test images of 3x4 pixels, as its four files."""
    generator = np.random.default_rng(1)

    def images(count: int) -> bytes:
        return idx(generator.integers(0, 256, (count, 3, 4), np.uint8))

    def labels(count: int) -> bytes:
        return idx(np.arange(count, dtype=np.uint8) % 5)

    return {
        datasets.TRAIN_IMAGES: images(20),
        datasets.TRAIN_LABELS: labels(20),
        datasets.TEST_IMAGES: images(10),
        datasets.TEST_LABELS: labels(10),
    }


def idx(array: NDArray[np.uint8]) -> bytes:
    """Encodes an array of bytes in the IDX format."""
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()
