"""Data sets: the IDX format of MNIST, the binary format of CIFAR-10, and .npz files, checked as they are read."""

import gzip
import hashlib
import io
import math
import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib import resources
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from handgrad.core import npz
from handgrad.core.class_names import class_names_of, parse_class_names
from handgrad.core.errors import InvalidInputError
from handgrad.core.file_kinds import kind_of
from handgrad.core.signature import is_other_scale, numbers_of

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

NPZ: Final = "npz"
CLASS_NAMES: Final = "class_names.txt"
"""A text that may stand beside the files of FORMATS: the names of the classes, one a line."""

_CLASS_NAMES_FILES: Final = (CLASS_NAMES, "classes.txt", "labels.txt", "batches.meta.txt")

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
MAX_BYTE: Final = 255
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
        class_names: Names of the classes, in the order of their labels; empty where they have none.
    """

    train: Split
    test: Split
    image_shape: tuple[int, ...]
    class_names: tuple[str, ...] = ()

    @property
    def inputs(self) -> int:
        """Numbers of one image."""
        return math.prod(self.image_shape)

    @property
    def classes(self) -> int:
        """One more than the largest label of both splits, or the number of names where that is more."""
        return max(int(max(self.train.labels.max(), self.test.labels.max())) + 1, len(self.class_names))


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


def role_of(name: str) -> str:
    """Returns which part of a data set a file is by its name; empty for a name of no format.

    Args:
        name: The file's name in any case; one of FORMATS may end in .gz, and may have the dot that 7-Zip and Kaggle put
            into it (`train-images.idx3-ubyte`).

    Returns:
        A name of FORMATS as it stands there, NPZ, or CLASS_NAMES.
    """
    lowered = name.lower()
    if lowered.endswith(".npz"):
        return NPZ
    plain = lowered.removesuffix(".gz")
    if plain in _CLASS_NAMES_FILES:
        return CLASS_NAMES
    dashed = re.sub(r"\.(idx[13]-ubyte)$", r"-\1", plain)
    return dashed if any(dashed in group for group in FORMATS) else ""


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
            swapped = {len(train_images), len(test_images)} == {len(train_labels), len(test_labels)}
            raise InvalidInputError(
                name,
                f"{len(images)} images, but {labels_name} has {len(labels)} labels"
                f"{'; as many as the images of the other split: are two files swapped?' * swapped}",
            )
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
    """Makes a data set of the contents of all files of one of FORMATS, and of CLASS_NAMES where it is there.

    Raises:
        InvalidInputError: As for `parse_idx_files` and `parse_cifar10_files`; or the names are none of these classes;
            or there is one class alone.
    """
    is_cifar10 = CIFAR10_TEST in files
    dataset = parse_cifar10_files(files) if is_cifar10 else parse_idx_files(files)
    if CLASS_NAMES in files:
        content = _decompressed(files[CLASS_NAMES], CLASS_NAMES)
        dataset = _with_class_names(dataset, parse_class_names(content, CLASS_NAMES), CLASS_NAMES)
    _check_classes(dataset, CIFAR10_TRAIN[0] if is_cifar10 else TRAIN_LABELS)
    _check_scales(dataset, CIFAR10_TEST if is_cifar10 else TEST_IMAGES)
    return dataset


def _with_class_names(dataset: Dataset, names: tuple[str, ...], file: str) -> Dataset:
    if len(names) < dataset.classes:
        raise InvalidInputError(
            file, f"{len(names)} class names, but labels up to {dataset.classes - 1}: expected one for each label"
        )
    return replace(dataset, class_names=names)


def _check_classes(dataset: Dataset, file: str) -> None:
    labels = dataset.train.labels
    if (labels == labels[0]).all():
        raise InvalidInputError(file, f"labels are all {labels[0]}: a data set needs two classes or more")


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
        kind = kind_of(content)
        raise InvalidInputError(
            name,
            f"it is {kind}; expected a file of CIFAR-10's binary version"
            if kind
            else f"the file is truncated: {len(content)} bytes, which is no multiple of the {record} of an image",
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
            `y_train` and `y_test` of shape (images,), integers from 0 to 255; `class_names`, if it is there, the texts
            that name the classes.
        file: Its name, for errors.

    Raises:
        InvalidInputError: The file is damaged, or an array is missing, unknown, or not as above, or there is one class
            alone.
    """
    if not content:
        raise InvalidInputError(file, "the file is empty")
    arrays = npz.read(content, file, MAX_FILE_BYTES)
    expected = f"{', '.join(ARRAYS)}, and class_names if you like"
    if missing := [name for name in ARRAYS if name not in arrays]:
        raise InvalidInputError(
            file,
            f"the array {missing[0]} is missing; it has {', '.join(sorted(arrays)) or 'none'}; expected {expected}",
        )
    if unknown := sorted(arrays.keys() - {*ARRAYS, "class_names"}):
        raise InvalidInputError(file, f"the array {unknown[0]} is unknown; its arrays should be {expected}")
    _check_channels(arrays["x_train"], file)
    dataset = from_arrays({name: arrays[name] for name in ARRAYS}, file)
    if "class_names" in arrays:
        dataset = _with_class_names(dataset, class_names_of(arrays["class_names"], file), file)
    _check_classes(dataset, file)
    _check_scales(dataset, file)
    return dataset


def _check_scales(dataset: Dataset, file: str) -> None:
    """Raises InvalidInputError where the test images are of another scale than those of training."""
    train, test = numbers_of(dataset.train.images), numbers_of(dataset.test.images)
    if is_other_scale(train, test):
        ranges = (f"{numbers.low:g} to {numbers.high:g}" for numbers in (train, test))
        raise InvalidInputError(
            file, "the training images have numbers from {}, the test images from {}: scale both alike".format(*ranges)
        )


