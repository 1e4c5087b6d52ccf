"""Data sets: the IDX format of MNIST, the binary format of CIFAR-10, and .npz files, checked as they are read."""

import gzip
import hashlib
import io
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from handgrad.core import npz
from handgrad.core.errors import InvalidInputError

TRAIN_IMAGES: Final = "train-images-idx3-ubyte"
TRAIN_LABELS: Final = "train-labels-idx1-ubyte"
TEST_IMAGES: Final = "t10k-images-idx3-ubyte"
TEST_LABELS: Final = "t10k-labels-idx1-ubyte"
IDX_FILES: Final = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)

# https://www.cs.toronto.edu/~kriz/cifar.html describes the format: a label's byte, then an image's red, green and blue.
CIFAR10_TRAIN: Final = tuple(f"data_batch_{number}.bin" for number in range(1, 6))
CIFAR10_TEST: Final = "test_batch.bin"
CIFAR10_FILES: Final = (*CIFAR10_TRAIN, CIFAR10_TEST)
CIFAR10_SHAPE: Final = (32, 32, 3)

FORMATS: Final = {IDX_FILES: "the four IDX files of MNIST", CIFAR10_FILES: "the six binary files of CIFAR-10"}
"""Files that make a data set together."""

MAX_FILE_BYTES: Final = 2**30
"""The most that one file may hold, decompressed."""

# http://yann.lecun.com/exdb/mnist/ describes the format; the sums are those of the files it offered, decompressed.
MNIST_MD5: Final = {
    TRAIN_IMAGES: "6bbc9ace898e44ae57da46a324031adb",
    TRAIN_LABELS: "a25bea736e30d166cdddb491f175f624",
    TEST_IMAGES: "2646ac647ad5339dbf082846283269ea",
    TEST_LABELS: "27ae3e4e09519cfbb04c329615203637",
}

ARRAYS: Final = ("x_train", "y_train", "x_test", "y_test")
CIFAR10_MAX_LABEL: Final = 9
MAX_LABEL: Final = 255
MAX_IMAGE_DIMENSIONS: Final = 3

_UNSIGNED_BYTE = 0x08
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class Split:
    """A part of a data set.

    Attributes:
        images: `[N, D]`, uint8 or float32.
        labels: `[N]`, uint8.
    """

    images: NDArray[np.uint8] | NDArray[np.float32]
    labels: NDArray[np.uint8]


@dataclass(frozen=True)
class Dataset:
    """Images and labels, for training and for testing.

    Attributes:
        train: What training sees.
        test: What is kept for evaluation.
        image_shape: Shape of an image, such as (28, 28), whose numbers are the D of the splits.
    """

    train: Split
    test: Split
    image_shape: tuple[int, ...]

    @property
    def inputs(self) -> int:
        """Numbers of one image."""
        return math.prod(self.image_shape)

    @property
    def classes(self) -> int:
        """One more than the largest label of both splits."""
        return int(max(self.train.labels.max(), self.test.labels.max())) + 1


def mnist() -> Dataset:
    """Reads the MNIST that ships with handgrad, and checks it against its published sums.

    Raises:
        InvalidInputError: A file of this installation is missing or damaged; it names the file.
    """
    folder = resources.files("handgrad.core") / "mnist"
    files: dict[str, bytes] = {}
    for name, md5 in MNIST_MD5.items():
        try:
            files[name] = _decompressed((folder / f"{name}.gz").read_bytes(), name)
        except OSError as error:
            raise InvalidInputError(name, f"cannot be read from this installation of handgrad: {error}") from error
        found = hashlib.md5(files[name], usedforsecurity=False).hexdigest()
        if found != md5:
            raise InvalidInputError(name, f"its MD5 is {found}, not {md5}: this installation of handgrad is damaged")
    return parse_idx_files(files)


def parse_idx_files(files: Mapping[str, bytes]) -> Dataset:
    """Makes a data set of the contents of the four IDX files.

    Args:
        files: The content of each file of IDX_FILES, gzipped or not.

    Raises:
        InvalidInputError: A file is missing, empty, truncated or not in the format, or two of them do not belong
            together. Its field is the file's name.
    """
    for name in IDX_FILES:
        if name not in files:
            raise InvalidInputError(name, f"the file is missing; a data set is {', '.join(IDX_FILES)}, gzipped or not")
    train_images, test_images = (parse_idx(files[name], name, dimensions=3) for name in (TRAIN_IMAGES, TEST_IMAGES))
    train_labels, test_labels = (parse_idx(files[name], name, dimensions=1) for name in (TRAIN_LABELS, TEST_LABELS))
    for images, labels, name, labels_name in (
        (train_images, train_labels, TRAIN_IMAGES, TRAIN_LABELS),
        (test_images, test_labels, TEST_IMAGES, TEST_LABELS),
    ):
        if len(images) != len(labels):
            raise InvalidInputError(name, f"{len(images)} images, but {labels_name} has {len(labels)} labels")
    if train_images.shape[1:] != test_images.shape[1:]:
        raise InvalidInputError(
            TEST_IMAGES, f"images of {test_images.shape[1:]}, but those of {TRAIN_IMAGES} are {train_images.shape[1:]}"
        )
    return Dataset(
        Split(train_images.reshape(len(train_images), -1), train_labels),
        Split(test_images.reshape(len(test_images), -1), test_labels),
        train_images.shape[1:],
    )


