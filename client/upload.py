"""What an upload sends: the files of a data set in chunks, and images as tensors."""

import gzip
import hashlib
import math
import re
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from handgrad.client.errors import InvalidArgumentError
from handgrad.client.text import printable
from handgrad.v1 import dataset_pb2, tensor_pb2

CHUNK_BYTES = 2**20
FORMATS: Final = (
    ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"),
    (*(f"data_batch_{number}.bin" for number in range(1, 6)), "test_batch.bin"),
)
"""Files that make a data set together: those of MNIST, those of CIFAR-10."""

ACCEPTED: Final = (
    "an .npz file with x_train, y_train, x_test and y_test (numpy.savez_compressed writes one), or a folder with the "
    f"four IDX files of MNIST ({', '.join(FORMATS[0])}) or the six of CIFAR-10's binary version "
    "(data_batch_1.bin to data_batch_5.bin, test_batch.bin), gzipped or not"
)

_CLASS_NAMES: Final = ("class_names.txt", "classes.txt", "labels.txt", "batches.meta.txt")
_ARCHIVES: Final = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".7z", ".rar")
_KINDS: Final = {
    (".csv", ".tsv", ".arff", ".txt", ".json", ".jsonl"): "is text, which is not read as images",
    (".npy",): "is a single array",
    (".pkl", ".pickle", ".pkl.gz", ".pt", ".pth", ".joblib"): "is a Python pickle by its name, which is never run",
    (".mat", ".h5", ".hdf5", ".parquet", ".arrow", ".tfrecord", ".safetensors"): "is in another format",
    _ARCHIVES: "is an archive: unpack it and give what is in it",
    (".npz.gz",): "is compressed once more: gunzip it",
}
_SHOWN_NAMES: Final = 8
_COMPARED_BYTES: Final = 2**20


def dataset_files(source: Path) -> list[Path]:
    """Gives the files of a data set: an .npz file itself, or those of a known format that a folder has.

    A file's name may be in any case, end in .gz, and have the dot that 7-Zip and Kaggle put into it. A text of class
    names goes with them.

    Raises:
        InvalidArgumentError: It is no data set, or not a whole one, or more than one.
        OSError: It is not there, or cannot be read.
    """
    with named_errors(source):
        return _files_of_folder(source) if source.is_dir() else [_single_file(source)]


def _files_of_folder(folder: Path) -> list[Path]:
    name, there = printable(str(folder)), sorted(folder.iterdir())
    found: dict[str, list[Path]] = {}
    for path in there:
        if role := _role(path.name):
            found.setdefault(role, []).append(path)
    wanted = max(FORMATS, key=lambda group: sum(role in found for role in group))
    if not any(role in found for role in wanted):
        raise InvalidArgumentError(f"{name}: {_no_data_set(there)}; a data set is {ACCEPTED}", folder.name)
    if all(role in found for group in FORMATS for role in group):
        raise InvalidArgumentError(
            f"{name}: it holds the files of MNIST and those of CIFAR-10; expected one", folder.name
        )
    for role in wanted:
        if role not in found:
            raise InvalidArgumentError(
                f"{role}: the file is missing; {name} holds {_names(there)}; a data set is {ACCEPTED}", role
            )
    return [_one_of(role, found[role]) for role in (*wanted, _CLASS_NAMES[0]) if role in found]


def _role(name: str) -> str:
    """Gives the name that the format has for a file; empty for one of no format. The server has the same rule."""
    plain = name.lower().removesuffix(".gz")
    if plain in _CLASS_NAMES:
        return _CLASS_NAMES[0]
    dashed = re.sub(r"\.(idx[13]-ubyte)$", r"-\1", plain)
    return dashed if any(dashed in group for group in FORMATS) else ""


def _single_file(source: Path) -> Path:
    name = printable(str(source))
    if not source.is_file():
        if source.exists():
            raise InvalidArgumentError(f"{name}: neither a file nor a folder; a data set is {ACCEPTED}", source.name)
        raise FileNotFoundError(f"{name}: there is no such file or folder; a data set is {ACCEPTED}")
    lowered = source.name.lower()
    if lowered.endswith(".npz"):
        return source
    if _role(source.name):
        problem = "it is one file of a data set: give the folder that holds them all"
    else:
        kind = next(
            (kind for endings, kind in _KINDS.items() if lowered.endswith(endings)), "has a name that is not known"
        )
        problem = f"the file {kind}"
    raise InvalidArgumentError(f"{name}: {problem}; a data set is {ACCEPTED}", source.name)


