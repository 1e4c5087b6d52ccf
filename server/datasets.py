"""Data sets by name: MNIST, which ships with handgrad, and those that callers uploaded, kept once for each content."""

import hashlib
import json
import logging
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal, TypeAlias

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import NDArray

from handgrad.core.datasets import Dataset, Split, from_arrays, mnist, to_arrays
from handgrad.core.errors import InvalidInputError
from handgrad.core.parameter_files import read_arrays, to_safetensors
from handgrad.core.signature import Numbers, doubts, numbers_of
from handgrad.server.errors import AlreadyExistsError, DamagedError, NotFoundError, PreconditionError, StorageError
from handgrad.server.storage import Storage

log = logging.getLogger(__name__)

MNIST: Final = "mnist"

SPLITS_ON_DEVICE: Final = 4
"""Splits that are kept on the device. The one that was used longest ago makes room."""

DATASETS_IN_MEMORY: Final = 2

CLASSES_IN_A_NOTE: Final = 10

SplitName: TypeAlias = Literal["train", "test"]


@dataclass(frozen=True)
class Summary:
    """What is known of a data set without its images.

    Attributes:
        train_images: Images of the training split.
        test_images: Images of the test split.
        image_shape: Shape of an image.
        classes: Labels are 0 to classes - 1.
        data_type: "uint8" or "float32".
        sha256: Of a line of JSON with class_names, data_type and image_shape, and of x_train, y_train, x_test, y_test,
            one after the other.
        size_bytes: Of these four together.
        class_names: Names of the classes, in the order of their labels; empty where they have none.
        train_images_per_class: Training images of each class, in the order of the labels.
        low: The smallest number of the training images.
        high: The largest.
        mean: Their mean.
        doubts: What is to be told of the test images' numbers beside those of training, a sentence each.
        create_time: Seconds since 1970; None for the one that ships with handgrad.
    """

    train_images: int
    test_images: int
    image_shape: tuple[int, ...]
    classes: int
    data_type: str
    sha256: str
    size_bytes: int
    class_names: tuple[str, ...] = ()
    train_images_per_class: tuple[int, ...] = ()
    low: float = 0.0
    high: float = 0.0
    mean: float = 0.0
    doubts: tuple[str, ...] = ()
    create_time: float | None = None

    @property
    def numbers(self) -> Numbers:
        """What the numbers of its training images are."""
        return Numbers("uint8" if self.data_type == "uint8" else "float32", self.low, self.high, self.mean)

    @property
    def inputs(self) -> int:
        """Numbers of one image."""
        inputs = 1
        for length in self.image_shape:
            inputs *= length
        return inputs

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of the data set before a network is trained on it, a sentence each."""
        found = tuple(f"of the test images: {doubt}" for doubt in self.doubts)
        if self.data_type == "uint8" and 0 < self.high <= 1:
            found += ("the bytes are 0 and 1 alone: floats from 0 to 1 lose all else where they are cast to bytes",)
        return found + self._empty_classes()

    def _empty_classes(self) -> tuple[str, ...]:
        without = [label for label, count in enumerate(self.train_images_per_class) if not count]
        if not without:
            return ()
        if without == [0]:
            return (f"{self._class(0)} has no training image: do the labels begin at 1?",)
        named = ", ".join(self._class(label) for label in without[:CLASSES_IN_A_NOTE])
        more = len(without) - CLASSES_IN_A_NOTE
        return (f"no training image is of {named}{f' and {more} more' if more > 0 else ''}",)

    def _class(self, label: int) -> str:
        return f"class {label}" + (f" ({self.class_names[label]})" if self.class_names else "")


class Datasets:
    """The data sets of a server. Every method may be called by any thread."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._device_lock = threading.Lock()
        """Guards `_on_device`; held while a split is loaded, so that several lanes load it once."""
        self._mnist: tuple[Dataset, Summary] | None = None
        self._in_memory: OrderedDict[str, Dataset] = OrderedDict()
        self._on_device: OrderedDict[tuple[str, SplitName], tuple[Array, Array]] = OrderedDict()
        self._complete_older_rows()

    def describe(self, name: str) -> Summary:
        """Gives what is known of a data set, or raises NotFoundError."""
        if name == MNIST:
            return self._shipped()[1]
        return _summary_of(self._row(name))

    def add_known(self, name: str, files_sha256: str) -> str | None:
        """Keeps a data set that the server has already, in files of that hash, under a name too.

        Args:
            name: Its name; empty for one made from its SHA-256.
            files_sha256: Hash of the files that it came in.

        Returns:
            The name; None where the server does not have it.

        Raises:
            AlreadyExistsError: The name holds another data set.
        """
        with self._storage.database.transaction() as writer:
            if name:
                _check_name(writer, name, "files_sha256", files_sha256)
            row = writer.execute("SELECT * FROM datasets WHERE files_sha256 = ? LIMIT 1", (files_sha256,)).fetchone()
            if row is None:
                return None
            name = name or _made_name(row["sha256"])
            if not _check_name(writer, name, "sha256", row["sha256"]):
                known = (row["object"], row["sha256"], files_sha256, row["summary"], time.time())
                writer.execute("INSERT INTO datasets VALUES (?, ?, ?, ?, ?, ?)", (name, *known))
        return name

    def add(self, name: str, dataset: Dataset, files_sha256: str) -> str:
        """Keeps a data set; when this returns, it is on disk. Adding the same again changes nothing.

        Args:
            name: Its name; empty for one made from its SHA-256.
            dataset: The data set.
            files_sha256: Hash of the files that it came in.

        Returns:
            The name.

        Raises:
            AlreadyExistsError: The name holds another data set.
            ExhaustedError: The disk is full, or holds as much as it may.
            StorageError: The disk fails.
        """
        summary = summarize(dataset)
        name = name or _made_name(summary.sha256)
        content = to_safetensors(to_arrays(dataset))
        self._storage.objects.check_room(len(content))
        with self._storage.objects.put(content) as (key,), self._storage.database.transaction() as writer:
            if not _check_name(writer, name, "sha256", summary.sha256):
                writer.execute(
                    "INSERT INTO datasets VALUES (?, ?, ?, ?, ?, ?)",
                    (name, key, summary.sha256, files_sha256, _to_json(summary), time.time()),
                )
            else:
                # It came in other files before, or in files that an older server hashed without their names.
                writer.execute("UPDATE datasets SET files_sha256 = ? WHERE name = ?", (files_sha256, name))
        log.info("data set %s is kept, %d training images", name, summary.train_images)
        return name

    def delete(self, name: str) -> None:
        """Deletes a data set.

        Raises:
            NotFoundError: There is none of that name.
            PreconditionError: A job that has not ended needs it, or it ships with handgrad.
        """
        if name == MNIST:
            raise PreconditionError(f"data set {MNIST} ships with the server")
        with self._storage.database.transaction() as writer:
            row = self._row(name)
            job = writer.execute(
                "SELECT name FROM jobs WHERE dataset = ? AND state IN ('queued', 'running') LIMIT 1", (name,)
            ).fetchone()
            if job:
                raise PreconditionError(f"{job['name']} needs data set {name}; wait for it, or cancel it")
            writer.execute("DELETE FROM datasets WHERE name = ?", (name,))
        self._storage.release([row["object"]])

    def page(self, size: int, after: str) -> list[tuple[str, Summary]]:
        """Gives data sets by name, at most `size`, those whose name comes after `after`."""
        rows = self._storage.database.read("SELECT * FROM datasets WHERE name > ? ORDER BY name LIMIT ?", after, size)
        found = [(row["name"], _summary_of(row)) for row in rows]
        if after < MNIST:
            found.append((MNIST, self.describe(MNIST)))
        return sorted(found, key=lambda each: each[0])[:size]

    def on_device(self, name: str, split: SplitName) -> tuple[Array, Array]:
        """Returns images `[N, D]` and labels `[N]` on the device. A split that several threads ask for is loaded once.

        Raises:
            NotFoundError: There is none of that name.
            DamagedError: Its object is missing or damaged.
        """
        key = (MNIST if name == MNIST else self._row(name)["object"], split)
        with self._device_lock:
            if key not in self._on_device:
                part: Split = getattr(self._load(key[0]), split)
                self._on_device[key] = jnp.asarray(part.images), jnp.asarray(part.labels)
                if len(self._on_device) > SPLITS_ON_DEVICE:
                    self._on_device.popitem(last=False)
            self._on_device.move_to_end(key)
            return self._on_device[key]

    def images(self, name: str, seed: int, count: int) -> NDArray[np.uint8] | NDArray[np.float32]:
        """Gives some images of the training split, `[count, D]`, drawn by a seed.

        Raises:
            NotFoundError: There is none of that name.
            DamagedError: Its object is missing or damaged.
        """
        images = self._load(MNIST if name == MNIST else self._row(name)["object"]).train.images
        return images[np.random.default_rng(seed).integers(0, len(images), count)]

    def examples(
        self, name: str, split: SplitName, indices: Sequence[int]
    ) -> tuple[NDArray[np.uint8] | NDArray[np.float32], NDArray[np.uint8]]:
        """Returns the images `[n, *image_shape]` and the labels `[n]` at some positions of a split.

        Raises:
            NotFoundError: There is none of that name.
            InvalidInputError: An index is not one of the split's.
            DamagedError: Its object is missing or damaged.
        """
        dataset = self._load(MNIST if name == MNIST else self._row(name)["object"])
        part: Split = getattr(dataset, split)
        for index in indices:
            if not 0 <= index < len(part.labels):
                raise InvalidInputError(
                    "indices", f"from 0 to {len(part.labels) - 1}, the {split} images of data set {name}; got {index}"
                )
        chosen = np.array(indices, np.intp)
        return part.images[chosen].reshape(len(chosen), *dataset.image_shape), part.labels[chosen]

    def _complete_older_rows(self) -> None:
        """Brings rows up to date that a server wrote before it knew of their numbers and hashed their shapes."""
        for row in self._storage.database.read("SELECT * FROM datasets"):
            if "mean" in json.loads(row["summary"]):
                continue
            try:
                summary = summarize(self._load(row["object"]))
            except (DamagedError, StorageError, InvalidInputError) as error:
                log.warning("data set %s is left as an older server described it: %s", row["name"], error)
                continue
            with self._storage.database.transaction() as writer:
                # The hash of its files said nothing of which file was which: the next upload says it anew.
                writer.execute(
                    "UPDATE datasets SET sha256 = ?, files_sha256 = '', summary = ? WHERE name = ?",
                    (summary.sha256, _to_json(summary), row["name"]),
                )

    def _load(self, key: str) -> Dataset:
        if key == MNIST:
            return self._shipped()[0]
        with self._lock:
            if key not in self._in_memory:
                self._in_memory[key] = from_arrays(read_arrays(self._storage.objects.get(key), key), key)
                if len(self._in_memory) > DATASETS_IN_MEMORY:
                    self._in_memory.popitem(last=False)
            self._in_memory.move_to_end(key)
            return self._in_memory[key]

    def _shipped(self) -> tuple[Dataset, Summary]:
        with self._lock:
            if self._mnist is None:
                dataset = mnist()
                self._mnist = dataset, summarize(dataset)
            return self._mnist

    def _row(self, name: str) -> Mapping[str, Any]:
        rows = self._storage.database.read("SELECT * FROM datasets WHERE name = ?", name)
        if not rows:
            names = [MNIST, *(row[0] for row in self._storage.database.read("SELECT name FROM datasets LIMIT 20"))]
            raise NotFoundError(f"there is no data set {name!r}; there are {', '.join(names)}")
        return dict(rows[0])


