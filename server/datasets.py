"""Data sets by name: MNIST, which ships with handgrad, and those that callers upload."""

import hashlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

import jax.numpy as jnp
from jax import Array

from handgrad.core.datasets import IDX_FILES, Dataset, Split, mnist, parse_idx_files
from handgrad.server.errors import AlreadyExistsError, ExhaustedError, NotFoundError

log = logging.getLogger(__name__)

MNIST: Final = "mnist"
MAX_UPLOAD_BYTES: Final = 512 * 2**20
"""The most that the files of one upload may have together, as they are sent."""

MAX_HELD_BYTES: Final = 2 * 2**30
"""The most that all uploaded data sets may have together, decompressed."""

SPLITS_ON_DEVICE: Final = 4
"""Splits that are kept on the device. The one that was used longest ago makes room."""

SplitName: TypeAlias = Literal["train", "test"]


@dataclass(frozen=True)
class _Held:
    dataset: Dataset
    sha256: str


class Datasets:
    """The data sets of a server. Every method but `on_device` may be called by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._uploaded: dict[str, _Held] = {}
        self._mnist: Dataset | None = None
        self._on_device: OrderedDict[tuple[str, SplitName], tuple[Array, Array]] = OrderedDict()

    def get(self, name: str) -> Dataset:
        """Gives a data set.

        Raises:
            NotFoundError: There is none of that name.
        """
        with self._lock:
            if name == MNIST:
                self._mnist = self._mnist or mnist()
                return self._mnist
            if name not in self._uploaded:
                raise NotFoundError(f"there is no data set {name!r}; there are {', '.join([MNIST, *self._uploaded])}")
            return self._uploaded[name].dataset

    def add(self, name: str, files: Mapping[str, bytes]) -> tuple[str, Dataset]:
        """Parses the four IDX files of a data set, and keeps it under a name.

        Args:
            name: Its name; empty for one made from the files' SHA-256, the same for the same files.
            files: The content of each file, gzipped or not, by its name in IDX_FILES.

        Returns:
            The name and the data set.

        Raises:
            InvalidInputError: A file is missing or malformed.
            AlreadyExistsError: The name holds another data set.
            ExhaustedError: There is no room for it.
        """
        dataset = parse_idx_files(files)
        digest = hashlib.sha256()
        for file in IDX_FILES:
            digest.update(hashlib.sha256(files[file]).digest())
        sha256 = digest.hexdigest()
        name = name or f"dataset-{sha256[:12]}"
        with self._lock:
            held = self._uploaded.get(name)
            if name == MNIST or (held and held.sha256 != sha256):
                raise AlreadyExistsError(f"the name {name} holds another data set; choose another name")
            if held is None:
                size = sum(_size(each.dataset) for each in self._uploaded.values()) + _size(dataset)
                if size > MAX_HELD_BYTES:
                    raise ExhaustedError(f"data sets would hold {size} bytes; at most {MAX_HELD_BYTES} are kept")
                self._uploaded[name] = _Held(dataset, sha256)
                log.info("data set %s uploaded, %d training images", name, len(dataset.train.labels))
            return name, dataset

    def on_device(self, name: str, split: SplitName) -> tuple[Array, Array]:
        """Gives images `[N, D]` and labels `[N]` on the device. For the device's thread only."""
        key = (name, split)
        if key not in self._on_device:
            part: Split = getattr(self.get(name), split)
            self._on_device[key] = jnp.asarray(part.images), jnp.asarray(part.labels)
            if len(self._on_device) > SPLITS_ON_DEVICE:
                self._on_device.popitem(last=False)
        self._on_device.move_to_end(key)
        return self._on_device[key]


def _size(dataset: Dataset) -> int:
    return dataset.train.images.nbytes + dataset.test.images.nbytes