def parse_files(files: Mapping[str, bytes]) -> Dataset:
    """Makes a data set of the contents of all files of one of FORMATS.

    Raises:
        InvalidInputError: As for `parse_idx_files` and `parse_cifar10_files`.
    """
    return parse_cifar10_files(files) if CIFAR10_TEST in files else parse_idx_files(files)


def parse_cifar10_files(files: Mapping[str, bytes]) -> Dataset:
    """Makes a data set of the contents of CIFAR-10's six binary files.

    Args:
        files: The content of each file of CIFAR10_FILES, gzipped or not; of any number of images each.

    Raises:
        InvalidInputError: A file is missing, empty, truncated, or has a label over 9. Its field is the file's name.
    """
    for name in CIFAR10_FILES:
        if name not in files:
            raise InvalidInputError(
                name, f"the file is missing; a data set is {', '.join(CIFAR10_FILES)}, gzipped or not"
            )
    parts = [parse_cifar10(files[name], name) for name in CIFAR10_TRAIN]
    images = np.concatenate([np.asarray(part.images, np.uint8) for part in parts])
    train = Split(images, np.concatenate([part.labels for part in parts]))
    return Dataset(train, parse_cifar10(files[CIFAR10_TEST], CIFAR10_TEST), CIFAR10_SHAPE)


def parse_cifar10(content: bytes, name: str) -> Split:
    """Parses a binary file of CIFAR-10: for each image a label, then 32 rows of 32 pixels of red, green, blue in turn.

    Args:
        content: The file's bytes, gzipped or not.
        name: Its name, for errors.

    Returns:
        Images `[N, 3072]`, row by row, the channels of a pixel together, and labels `[N]`.

    Raises:
        InvalidInputError: The file is empty, truncated, or has a label over 9.
    """
    if not content:
        raise InvalidInputError(name, "the file is empty")
    content = _decompressed(content, name)
    rows, columns, channels = CIFAR10_SHAPE
    record = 1 + rows * columns * channels
    if not content or len(content) % record:
        raise InvalidInputError(
            name, f"the file is truncated: {len(content)} bytes, which is no multiple of the {record} of an image"
        )
    records = np.frombuffer(content, np.uint8).reshape(-1, record)
    labels = records[:, 0]
    if labels.max() > CIFAR10_MAX_LABEL:
        first = int(np.argmax(labels > CIFAR10_MAX_LABEL))
        raise InvalidInputError(name, f"image {first} has label {labels[first]}; expected 0 to {CIFAR10_MAX_LABEL}")
    images = records[:, 1:].reshape(-1, channels, rows, columns).transpose(0, 2, 3, 1)
    return Split(np.ascontiguousarray(images).reshape(len(records), -1), np.ascontiguousarray(labels))


def parse_npz(content: bytes, file: str) -> Dataset:
    """Makes a data set of an .npz file.

    Args:
        content: The file's bytes: `x_train` and `x_test` of shape (images, ...), uint8 or float32 (float64 is rounded);
            `y_train` and `y_test` of shape (images,), integers from 0 to 255.
        file: Its name, for errors.

    Raises:
        InvalidInputError: The file is damaged, or an array is missing, unknown, or not as above.
    """
    arrays = npz.read(content, file, MAX_FILE_BYTES)
    if missing := [name for name in ARRAYS if name not in arrays]:
        raise InvalidInputError(
            file, f"the array {missing[0]} is missing; it has {', '.join(sorted(arrays)) or 'none'}"
        )
    if unknown := sorted(arrays.keys() - set(ARRAYS)):
        raise InvalidInputError(file, f"the array {unknown[0]} is unknown; its arrays should be {', '.join(ARRAYS)}")
    return from_arrays({name: arrays[name] for name in ARRAYS}, file)


