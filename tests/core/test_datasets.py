"""Data sets: MNIST as it ships, and every way in which an IDX file can be wrong."""

import gzip
import struct
from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from numpy.typing import NDArray

from handgrad.core import datasets
from handgrad.core.datasets import TEST_IMAGES, TRAIN_IMAGES, TRAIN_LABELS, Dataset, parse_idx, parse_idx_files
from handgrad.core.errors import InvalidInputError

Change = Callable[[bytes], bytes]


def idx(array: NDArray[np.uint8]) -> bytes:
    """Encodes an array of bytes in the IDX format."""
    return bytes((0, 0, 8, array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


@pytest.fixture
def idx_files() -> dict[str, bytes]:
    """A data set of 20 training and 10 test images of 3x4 pixels, as its four files."""
    generator = np.random.default_rng(1)
    images = [generator.integers(0, 256, (count, 3, 4), np.uint8) for count in (20, 10)]
    labels = [np.arange(count, dtype=np.uint8) % 5 for count in (20, 10)]
    contents = [idx(images[0]), idx(labels[0]), idx(images[1]), idx(labels[1])]
    return dict(zip(datasets.IDX_FILES, contents, strict=True))


def test_mnist_is_whole(mnist: Dataset) -> None:
    assert mnist.train.images.shape == (60_000, 784)
    assert mnist.test.images.shape == (10_000, 784)
    assert mnist.train.images.dtype == mnist.train.labels.dtype == np.uint8
    assert (mnist.inputs, mnist.classes, mnist.image_shape) == (784, 10, (28, 28))
    # The counts of each digit that the literature gives.
    expected = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    assert np.bincount(mnist.train.labels).tolist() == expected


def test_a_damaged_installation_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(datasets.MNIST_MD5, TEST_IMAGES, "0" * 32)
    with pytest.raises(InvalidInputError, match="this installation of handgrad is damaged") as raised:
        datasets.mnist()
    assert raised.value.field == TEST_IMAGES


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzipped"])
def test_four_files_are_a_data_set(idx_files: dict[str, bytes], compress: Change) -> None:
    dataset = parse_idx_files({name: compress(content) for name, content in idx_files.items()})
    assert dataset.train.images.shape == (20, 12)
    assert dataset.test.images.shape == (10, 12)
    assert (dataset.image_shape, dataset.inputs, dataset.classes) == ((3, 4), 12, 5)
    assert dataset.train.images[0].tobytes() == idx_files[TRAIN_IMAGES][16:28]


WRONG: dict[str, tuple[str, Change, str]] = {
    "empty": (TRAIN_LABELS, lambda _: b"", "the file is empty"),
    "of one byte": (TRAIN_LABELS, lambda content: content[:1], "truncated"),
    "cut in its header": (TRAIN_IMAGES, lambda content: content[:10], "truncated"),
    "cut in its data": (TRAIN_IMAGES, lambda content: content[:-1], "truncated"),
    "too long": (TRAIN_IMAGES, lambda content: content + b"\0", "after its data"),
    "of another kind": (TRAIN_IMAGES, lambda _: b"PK\x03\x04 not idx at all", "begins with 00000803"),
    "labels for images": (TRAIN_IMAGES, lambda _: idx(np.zeros(20, np.uint8)), "begins with 00000803"),
    "of too few images": (TRAIN_IMAGES, lambda _: idx(np.zeros((19, 3, 4), np.uint8)), "19 images.*20 labels"),
    "of no images": (TRAIN_IMAGES, lambda _: idx(np.zeros((0, 3, 4), np.uint8)), "holds no data"),
    "of images without pixels": (TRAIN_IMAGES, lambda _: idx(np.zeros((20, 0, 4), np.uint8)), "holds no data"),
    "of larger images": (TEST_IMAGES, lambda _: idx(np.zeros((10, 4, 4), np.uint8)), r"\(4, 4\).*\(3, 4\)"),
    "a cut gzip": (TRAIN_IMAGES, lambda content: gzip.compress(content)[:-9], "gzip file is truncated or damaged"),
    "a damaged gzip": (TRAIN_IMAGES, lambda content: gzip.compress(content)[:20] + b"\0" * 200, "damaged"),
}


@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_file_is_named(idx_files: dict[str, bytes], kind: str) -> None:
    file, change, told = WRONG[kind]
    idx_files[file] = change(idx_files[file])
    with pytest.raises(InvalidInputError, match=told) as raised:
        parse_idx_files(idx_files)
    assert raised.value.field == file


@pytest.mark.parametrize("file", datasets.IDX_FILES)
def test_a_missing_file_is_named(idx_files: dict[str, bytes], file: str) -> None:
    del idx_files[file]
    with pytest.raises(InvalidInputError, match="missing") as raised:
        parse_idx_files(idx_files)
    assert raised.value.field == file


def test_a_gzip_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "MAX_FILE_BYTES", 1000)
    with pytest.raises(InvalidInputError, match="more than 1000 bytes when decompressed"):
        parse_idx(gzip.compress(b"\0" * 10**7), TRAIN_IMAGES, dimensions=3)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 40), st.booleans())
def test_no_bytes_do_worse_than_an_error(noise: bytes, position: int, compressed: bool) -> None:  # noqa: FBT001
    valid = idx(np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    content = valid[:position] + noise + valid[position + len(noise) :]
    try:
        array = parse_idx(gzip.compress(content) if compressed else content, "file", dimensions=3)
    except InvalidInputError as error:
        assert error.field == "file"  # noqa: PT017 - either outcome is right
    else:
        assert array.ndim == 3
        assert array.size
