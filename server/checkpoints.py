"""Checkpoints: versions saved under a name, which no policy forgets."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from handgrad.core.network import Network
from handgrad.core.parameter_files import read_arrays
from handgrad.core.signature import from_json, to_json
from handgrad.core.verification import Certificate
from handgrad.server.certificates import certificate_from_json, certificate_to_json
from handgrad.server.errors import AlreadyExistsError, NotFoundError, PreconditionError
from handgrad.server.models import Arrays, Draft, OptimizerState, Version, read_params
from handgrad.server.storage import Storage, network_from_json, network_to_json


@dataclass(frozen=True)
class Checkpoint:
    """A version saved under a name. Nothing in it changes.

    Attributes:
        name: The name.
        version: What was saved; its job is empty, and its time is that of the saving.
        certificate: That of its network's gradients; None where the network has none.
    """

    name: str
    version: Version
    certificate: Certificate | None


class Checkpoints:
    """The checkpoints of a server. Every method may be called by any thread."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    def save(self, name: str, version: Version, certificate: Certificate | None) -> Checkpoint:
        """Saves a version; when this returns, it is on disk. Saving the same again changes nothing.

        Raises:
            AlreadyExistsError: The name holds other params.
            NotFoundError: The version was forgotten meanwhile.
            DamagedError: The version's object is missing or damaged.
            ExhaustedError: The disk is full.
            StorageError: The disk fails.
        """
        # What is answered must be there: in memory it may be whole where the disk has lost it.
        self._storage.objects.get(version.params)
        row = {
            "name": name,
            "network": network_to_json(version.network),
            "model": version.model,
            "number": version.number,
            "params": version.params,
            "optimizer": version.optimizer,
            "optimizer_name": version.optimizer_name,
            "params_sha256": version.sha256,
            "size_bytes": version.size_bytes,
            "signature": to_json(version.signature),
            "epochs": version.epochs,
            "iteration": version.iteration,
            "loss": version.loss,
            "save_time": time.time(),
            "certificate": certificate and certificate_to_json(certificate),
        }
        with self._storage.database.transaction() as writer:
            held = writer.execute("SELECT * FROM checkpoints WHERE name = ?", (name,)).fetchone()
            if held:
                found = _checkpoint_of(held)
                if (found.version.params, found.version.optimizer) != (version.params, version.optimizer):
                    raise AlreadyExistsError(
                        f"checkpoint {name} holds other params, and is never overwritten; choose another name"
                    )
                return found
            kept = writer.execute(
                "SELECT 1 FROM versions WHERE model = ? AND number = ? AND params = ?",
                (version.model, version.number, version.params),
            ).fetchone()
            if not kept:
                raise NotFoundError(f"model {version.model} no longer keeps version {version.number}")
            writer.execute(
                f"INSERT INTO checkpoints ({', '.join(row)}) VALUES ({', '.join(f':{key}' for key in row)})",  # noqa: S608
                row,
            )
        return _checkpoint_of(row)

    def get(self, name: str) -> Checkpoint:
        """Gives what is known of a checkpoint, or raises NotFoundError."""
        rows = self._storage.database.read("SELECT * FROM checkpoints WHERE name = ?", name)
        if not rows:
            raise NotFoundError(f"there is no checkpoint {name!r}")
        return _checkpoint_of(rows[0])

    def load(self, name: str, model: str, *, with_optimizer: bool) -> tuple[Network, Draft]:
        """Reads a checkpoint, and verifies its hash.

        Args:
            name: Its name.
            model: The model that it is to be published as.
            with_optimizer: Whether the optimizer's state is read too.

        Raises:
            NotFoundError: There is none of that name.
            PreconditionError: It has no optimizer state, and that was asked for.
            DamagedError: A file is not what was saved.
        """
        saved = self.get(name).version
        if with_optimizer and not saved.optimizer:
            raise PreconditionError(
                f"checkpoint {name} has no optimizer state: it was saved from params of a file or of plain SGD"
            )
        arrays = read_params(self._storage, saved.params, saved.network).arrays
        draft = Draft(model, arrays, saved.signature, None, "", saved.iteration, saved.loss, epochs=saved.epochs)
        if with_optimizer and saved.optimizer:
            state: Arrays = read_arrays(self._storage.objects.get(saved.optimizer), saved.optimizer)
            draft = replace(draft, optimizer=OptimizerState(saved.optimizer_name, state))
        return saved.network, draft

    def delete(self, name: str) -> None:
        """Deletes a checkpoint, or raises NotFoundError."""
        with self._storage.database.transaction() as writer:
            saved = self.get(name).version
            writer.execute("DELETE FROM checkpoints WHERE name = ?", (name,))
        self._storage.release([saved.params, saved.optimizer])

    def page(self, size: int, after: str) -> list[Checkpoint]:
        """Gives checkpoints by name, at most `size`, those whose name comes after `after`."""
        rows = self._storage.database.read(
            "SELECT * FROM checkpoints WHERE name > ? ORDER BY name LIMIT ?", after, size
        )
        return [_checkpoint_of(row) for row in rows]


def _checkpoint_of(row: Mapping[str, Any] | Any) -> Checkpoint:
    network = network_from_json(row["network"])
    version = Version(
        model=row["model"],
        number=row["number"],
        network=network,
        params=row["params"],
        optimizer=row["optimizer"],
        optimizer_name=row["optimizer_name"],
        sha256=row["params_sha256"],
        size_bytes=row["size_bytes"],
        signature=from_json(row["signature"], network, "signature"),
        publish_time=row["save_time"],
        job="",
        iteration=row["iteration"],
        loss=row["loss"],
        epochs=row["epochs"],
    )
    told = row["certificate"]
    return Checkpoint(row["name"], version, certificate_from_json(told) if told else None)