def from_arrays(arrays: Mapping[str, NDArray[Any]], file: str) -> Dataset:
    """Makes a data set of the arrays that `parse_npz` describes, with the same errors."""
    images = {name: _images(arrays[name], name, file) for name in ("x_train", "x_test")}
    labels = {name: _labels(arrays[name], name, file) for name in ("y_train", "y_test")}
    for x, y in (("x_train", "y_train"), ("x_test", "y_test")):
        if len(images[x]) != len(labels[y]):
            raise InvalidInputError(file, f"{x} has {len(images[x])} images, but {y} has {len(labels[y])} labels")
    train, test = images["x_train"], images["x_test"]
    if train.shape[1:] != test.shape[1:] or train.dtype != test.dtype:
        raise InvalidInputError(
            file, f"x_test has {test.dtype} images of {test.shape[1:]}, x_train {train.dtype} of {train.shape[1:]}"
        )
    return Dataset(
        Split(train.reshape(len(train), -1), labels["y_train"]),
        Split(test.reshape(len(test), -1), labels["y_test"]),
        train.shape[1:],
    )


def to_arrays(dataset: Dataset) -> dict[str, NDArray[Any]]:
    """Gives a data set as the arrays that `from_arrays` takes."""
    return {
        "x_train": dataset.train.images.reshape(-1, *dataset.image_shape),
        "y_train": dataset.train.labels,
        "x_test": dataset.test.images.reshape(-1, *dataset.image_shape),
        "y_test": dataset.test.labels,
    }


def _images(array: NDArray[Any], name: str, file: str) -> NDArray[np.uint8] | NDArray[np.float32]:
    if array.ndim < 2 or 0 in array.shape or array.ndim > MAX_IMAGE_DIMENSIONS + 1:
        raise InvalidInputError(file, f"{name} has shape {array.shape}; expected (images, rows, columns) or alike")
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind != "f" or array.dtype.itemsize not in (4, 8):
        raise InvalidInputError(file, f"{name} is {array.dtype}; expected uint8 or float32")
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(rounded).all():
        raise InvalidInputError(file, f"{name} has numbers that are not finite float32")
    return rounded


def _labels(array: NDArray[Any], name: str, file: str) -> NDArray[np.uint8]:
    if array.ndim != 1 or not array.size or array.dtype.kind not in "iu":
        raise InvalidInputError(file, f"{name} is {array.dtype} of shape {array.shape}; expected integers, (images,)")
    if array.min() < 0 or array.max() > MAX_LABEL:
        raise InvalidInputError(
            file, f"{name} has labels from {array.min()} to {array.max()}; expected 0 to {MAX_LABEL}"
        )
    return np.ascontiguousarray(array, np.uint8)


def parse_idx(content: bytes, name: str, *, dimensions: int) -> NDArray[np.uint8]:
    """Parses an IDX file of unsigned bytes: two zero bytes, type 8, the number of dimensions, their lengths, the data.

    Args:
        content: The file's bytes, gzipped or not.
        name: Its name, for errors.
        dimensions: How many dimensions it must have.

    Returns:
        The array, of the shape that the header gives.

    Raises:
        InvalidInputError: The file is not such an IDX file, or holds nothing, or is larger than MAX_FILE_BYTES.
    """
    if not content:
        raise InvalidInputError(name, "the file is empty")
    content = _decompressed(content, name)
    header = 4 + 4 * dimensions
    magic = bytes((0, 0, _UNSIGNED_BYTE, dimensions))
    if content[:4] != magic[: len(content)]:
        raise InvalidInputError(
            name, f"an IDX file of bytes begins with {magic.hex()}; this one with {content[:4].hex()}"
        )
    if len(content) < header:
        raise InvalidInputError(name, f"the file is truncated: {len(content)} bytes, its header alone has {header}")
    shape = struct.unpack(f">{dimensions}I", content[4:header])
    expected = header + math.prod(shape)
    if len(content) != expected:
        what = "is truncated" if len(content) < expected else "has bytes after its data"
        raise InvalidInputError(
            name,
            f"the file {what}: {len(content)} bytes, its header promises {expected} for {'x'.join(map(str, shape))}",
        )
    if 0 in shape:
        raise InvalidInputError(name, f"the file holds no data: its header says {'x'.join(map(str, shape))}")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _decompressed(content: bytes, name: str) -> bytes:
    if content[:2] != _GZIP_MAGIC:
        if len(content) > MAX_FILE_BYTES:
            raise InvalidInputError(name, f"more than {MAX_FILE_BYTES} bytes")
        return content
    try:
        # One byte more than is allowed tells a file that is too large without decompressing all of it.
        plain = gzip.GzipFile(fileobj=io.BytesIO(content)).read(MAX_FILE_BYTES + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidInputError(name, f"the gzip file is truncated or damaged: {error}") from error
    if len(plain) > MAX_FILE_BYTES:
        raise InvalidInputError(name, f"more than {MAX_FILE_BYTES} bytes when decompressed")
    return plain
