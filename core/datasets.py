"""Data sets: the IDX format of MNIST, checked as it is read."""

import gzip
import hashlib
import io
import math
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Final

import numpy as np
from numpy.typing import NDArray

from handgrad.core.errors import InvalidInputError

TRAIN_IMAGES: Final = "train-images-idx3-ubyte"
TRAIN_LABELS: Final = "train-labels-idx1-ubyte"
TEST_IMAGES: Final = "t10k-images-idx3-ubyte"
TEST_LABELS: Final = "t10k-labels-idx1-ubyte"
IDX_FILES: Final = (TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS)

MAX_FILE_BYTES: Final = 2**30
"""The most that one IDX file may hold, decompressed."""

# http://yann.lecun.com/exdb/mnist/ describes the format; the sums are those of the files it offered, decompressed.
MNIST_MD5: Final = {
    TRAIN_IMAGES: "6bbc9ace898e44ae57da46a324031adb",
    TRAIN_LABELS: "a25bea736e30d166cdddb491f175f624",
    TEST_IMAGES: "2646ac647ad5339dbf082846283269ea",
    TEST_LABELS: "27ae3e4e09519cfbb04c329615203637",
}

_UNSIGNED_BYTE = 0x08
_GZIP_MAGIC = b"\x1f\x8b"


@dataclass(frozen=True)
class Split:
    """A part of a data set.

    Attributes:
        images: `[N, rows * columns]`, uint8.
        labels: `[N]`, uint8.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.uint8]


@dataclass(frozen=True)
class Dataset:
    """Images and labels, for training and for testing.

    Attributes:
        train: What training sees.
        test: What is kept for evaluation.
        rows: Rows of an image, in pixels.
        columns: Columns of an image, in pixels.
    """

    train: Split
    test: Split
    rows: int
    columns: int

    @property
    def inputs(self) -> int:
        """Numbers of one image."""
        return self.rows * self.columns

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
    rows, columns = train_images.shape[1:]
    return Dataset(
        Split(train_images.reshape(len(train_images), -1), train_labels),
        Split(test_images.reshape(len(test_images), -1), test_labels),
        rows,
        columns,
    )


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
