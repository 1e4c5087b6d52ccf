"""Models: params under a name, published as immutable, numbered versions."""

import hashlib
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from handgrad.core.description import difference
from handgrad.core.network import Network
from handgrad.core.parameter_files import check_named_arrays, read_arrays, to_safetensors
from handgrad.core.signature import Signature, from_json, to_json
from handgrad.server.errors import NotFoundError, PreconditionError
from handgrad.server.names import next_name
from handgrad.server.storage import Storage, network_from_json, network_to_json

BYTES_KEPT: Final = 256 * 2**20
"""Bytes of params that a model's newest versions hold together, beyond which older ones are forgotten sooner."""

BYTES_CACHED: Final = 512 * 2**20
"""Bytes of params that are kept in memory, of all models together."""

Arrays = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class OptimizerState:
    """An optimizer's name, and its state as arrays, by the names of `core.parameter_files`; empty where it has none."""

    name: str
    arrays: Arrays


@dataclass(frozen=True)
class Draft:
    """Params that are to be published.

    Attributes:
        model: Name of the model.
        arrays: In the report's layout and order.
        signature: What the model takes, and what its outputs mean.
        optimizer: The optimizer's state that belongs to them; None when they come from a file.
        job: The job that publishes them, or empty.
        iteration: Iterations it had done.
        loss: Of the last of these, or None.
        only_newest: Whether the model's versions before it are forgotten, whatever the policy.
        epochs: Epochs that they were trained in all jobs together, one that was begun included.
    """

    model: str
    arrays: Arrays
    signature: Signature
    optimizer: OptimizerState | None = None
    job: str = ""
    iteration: int = 0
    loss: float | None = None
    only_newest: bool = False
    epochs: int = 0

    def contents(self) -> list[bytes]:
        """Gives the files to keep: that of the params, and that of the optimizer's state if it has any."""
        contents = [to_safetensors(self.arrays)]
        if self.optimizer and self.optimizer.arrays:
            contents.append(to_safetensors(self.optimizer.arrays))
        return contents


@dataclass(frozen=True, eq=False)
class Version:
    """What is known of params that were published. Nothing in it changes, and it equals only itself.

    Attributes:
        model: Name of the model.
        number: 1, 2, 3, ...
        network: Their architecture.
        params: The object that holds the arrays.
        optimizer: The object that holds the optimizer's state, or None.
        optimizer_name: The optimizer's name, or empty.
        sha256: Of the data of all arrays, little-endian, one after the other; in hexadecimal.
        size_bytes: Length of that data.
        signature: As in the draft.
        publish_time: Seconds since 1970.
        job: As in the draft.
        iteration: As in the draft.
        loss: As in the draft.
        epochs: As in the draft.
    """

    model: str
    number: int
    network: Network
    params: str
    optimizer: str | None
    optimizer_name: str
    sha256: str
    size_bytes: int
    signature: Signature
    publish_time: float
    job: str
    iteration: int
    loss: float | None
    epochs: int


@dataclass(frozen=True, eq=False)
class Data:
    """The arrays of a version, and `data`, in which they lie one after the other, little-endian. Equals only itself."""

    arrays: Arrays
    data: bytes


def data_of(arrays: Arrays) -> Data:
    """Copies arrays into one piece of data, with read-only views of it."""
    data = b"".join(array.astype("<f4", copy=False).tobytes() for array in arrays.values())
    views: dict[str, NDArray[np.float32]] = {}
    offset = 0
    for name, array in arrays.items():
        views[name] = np.frombuffer(data, "<f4", array.size, offset).reshape(array.shape)
        offset += array.size * 4
    return Data(views, data)


@dataclass
class Model:
    """A model: its network, its signature, its newest number, and the versions that are kept, oldest first.

    The signature is that of the newest version, or, before the first, of the job that is to publish it.
    """

    name: str
    network: Network
    signature: Signature
    newest: int = 0
    versions: OrderedDict[int, Version] = field(default_factory=OrderedDict)


