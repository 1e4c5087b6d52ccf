"""A data directory: the database that refers to objects, and the objects."""

import json
import logging
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Final

from handgrad.core.network import Network, fully_connected
from handgrad.core.network_spec import layers_from_spec, layers_to_spec
from handgrad.server.database import Database
from handgrad.server.disk import Objects

log = logging.getLogger(__name__)

# Every column that refers to an object.
_REFERENCES: Final = (
    ("versions", "params"),
    ("versions", "optimizer"),
    ("checkpoints", "params"),
    ("checkpoints", "optimizer"),
    ("jobs", "snapshot_params"),
    ("jobs", "snapshot_optimizer"),
    ("datasets", "object"),
)


class Storage:
    """What a server keeps. An object is written before the database refers to it, and deleted after it no longer does.

    Attributes:
        folder: The data directory.
        database: Its database.
        objects: Its objects.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Opens the storage in a folder that exists, and removes what a crash left.

        Raises:
            InvalidInputError: The database is damaged, or of another version.
            OSError: The folder cannot be used.
        """
        self.folder = folder
        self.database = Database(folder / "handgrad.sqlite3")
        self.objects = Objects(folder / "objects", max_bytes)
        needed: set[str] = set()
        for table, column in _REFERENCES:
            rows = self.database.read(f"SELECT DISTINCT {column} FROM {table} WHERE {column} IS NOT NULL")  # noqa: S608
            needed.update(row[0] for row in rows)
        self.objects.keep_only(needed)
        for name in self.objects.damaged(needed):
            log.error("the object %s is missing or damaged; what refers to it cannot be read", name)

    def close(self) -> None:
        """Closes the database."""
        self.database.close()

    def release(self, names: Iterable[str | None]) -> None:
        """Deletes those objects that nothing refers to any more."""
        candidates = {name for name in names if name}
        if not candidates:
            return
        # Inside a transaction, so that nobody comes to refer to one between the question and the deletion.
        with self.database.transaction() as writer:
            unneeded = {
                name
                for name in candidates
                if not any(
                    writer.execute(f"SELECT 1 FROM {table} WHERE {column} = ? LIMIT 1", (name,)).fetchone()  # noqa: S608
                    for table, column in _REFERENCES
                )
            }
            self.objects.drop(unneeded)


def network_to_json(network: Network) -> str:
    """Gives a network as JSON."""
    return json.dumps({"input_shape": network.input_shape, "layers": layers_to_spec(network.layers)})


@lru_cache(maxsize=256)
def network_from_json(text: str) -> Network:
    """Gives the network of JSON that was written by `network_to_json`, or, up to schema 1, of its widths."""
    told = json.loads(text)
    if isinstance(told, list):
        return fully_connected(told[0], told[1:-1], told[-1])
    return Network(tuple(told["input_shape"]), layers_from_spec(told["layers"]))