def _made_name(sha256: str) -> str:
    return f"dataset-{sha256[:12]}"


def _check_name(writer: sqlite3.Connection, name: str, column: str, value: str) -> bool:
    """Says whether a name holds the data set that has this in that column; raises where it holds another.

    An empty column is not known, and says nothing.
    """
    row = writer.execute("SELECT * FROM datasets WHERE name = ?", (name,)).fetchone()
    if name == MNIST or (row and row[column] not in {value, ""}):
        raise AlreadyExistsError(f"the name {name} holds another data set; choose another name")
    return row is not None


def summarize(dataset: Dataset) -> Summary:
    """Gives what is known of a data set without its images."""
    train = dataset.train
    data_type = str(train.images.dtype)
    # The same bytes mean another data set in another dtype or shape, or with other names.
    meaning = {"class_names": dataset.class_names, "data_type": data_type, "image_shape": dataset.image_shape}
    line = json.dumps(meaning, sort_keys=True, separators=(",", ":"), ensure_ascii=False) + "\n"
    digest = hashlib.sha256(line.encode())
    size_bytes = 0
    for array in to_arrays(dataset).values():
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
        size_bytes += array.nbytes
    return Summary(
        len(train.labels),
        len(dataset.test.labels),
        dataset.image_shape,
        dataset.classes,
        data_type,
        digest.hexdigest(),
        size_bytes,
        dataset.class_names,
        tuple(np.bincount(train.labels, minlength=dataset.classes).tolist()),
        float(train.images.min()),
        float(train.images.max()),
        float(train.images.mean(dtype=np.float64)),
        tuple(doubts(numbers_of(train.images), numbers_of(dataset.test.images), dataset.test.images.size)),
    )


def _to_json(summary: Summary) -> str:
    return json.dumps({key: value for key, value in vars(summary).items() if key != "create_time"})


def _summary_of(row: Mapping[str, Any] | Any) -> Summary:
    known = json.loads(row["summary"])
    lists = {
        name: tuple(known[name]) for name in ("image_shape", "class_names", "train_images_per_class") if name in known
    }
    return Summary(**known | lists | {"create_time": row["create_time"]})