def _check_channels(images: NDArray[Any], file: str) -> None:
    """Raises InvalidInputError for images as PyTorch has them: their channels would be taken for rows."""
    colours = (1, 3, 4)
    if images.ndim == MAX_IMAGE_DIMENSIONS + 1 and images.shape[1] in colours and images.shape[3] not in colours:
        raise InvalidInputError(
            file,
            f"x_train has shape {images.shape}, whose channels seem to come before its rows; expected (images, rows, "
            "columns, channels), as numpy.moveaxis(x_train, 1, -1) makes it",
        )


def from_arrays(arrays: Mapping[str, NDArray[Any]], file: str) -> Dataset:
    """Makes a data set of the arrays that `parse_npz` describes, without names, with the same errors for each array."""
    for x, y in (("x_train", "y_train"), ("x_test", "y_test")):
        if arrays[x].ndim == 1 and arrays[y].ndim > 1:
            raise InvalidInputError(
                file,
                f"{x} has shape {arrays[x].shape} and {y} {arrays[y].shape}: images and labels seem to be swapped; "
                "expected images in x_train and x_test, labels in y_train and y_test",
            )
    images = {name: _images(arrays[name], name, file) for name in ("x_train", "x_test")}
    labels = {name: _labels(arrays[name], name, file) for name in ("y_train", "y_test")}
    for x, y in (("x_train", "y_train"), ("x_test", "y_test")):
        if len(images[x]) != len(labels[y]):
            swapped = {len(each) for each in images.values()} == {len(each) for each in labels.values()}
            raise InvalidInputError(
                file,
                f"{x} has {len(images[x])} images, but {y} has {len(labels[y])} labels"
                f"{'; as many as the images of the other split: are two arrays swapped?' * swapped}",
            )
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
    if array.ndim >= 2 and 0 in array.shape:
        raise InvalidInputError(file, f"{name} has shape {array.shape}: it holds no image, or images without a number")
    if array.ndim < 2 or array.ndim > MAX_IMAGE_DIMENSIONS + 1:
        raise InvalidInputError(
            file,
            f"{name} has shape {array.shape}; expected (images, rows, columns), (images, rows, columns, channels) or "
            "(images, numbers)",
        )
    if array.dtype == np.uint8:
        return np.ascontiguousarray(array)
    if array.dtype.kind != "f" or array.dtype.itemsize not in (4, 8):
        raise InvalidInputError(
            file, f"{name} is {array.dtype}; expected uint8 or float32{_how_to_convert(array, name)}"
        )
    with np.errstate(over="ignore", invalid="ignore"):
        rounded = np.ascontiguousarray(array, np.float32)
    if not np.isfinite(rounded).all():
        raise InvalidInputError(file, f"{name} has numbers that are not finite float32")
    return rounded


def _how_to_convert(images: NDArray[Any], name: str) -> str:
    """Returns how images of another dtype become one that is taken, which is for the caller to decide."""
    if images.dtype.kind == "b":
        return f"; {name}.astype('uint8') * 255 converts it"
    if images.dtype.kind in "iu":
        low, high = images.min(), images.max()
        kept = "uint8" if low >= 0 and high <= MAX_BYTE else "float32"
        return f"; its numbers are {low} to {high}: {name}.astype('{kept}') converts it"
    if images.dtype.kind == "f":
        return f"; {name}.astype('float32') converts it"
    # Numpy has no bfloat16, and saves its two bytes without saying what they mean.
    if images.dtype.kind == "V":
        return "; numpy saves bfloat16 and other types it does not know like that: convert it to float32 before saving"
    return ""


def _labels(array: NDArray[Any], name: str, file: str) -> NDArray[np.uint8]:
    if array.ndim != 1 or not array.size or array.dtype.kind not in "iu":
        raise InvalidInputError(
            file,
            f"{name} is {array.dtype} of shape {array.shape}; expected integers, (images,)"
            f"{_how_to_make_labels(array, name)}",
        )
    if array.min() < 0 or array.max() > MAX_LABEL:
        raise InvalidInputError(
            file, f"{name} has labels from {array.min()} to {array.max()}; expected 0 to {MAX_LABEL}"
        )
    return np.ascontiguousarray(array, np.uint8)


def _how_to_make_labels(array: NDArray[Any], name: str) -> str:
    """Returns how labels of another form become integers, where one can say."""
    if array.dtype.kind == "U" and array.ndim == 1:
        return f"; class_names, {name} = numpy.unique({name}, return_inverse=True) numbers them"
    if array.dtype.kind not in "biuf" or not array.size:
        return ""
    if array.ndim == 2 and array.shape[1] > 1:
        one_hot = ((array == 0) | (array == 1)).all() and (array.sum(axis=1) == 1).all()
        return f"; {name} is one-hot: {name}.argmax(axis=1) makes labels of it" if one_hot else ""
    if array.ndim > 2:
        return ""
    whole = array.dtype.kind != "f" or (np.isfinite(array).all() and (array == np.floor(array)).all())
    return f"; {name}.ravel().astype(int) makes labels of it" if whole else ""


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
        kind = kind_of(content)
        raise InvalidInputError(
            name,
            f"an IDX file of bytes begins with {magic.hex()}; this one with {content[:4].hex()}"
            f"{kind and f': it is {kind}'}; expected an IDX file of uint8 with {dimensions} dimension"
            f"{'s' * (dimensions > 1)}, gzipped or not",
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
