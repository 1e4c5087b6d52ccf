"""What an upload sends: the files of a data set in chunks, and images as tensors."""

import hashlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from handgrad.client.errors import InvalidArgumentError
from handgrad.v1 import dataset_pb2, params_pb2

CHUNK_BYTES = 2**20
FORMATS: Final = (
    ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
    (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"),
)
"""Files that make a data set together: those of MNIST, those of CIFAR-10."""


def dataset_files(source: Path) -> list[Path]:
    """Gives the files of a data set: an .npz file itself, or those of a known format that a folder has.

    Raises:
        OSError: The folder cannot be read.
    """
    if source.suffix == ".npz" and not source.is_dir():
        return [source]
    there = {path.name: path for path in source.iterdir()}
    found = [[there.get(file) or there.get(f"{file}.gz") for file in group] for group in FORMATS]
    return [path for path in max(found, key=lambda group: sum(map(bool, group))) if path]


def describe(path: Path) -> dataset_pb2.UploadFile:
    """Gives a file's name, length and SHA-256.

    Raises:
        OSError: It cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    for _, chunk in chunks_of(path, 0):
        digest.update(chunk)
        size += len(chunk)
    return dataset_pb2.UploadFile(file=path.name, size_bytes=size, sha256=digest.hexdigest())


def chunks_of(path: Path, start: int) -> Iterator[tuple[int, bytes]]:
    """Gives the pieces of a file after its first `start` bytes, each with where it begins."""
    with path.open("rb") as file:
        file.seek(start)
        while chunk := file.read(CHUNK_BYTES):
            yield start, chunk
            start += len(chunk)


def image_tensors(images: NDArray[Any], max_bytes: int, answered: Callable[[], int]) -> Iterator[params_pb2.Tensor]:
    """Yields images as tensors of at most `max_bytes` of data each, unless one image alone has more.

    Args:
        images: The images.
        max_bytes: The most of a tensor's data.
        answered: Returns the most images of a tensor whose answer is small enough, as far as that is known by now.

    Raises:
        InvalidArgumentError: They are not uint8 or floating-point numbers of shape [N, ...].
    """
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise InvalidArgumentError(f"images: uint8 or float32; got {images.dtype}", "images")
    if images.ndim < 2 or not len(images):
        raise InvalidArgumentError(f"images: of shape (images, ...), one or more; got {images.shape}", "images")
    kind = params_pb2.DATA_TYPE_UINT8 if images.dtype == np.uint8 else params_pb2.DATA_TYPE_FLOAT32
    plain = images if images.dtype == np.uint8 else images.astype("<f4")
    per_call = max_bytes // max(1, math.prod(plain.shape[1:]) * plain.itemsize)
    while len(plain):
        count = max(1, min(per_call, answered()))
        part, plain = plain[:count], plain[count:]
        yield params_pb2.Tensor(name="images", data_type=kind, shape=part.shape, data=part.tobytes())