def _no_data_set(there: list[Path]) -> str:
    """Says what a folder holds instead of a data set's files."""
    if not there:
        return "the folder is empty"
    if files := [path for path in there if path.name.lower().endswith(".npz")]:
        return f"the folder holds {_names(files)}: give that file itself"
    if any(re.fullmatch(r"data_batch_[1-5]|test_batch", path.name) for path in there):
        return (
            f"the folder holds {_names(there)}: CIFAR-10's Python version is pickles, which are never run; its binary "
            "version is taken (cifar-10-binary.tar.gz)"
        )
    for folder in there:
        if folder.is_dir() and any(_role(path.name) or path.suffix == ".npz" for path in folder.iterdir()):
            return f"the folder holds {_names(there)}: give {printable(str(folder))}"
    if archives := [path for path in there if path.name.lower().endswith(_ARCHIVES)]:
        return f"the folder holds {_names(archives)}: unpack it and give what is in it"
    return f"the folder holds {_names(there)}"


def _one_of(role: str, paths: list[Path]) -> Path:
    """Gives the file among several spellings of one, whose contents must be the same, gzipped or not."""
    # Kaggle's MNIST has folders of the same names beside its files.
    files = [path for path in paths if path.is_file()]
    if not files:
        raise OSError(
            f"{printable(str(paths[0]))}: it is {'a folder' if paths[0].is_dir() else 'no file that is there'}"
        )
    if len(files) > 1 and len({_plain_sha256(path) for path in files}) > 1:
        raise InvalidArgumentError(f"{role}: {_names(files)} differ; which is it? Remove the others", role)
    # The unpacked one, as it needs no more work.
    return min(files, key=lambda path: (path.suffix.lower() == ".gz", path.name))


def _plain_sha256(path: Path) -> str:
    """Gives the SHA-256 of a file's content, decompressed; of a damaged one as it is."""
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    digest = hashlib.sha256()
    try:
        with gzip.open(path) if packed else path.open("rb") as stream:
            while part := stream.read(_COMPARED_BYTES):
                digest.update(part)
    except (EOFError, gzip.BadGzipFile, zlib.error):
        return hashlib.sha256(path.read_bytes()).hexdigest()
    return digest.hexdigest()


def _names(paths: Iterable[Path]) -> str:
    names = [printable(path.name) + "/" * path.is_dir() for path in paths]
    more = len(names) - _SHOWN_NAMES
    return ", ".join(names[:_SHOWN_NAMES]) + (f" and {more} more" if more > 0 else "")


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """Turns the operating system's errors into such as say in plain words what is the matter with which file."""
    try:
        yield
    except OSError as error:
        if error.strerror is None:
            raise
        raise type(error)(f"{printable(str(error.filename or path))}: {error.strerror}") from error


def describe(path: Path) -> dataset_pb2.UploadFile:
    """Returns a file's name, printable, its length and its SHA-256.

    Raises:
        OSError: It cannot be read.
    """
    digest, size = hashlib.sha256(), 0
    for _, chunk in chunks_of(path, 0):
        digest.update(chunk)
        size += len(chunk)
    return dataset_pb2.UploadFile(file=printable(path.name), size_bytes=size, sha256=digest.hexdigest())


def chunks_of(path: Path, start: int) -> Iterator[tuple[int, bytes]]:
    """Gives the pieces of a file after its first `start` bytes, each with where it begins."""
    with named_errors(path), path.open("rb") as file:
        file.seek(start)
        while chunk := file.read(CHUNK_BYTES):
            yield start, chunk
            start += len(chunk)


def image_tensors(images: NDArray[Any], max_bytes: int, answered: Callable[[], int]) -> Iterator[tensor_pb2.Tensor]:
    """Yields images as tensors of at most `max_bytes` of data each, unless one image alone has more.

    Args:
        images: The images.
        max_bytes: The most of a tensor's data.
        answered: Returns the most images of a tensor whose answer is small enough, as far as that is known by now.

    Raises:
        InvalidArgumentError: They are not uint8 or floating-point numbers of shape [N, ...].
    """
    if images.dtype != np.uint8 and images.dtype.kind != "f":
        raise InvalidArgumentError(
            f"images: uint8 or float32; got {images.dtype}, which images.astype(...) converts", "images"
        )
    if images.ndim < 2 or not len(images):
        raise InvalidArgumentError(f"images: of shape (images, ...), one or more; got {images.shape}", "images")
    kind = tensor_pb2.DATA_TYPE_UINT8 if images.dtype == np.uint8 else tensor_pb2.DATA_TYPE_FLOAT32
    plain = images if images.dtype == np.uint8 else images.astype("<f4")
    per_call = max_bytes // max(1, math.prod(plain.shape[1:]) * plain.itemsize)
    while len(plain):
        count = max(1, min(per_call, answered()))
        part, plain = plain[:count], plain[count:]
        yield tensor_pb2.Tensor(name="images", data_type=kind, shape=part.shape, data=part.tobytes())
