"""Certificates of networks' gradients: made once for each network, and kept."""

import json
import threading
from dataclasses import asdict
from importlib.metadata import version
from typing import Final

from handgrad.core.network import Network
from handgrad.core.verification import MAX_PARAMETERS, ArrayCheck, Certificate, certify
from handgrad.server.storage import Storage, network_to_json

VERSION: Final = version("handgrad")


class Certificates:
    """The certificates of a server. Every method may be called by any thread."""

    def __init__(self, storage: Storage) -> None:
        self._database = storage.database
        self.checking = threading.Lock()
        """Held while gradients are checked: one check at a time, so that a crowd of them leaves training its cores."""

    def of(self, network: Network) -> Certificate | None:
        """Gives the certificate of a network, which is made if there is none; None for one too large to be checked.

        Raises:
            ExhaustedError: The disk is full.
            StorageError: The disk fails.
        """
        if network.parameters > MAX_PARAMETERS:
            return None
        text = network_to_json(network)
        if known := self._known(text):
            return known
        with self.checking:
            if known := self._known(text):
                return known
            made = certify(network)
        with self._database.transaction() as writer:
            writer.execute(
                "INSERT OR IGNORE INTO certificates VALUES (?, ?, ?)", (text, VERSION, certificate_to_json(made))
            )
        return made

    def _known(self, network: str) -> Certificate | None:
        rows = self._database.read("SELECT body FROM certificates WHERE network = ? AND handgrad = ?", network, VERSION)
        return certificate_from_json(rows[0]["body"]) if rows else None


def certificate_to_json(certificate: Certificate) -> str:
    """Gives a certificate as JSON."""
    return json.dumps(asdict(certificate))


def certificate_from_json(text: str) -> Certificate:
    """Gives the certificate of JSON that was written by `certificate_to_json`."""
    told = json.loads(text)
    checks = tuple(ArrayCheck(**check | {"shape": tuple(check["shape"])}) for check in told.pop("checks"))
    return Certificate(checks, **told)
