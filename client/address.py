"""Addresses of servers: which are accepted, which are this machine's, and whose proxy leads to the others."""

import ipaddress
import os
import re
from typing import Final

from handgrad.client.errors import InvalidArgumentError

MAX_PORT: Final = 65_535

_ADDRESS = re.compile(
    r"(?:\[(?P<ipv6>[0-9A-Fa-f:.]+(?:%[A-Za-z0-9._-]+)?)\]|(?P<name>[A-Za-z0-9._-]+)):(?P<port>[0-9]{1,5})"
)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_PROXY_VARIABLES: Final = ("grpc_proxy", "https_proxy", "http_proxy")
_NO_PROXY_VARIABLES: Final = ("no_grpc_proxy", "no_proxy")


def split_address(address: str) -> tuple[str, int]:
    """Returns host and port of "HOST:PORT"; an IPv6 address stands in brackets, and is returned without.

    Raises:
        InvalidArgumentError: It is anything else, which gRPC would take for a name of its own schemes or for a path.
    """
    parts = _ADDRESS.fullmatch(address)
    if parts is None or not 1 <= int(parts["port"]) <= MAX_PORT or (parts["ipv6"] and not _is_ipv6(parts["ipv6"])):
        raise InvalidArgumentError(f"address: HOST:PORT, {_lacking(address)}; got {address!r:.100}", "address")
    return parts["ipv6"] or parts["name"], int(parts["port"])


def _lacking(address: str) -> str:
    if scheme := _SCHEME.match(address):
        return f"without {scheme[0]}"
    if _is_ipv6(address) or _is_ipv6(address.rpartition(":")[0]):
        return "an IPv6 address in brackets"
    return f"with a port from 1 to {MAX_PORT}"


def _is_ipv6(text: str) -> bool:
    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def is_this_machine(host: str) -> bool:
    """Says whether a host is this machine alone: a token may go there without TLS, and no proxy leads there.

    It is one that is loopback, or the unspecified address, which connects to loopback; of all names `localhost` alone.
    A resolver takes more for an IP address than this does, such as 127.1; these are names here, and not trusted.
    """
    try:
        found = ipaddress.ip_address(host)
    except ValueError:
        return host == "localhost"
    found = getattr(found, "ipv4_mapped", None) or found
    return found.is_loopback or found.is_unspecified


def proxy_variable(host: str) -> str:
    """Returns the environment's variable that names the proxy which gRPC takes to a host; empty where it takes none."""
    variable = next((name for name in _PROXY_VARIABLES if name in os.environ), "")
    if is_this_machine(host) or not os.environ.get(variable, "").startswith("http://"):
        return ""
    without = next((os.environ[name] for name in _NO_PROXY_VARIABLES if name in os.environ), "")
    entries = [entry.strip().lower() for entry in without.split(",") if entry.strip()]
    return "" if any(host.lower().endswith(entry) or _is_in(host, entry) for entry in entries) else variable


def _is_in(host: str, subnet: str) -> bool:
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(subnet, strict=False)
    except ValueError:
        return False