class Models:
    """The models of a server. Every method may be called by any thread.

    What is in memory is what was committed: a version is seen by nobody before it is on disk.
    """

    def __init__(
        self,
        storage: Storage,
        *,
        keep_versions: int,
        keep_every: int,
        published: Callable[[], None] = lambda: None,
    ) -> None:
        """Reads what is known of every version.

        Args:
            storage: Where they are kept.
            keep_versions: Newest versions of a model that are kept.
            keep_every: Besides these, versions whose number is a multiple of it are kept; 0 for none.
            published: Called after each new version.
        """
        self._storage = storage
        self._keep_versions = keep_versions
        self._keep_every = keep_every
        self._published = published
        self.changed = threading.Condition()
        """Guards what follows, and is notified of each new version."""
        self._models: dict[str, Model] = {}
        self._cache: OrderedDict[str, Data] = OrderedDict()
        for row in storage.database.read("SELECT * FROM models WHERE network IS NOT NULL"):
            network = network_from_json(row["network"])
            signature = from_json(row["signature"], network, row["name"])
            self._models[row["name"]] = Model(row["name"], network, signature, row["newest"])
        for row in storage.database.read("SELECT * FROM versions ORDER BY model, number"):
            version = _version_of(row, self._models[row["model"]].network)
            self._models[version.model].versions[version.number] = version

    def reserve(self, writer: sqlite3.Connection, name: str, network: Network, signature: Signature) -> str:
        """Makes a model without versions, unless it exists and is the same; a part of a transaction.

        Args:
            writer: The transaction's connection.
            name: Its name; empty for a new model with a name of the server's.
            network: Its architecture.
            signature: What it takes, and what its outputs mean.

        Returns:
            The name.

        Raises:
            PreconditionError: It exists with another network, or takes something else.
        """
        with self.changed:
            name = name or next_name("model", self._models)
            model = self._models.get(name)
            if model is not None:
                if model.network != network:
                    raise PreconditionError(
                        f"model {name} has another network, {difference(model.network, network)}; choose another name"
                    )
                # What a file did not say, a job may.
                if model.signature.numbers and not model.signature.agrees(signature):
                    raise PreconditionError(
                        f"model {name} takes {model.signature.takes} ({model.signature.transform}), not "
                        f"{signature.takes} ({signature.transform}); choose another name"
                    )
                return name
            writer.execute(
                """INSERT INTO models (name, network, signature) VALUES (?, ?, ?)
                   ON CONFLICT DO UPDATE SET network = excluded.network, signature = excluded.signature""",
                (name, network_to_json(network), to_json(signature)),
            )
            newest = writer.execute("SELECT newest FROM models WHERE name = ?", (name,)).fetchone()[0]
            self._models[name] = Model(name, network, signature, newest)
            return name

    def forget(self, name: str) -> None:
        """Takes back a `reserve` whose transaction failed."""
        with self.changed:
            model = self._models.get(name)
            if model and not self._storage.database.read(
                "SELECT 1 FROM models WHERE name = ? AND network IS NOT NULL", name
            ):
                del self._models[name]

    def publish(self, draft: Draft, network: Network) -> Version:
        """Publishes params as the next version of a model, which is made if it does not exist; they are on disk then.

        Raises:
            PreconditionError: The model has another network, or a job is training it.
            ExhaustedError: The disk is full.
            StorageError: The disk fails.
        """
        with self._storage.objects.put(*draft.contents()) as names:
            model = draft.model
            try:
                with self._storage.database.transaction() as writer:
                    _check_idle(writer, model)
                    model = self.reserve(writer, model, network, draft.signature)
                    version = self.insert(writer, draft, names, model)
            except BaseException:
                self.forget(model)
                raise
            self.announce([(version, data_of(draft.arrays))])
        return version

    def insert(self, writer: sqlite3.Connection, draft: Draft, names: list[str], model: str = "") -> Version:
        """Makes the next version of a model, and forgets those that the policy does not keep; a part of a transaction.

        Args:
            writer: The transaction's connection.
            draft: The params.
            names: The objects that hold the draft's contents.
            model: The model's name, where it is not the draft's.
        """
        model = model or draft.model
        network = self._models[model].network
        told = to_json(draft.signature)
        writer.execute("UPDATE models SET newest = newest + 1, signature = ? WHERE name = ?", (told, model))
        number = writer.execute("SELECT newest FROM models WHERE name = ?", (model,)).fetchone()[0]
        data = data_of(draft.arrays).data
        row = {
            "model": model,
            "number": number,
            "params": names[0],
            "optimizer": names[1] if len(names) > 1 else None,
            "optimizer_name": draft.optimizer.name if draft.optimizer else "",
            "params_sha256": hashlib.sha256(data).hexdigest(),
            "size_bytes": len(data),
            "signature": told,
            "publish_time": time.time(),
            "job": draft.job,
            "iteration": draft.iteration,
            "loss": draft.loss,
            "epochs": draft.epochs,
        }
        writer.execute(
            f"INSERT INTO versions ({', '.join(row)}) VALUES ({', '.join(f':{key}' for key in row)})",  # noqa: S608
            row,
        )
        kept = 1 if draft.only_newest else max(1, min(self._keep_versions, BYTES_KEPT // len(data)))
        writer.execute(
            """DELETE FROM versions WHERE model = ? AND number <= ? AND (? = 0 OR number % ? != 0)
               AND number NOT IN (SELECT best_version FROM jobs WHERE jobs.model = ? AND state = 'running')""",
            (model, number - kept, self._keep_every, self._keep_every, model),
        )
        return _version_of(row, network)

    def announce(self, published: Iterable[tuple[Version, Data]]) -> None:
        """Makes versions seen, once the transaction that made them is committed."""
        dropped: list[Version] = []
        with self.changed:
            for version, data in published:
                model = self._models[version.model]
                model.newest, model.signature = version.number, version.signature
                self._published()
                model.versions[version.number] = version
                self._remember(version.params, data)
                rows = self._storage.database.read("SELECT number FROM versions WHERE model = ?", model.name)
                kept = {row[0] for row in rows}
                dropped += [model.versions.pop(number) for number in list(model.versions) if number not in kept]
            self.changed.notify_all()
        self._storage.release([name for version in dropped for name in (version.params, version.optimizer)])

    def delete(self, name: str) -> None:
        """Deletes a model and its versions.

        Raises:
            NotFoundError: There is no such model.
            PreconditionError: A job is training it.
        """
        with self._storage.database.transaction() as writer, self.changed:
            model = self._model(name)
            _check_idle(writer, name)
            writer.execute("DELETE FROM versions WHERE model = ?", (name,))
            # Its number stays, so that whoever asks for versions newer than one it knows never takes an old for a new.
            writer.execute("UPDATE models SET network = NULL, signature = NULL WHERE name = ?", (name,))
        with self.changed:
            del self._models[name]
            self.changed.notify_all()
        self._storage.release([name for v in model.versions.values() for name in (v.params, v.optimizer)])

    def draft_of(self, version: Version) -> Draft:
        """Gives a version as it was before it was published."""
        kept = version.optimizer
        state = read_arrays(self._storage.objects.get(kept), kept) if kept else {}
        return Draft(
            version.model,
            self.data(version).arrays,
            version.signature,
            OptimizerState(version.optimizer_name, state),
            version.job,
            version.iteration,
            version.loss,
            epochs=version.epochs,
        )

    def network(self, name: str) -> Network | None:
        """Gives the network of a model, or None where there is no such model."""
        with self.changed:
            model = self._models.get(name)
            return None if model is None else model.network

    def signature(self, name: str) -> Signature | None:
        """Returns the signature of a model, or None where there is no such model."""
        with self.changed:
            model = self._models.get(name)
            return None if model is None else model.signature

    def newest(self, name: str) -> Version | None:
        """Gives the newest version of a model, or None where it has none or there is no such model."""
        with self.changed:
            model = self._models.get(name)
            return None if model is None else model.versions.get(model.newest)

    def get(self, name: str, number: int = 0) -> Version:
        """Gives a version of a model; number 0 is the newest.

        Raises:
            NotFoundError: There is no such model or version, or it is no longer kept.
        """
        with self.changed:
            model = self._model(name)
            version = model.versions.get(number or model.newest)
            if version is None and not model.versions:
                raise NotFoundError(f"model {name} has no params yet")
            if version is None:
                kept = ", ".join(map(str, model.versions))
                raise NotFoundError(f"model {name} has no version {number}; versions {kept} are kept")
            return version

    def wait(self, name: str, after: int, seconds: float, done: Callable[[], bool] = lambda: False) -> Version | None:
        """Waits until a model has a version with a number over `after`; gives None when the time is over, or at `done`.

        Raises:
            NotFoundError: There is no such model.
        """

        def newer() -> Version | None:
            model = self._model(name)
            return model.versions.get(model.newest) if model.newest > after else None

        with self.changed:
            self.changed.wait_for(lambda: newer() or done(), seconds)
            return newer()

    def data(self, version: Version) -> Data:
        """Gives the arrays of a version, from memory or from disk.

        Raises:
            DamagedError: Its object is missing or damaged.
            NotFoundError: It was forgotten meanwhile.
        """
        with self.changed:
            if version.params in self._cache:
                self._cache.move_to_end(version.params)
                return self._cache[version.params]
        data = read_params(self._storage, version.params, version.network)
        with self.changed:
            self._remember(version.params, data)
        return data

    def page(self, size: int, after: str) -> list[Model]:
        """Gives models by name, at most `size`, those whose name comes after `after`."""
        with self.changed:
            names = sorted(name for name in self._models if name > after)[:size]
            return [
                Model(name, model.network, model.signature, model.newest, OrderedDict(model.versions))
                for name in names
                for model in [self._models[name]]
            ]

    def _model(self, name: str) -> Model:
        if name not in self._models:
            raise NotFoundError(f"there is no model {name!r}")
        return self._models[name]

    def _remember(self, name: str, data: Data) -> None:
        self._cache[name] = data
        self._cache.move_to_end(name)
        size = sum(len(each.data) for each in self._cache.values())
        while size > BYTES_CACHED and len(self._cache) > 1:
            size -= len(self._cache.popitem(last=False)[1].data)


def read_params(storage: Storage, name: str, network: Network) -> Data:
    """Reads an object that holds params.

    Raises:
        DamagedError: It is missing or damaged.
    """
    # In the layout's order, which is that of the data and its SHA-256; the file has its own.
    return data_of(check_named_arrays(read_arrays(storage.objects.get(name), name), name, network)[1])


def _check_idle(writer: sqlite3.Connection, name: str) -> None:
    """Raises PreconditionError where a job trains a model or waits to."""
    row = writer.execute(
        "SELECT name FROM jobs WHERE model = ? AND state IN ('queued', 'running') LIMIT 1", (name,)
    ).fetchone()
    if row:
        raise PreconditionError(
            f"{row['name']} is training model {name}; wait for it, cancel it, or choose another name"
        )


def _version_of(row: Mapping[str, Any] | sqlite3.Row, network: Network) -> Version:
    return Version(
        model=row["model"],
        number=row["number"],
        network=network,
        params=row["params"],
        optimizer=row["optimizer"],
        optimizer_name=row["optimizer_name"],
        sha256=row["params_sha256"],
        size_bytes=row["size_bytes"],
        signature=from_json(row["signature"], network, "signature"),
        publish_time=row["publish_time"],
        job=row["job"],
        iteration=row["iteration"],
        loss=row["loss"],
        epochs=row["epochs"],
    )
