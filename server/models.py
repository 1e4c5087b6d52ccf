"""Models: params under a name, published as immutable, numbered versions."""

import hashlib
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from handgrad.core.config import Pixels
from handgrad.core.network import Network
from handgrad.server.errors import NotFoundError, PreconditionError
from handgrad.server.names import next_name

VERSIONS_KEPT = 32
"""Newest versions of a model that are kept. An older one is forgotten."""

BYTES_KEPT = 256 * 2**20
"""Bytes of params that a model's versions hold together, beyond which older ones are forgotten sooner."""

Arrays = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Version:
    """Params as they were published. Nothing in it changes, and it equals only itself.

    Attributes:
        model: Name of the model.
        number: 1, 2, 3, ...
        network: Their architecture.
        arrays: In the report's layout and order; views of `data`.
        data: The data of all arrays, little-endian, one after the other.
        pixels: How the pixels they were trained on became inputs; None when they come from a file.
        publish_time: Seconds since 1970.
        job: The job that published them, or empty.
        iteration: Iterations it had done.
        loss: Of the last of these, or None.
    """

    model: str
    number: int
    network: Network
    arrays: Arrays
    data: bytes
    pixels: Pixels | None
    publish_time: float
    job: str = ""
    iteration: int = 0
    loss: float | None = None

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of `data`, in hexadecimal."""
        return sha256(self.data)


def joined(arrays: Arrays) -> bytes:
    """Gives the data of all arrays, little-endian, one after the other."""
    return b"".join(array.astype("<f4", copy=False).tobytes() for array in arrays.values())


def sha256(data: bytes) -> str:
    """Gives the SHA-256 of params' data, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


@dataclass
class Model:
    """A model: its network and its newest versions."""

    name: str
    network: Network
    newest: int = 0
    versions: OrderedDict[int, Version] = field(default_factory=OrderedDict)


class Models:
    """The models of a server. Every method may be called by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._models: dict[str, Model] = {}

    def reserve(self, name: str, network: Network) -> str:
        """Makes a model without versions, unless it exists with the same network.

        Args:
            name: Its name; empty for a new model with a name of the server's.
            network: Its architecture.

        Returns:
            The name.

        Raises:
            PreconditionError: It exists with another network.
        """
        with self._lock:
            name = name or next_name("model", self._models)
            model = self._models.setdefault(name, Model(name, network))
            if model.network != network:
                raise PreconditionError(
                    f"model {name} has widths {_widths(model.network)}, not {_widths(network)}; choose another name"
                )
            return name

    def network(self, name: str) -> Network | None:
        """Gives the network of a model, or None where there is no such model."""
        with self._lock:
            model = self._models.get(name)
            return None if model is None else model.network

    def newest(self, name: str) -> Version | None:
        """Gives the newest version of a model, or None where it has none or there is no such model."""
        with self._lock:
            model = self._models.get(name)
            return None if model is None else model.versions.get(model.newest)

    def publish(
        self,
        name: str,
        arrays: Arrays,
        pixels: Pixels | None,
        *,
        job: str = "",
        iteration: int = 0,
        loss: float | None = None,
    ) -> Version:
        """Publishes a copy of params as the next version of a model that exists."""
        data = joined(arrays)
        views = _views(data, arrays)
        kept = max(1, min(VERSIONS_KEPT, BYTES_KEPT // len(data)))
        with self._lock:
            model = self._models[name]
            model.newest += 1
            version = Version(name, model.newest, model.network, views, data, pixels, time.time(), job, iteration, loss)
            model.versions[version.number] = version
            while len(model.versions) > kept:
                model.versions.popitem(last=False)
            return version

    def get(self, name: str, number: int = 0) -> Version:
        """Gives a version of a model; number 0 is the newest.

        Raises:
            NotFoundError: There is no such model or version, or it is no longer kept.
        """
        with self._lock:
            model = self._models.get(name)
            if model is None:
                raise NotFoundError(f"there is no model {name!r}")
            version = model.versions.get(number or model.newest)
            if version is None and not model.versions:
                raise NotFoundError(f"model {name} has no params yet")
            if version is None:
                raise NotFoundError(
                    f"model {name} has no version {number}; versions {min(model.versions)} to {model.newest} are kept"
                )
            return version


def _views(data: bytes, arrays: Arrays) -> Arrays:
    """Gives read-only arrays of the same names and shapes, whose elements lie in `data`."""
    views: dict[str, NDArray[np.float32]] = {}
    offset = 0
    for name, array in arrays.items():
        views[name] = np.frombuffer(data, "<f4", array.size, offset).reshape(array.shape)
        offset += array.size * 4
    return views


def _widths(network: Network) -> str:
    return "-".join(map(str, network.widths))
