"""The settings of a server, and what is allowed for each."""

import ipaddress
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from handgrad.core.compilation import Platform
from handgrad.core.errors import InvalidInputError

LogFormat = Literal["text", "json"]

MAX_PORT: Final = 65_535
_ADDRESS = re.compile(
    r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?)\]|(?P<name>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})"
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_FOR_THIS_MACHINE = "127.0.0.1, ::1 or localhost"


@dataclass(frozen=True)
class Settings:
    """How a server listens, keeps and limits.

    Attributes:
        address: "HOST:PORT" where it listens; port 0 for a free one.
        data_dir: Where everything is kept; made if it is not there.
        insecure: Whether it may listen where other machines reach it, without TLS and tokens.
        tls_certificate: PEM file of its certificate chain; with `tls_key`, it speaks TLS.
        tls_key: PEM file of the certificate's key.
        tls_client_ca: PEM file of the authority whose certificates callers must have: mutual TLS.
        tokens: File of the tokens that callers must have.
        metrics_address: "HOST:PORT" of the Prometheus metrics over HTTP; None for none.
        platform: Where to compute: "auto" takes a GPU if there is one.
        log_format: "text", or "json" for a JSON object a line.
        snapshot_seconds: From one snapshot of a running job to the next; 0 for one at each of its pauses.
        keep_versions: Newest versions of a model that are kept.
        keep_every: Besides these, versions whose number is a multiple of it are kept; 0 for none.
        max_queued_jobs: Jobs that may wait.
        max_dataset_bytes: The most that the files of a data set may have together, as they are sent.
        max_disk_bytes: The most that models, checkpoints and data sets may have together before more are refused.
        max_streams: Streams that may be open at once.
        max_streams_per_caller: Of these, the most of one caller: of a token, or of a connection where there are none.
    """

    address: str = "127.0.0.1:50051"
    data_dir: Path = Path("handgrad-data")
    insecure: bool = False
    tls_certificate: Path | None = None
    tls_key: Path | None = None
    tls_client_ca: Path | None = None
    tokens: Path | None = None
    metrics_address: str | None = None
    platform: Platform = "auto"
    log_format: LogFormat = "text"
    snapshot_seconds: float = 5.0
    keep_versions: int = 32
    keep_every: int = 0
    max_queued_jobs: int = 256
    max_dataset_bytes: int = 512 * 2**20
    max_disk_bytes: int = 16 * 2**30
    max_streams: int = 48
    max_streams_per_caller: int = 32

    def check(self) -> None:
        """Raises InvalidInputError, which names the setting, where one is out of its range."""
        for name in (
            *("keep_versions", "max_queued_jobs", "max_dataset_bytes", "max_disk_bytes"),
            *("max_streams", "max_streams_per_caller"),
        ):
            if getattr(self, name) < 1:
                raise InvalidInputError(name, f"1 or more; got {getattr(self, name)}")
        if self.keep_every < 0:
            raise InvalidInputError("keep_every", f"0 or more; got {self.keep_every}")
        if not (math.isfinite(self.snapshot_seconds) and self.snapshot_seconds >= 0):
            raise InvalidInputError("snapshot_seconds", f"0 or more; got {self.snapshot_seconds}")
        if (self.tls_certificate is None) != (self.tls_key is None):
            raise InvalidInputError("tls_key", "a certificate and its key are given together, or neither")
        if self.tls_client_ca and not self.tls_certificate:
            raise InvalidInputError("tls_client_ca", "it needs tls_certificate and tls_key")
        self._check_reach()

    def _check_reach(self) -> None:
        host, _ = split_address(self.address, "address")
        if self.insecure:
            return
        if not is_loopback(host) and not (self.tls_certificate and self.tokens):
            raise InvalidInputError(
                "address",
                f"{host} is reached by other machines, and whoever reaches the server may use it: give "
                f"{_FOR_THIS_MACHINE}, or TLS and tokens, or --insecure to allow it",
            )
        if self.metrics_address and not is_loopback(split_address(self.metrics_address, "metrics_address")[0]):
            raise InvalidInputError(
                "metrics_address",
                f"metrics are open to whoever reaches them: give {_FOR_THIS_MACHINE}, or --insecure to allow it",
            )


def split_address(address: str, field: str) -> tuple[str, int]:
    """Returns host and port of "HOST:PORT"; an IPv6 address stands in brackets, and is returned without.

    Raises:
        InvalidInputError: It is anything else; its field is `field`.
    """
    parts = _ADDRESS.fullmatch(address)
    if parts is None or int(parts["port"]) > MAX_PORT or (parts["ipv6"] and not _is_ipv6(parts["ipv6"])):
        raise InvalidInputError(field, f"HOST:PORT, {_lacking(address)}; got {address!r:.100}")
    return parts["ipv6"] or parts["name"], int(parts["port"])


def join_address(host: str, port: int) -> str:
    """Returns "HOST:PORT", with an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _lacking(address: str) -> str:
    if scheme := _SCHEME.match(address):
        return f"without {scheme[0]}"
    if _is_ipv6(address) or _is_ipv6(address.rpartition(":")[0]):
        return "an IPv6 address in brackets"
    return f"with a port from 0 to {MAX_PORT}"


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def is_loopback(host: str) -> bool:
    """Says whether a host is this machine alone: an IP address that is loopback, or, of all names, `localhost`."""
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    return (getattr(found, "ipv4_mapped", None) or found).is_loopback
