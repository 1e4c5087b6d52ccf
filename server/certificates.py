"""Certificates of networks' gradients: made once for each network and loss, and kept."""

import json
import threading
from dataclasses import asdict
from importlib.metadata import version
from typing import Final

from handgrad.core.network import CROSS_ENTROPY, Loss, Network
from handgrad.core.verification import MAX_PARAMETERS, ArrayCheck, Certificate, certify
from handgrad.server.storage import Storage, network_to_json

VERSION: Final = version("handgrad")


class Certificates:
    """The certificates of a server. Every method may be called by any thread."""

    def __init__(self, storage: Storage) -> None:
        self._database = storage.database
        self.checking = threading.Lock()
        """Held while gradients are checked: one check at a time, so that a crowd of them leaves training its cores."""

    def of(self, network: Network, loss: Loss = CROSS_ENTROPY) -> Certificate | None:
        """Returns the certificate of a network's gradients, which is made if there is none.

        Args:
            network: The architecture.
            loss: What it was trained with.

        Returns:
            None for a network that is too large to be checked.

        Raises:
            ExhaustedError: The disk is full.
            StorageError: The disk fails.
        """
        if network.parameters > MAX_PARAMETERS:
            return None
        key = _key(network, loss)
        if known := self._known(key):
            return known
        with self.checking:
            if known := self._known(key):
                return known
            made = certify(network, loss=loss)
        with self._database.transaction() as writer:
            writer.execute(
                "INSERT OR IGNORE INTO certificates VALUES (?, ?, ?)", (key, VERSION, certificate_to_json(made))
            )
        return made

    def _known(self, key: str) -> Certificate | None:
        rows = self._database.read("SELECT body FROM certificates WHERE network = ? AND handgrad = ?", key, VERSION)
        return certificate_from_json(rows[0]["body"]) if rows else None


def _key(network: Network, loss: Loss) -> str:
    """Returns what a certificate is kept by: the network's JSON, as before losses were told, and behind it the loss."""
    text = network_to_json(network)
    return text if loss == CROSS_ENTROPY else f"{text} {json.dumps(asdict(loss), sort_keys=True)}"


def certificate_to_json(certificate: Certificate) -> str:
    """Gives a certificate as JSON."""
    return json.dumps(asdict(certificate))


def certificate_from_json(text: str) -> Certificate:
    """Gives the certificate of JSON that was written by `certificate_to_json`."""
    told = json.loads(text)
    checks = tuple(ArrayCheck(**check | {"shape": tuple(check["shape"])}) for check in told.pop("checks"))
    return Certificate(checks, **told)
