"""The connection to a server: plain or with TLS, with a token or without."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeAlias

import grpc

from handgrad.client.address import is_this_machine, split_address
from handgrad.client.errors import InvalidArgumentError

Metadata: TypeAlias = tuple[tuple[str, str | bytes], ...]

TOKEN_VARIABLE: Final = "HANDGRAD_TOKEN"  # noqa: S105 - a name
CA_VARIABLE: Final = "HANDGRAD_CA"
CERTIFICATE_VARIABLE: Final = "HANDGRAD_CERTIFICATE"
KEY_VARIABLE: Final = "HANDGRAD_KEY"

_TOKEN = re.compile(r"[!-~]*")  # what metadata of a call can hold

KEEPALIVE_SECONDS: Final = 20.0
"""Silence after which an open call asks whether the server is still there: a laptop that slept or a router that forgot
the connection tells nobody, and the call would wait forever."""

KEEPALIVE_ANSWER_SECONDS: Final = 10.0
"""Without an answer for so long the connection is lost, and its calls end with UNAVAILABLE."""

CONNECT_ATTEMPT_SECONDS: Final = 10.0
"""After which an attempt to connect has failed; gRPC's own 20 s leave a client too few within its minute."""

MAX_SECONDS_BETWEEN_ATTEMPTS: Final = 5.0
"""From one attempt to connect to the next, at most; gRPC's own grow to two minutes, long after a server is back."""


@dataclass(frozen=True)
class Security:
    """How a client proves who it is, and knows who the server is.

    Attributes:
        token: Sent with each call; None for $HANDGRAD_TOKEN, empty for none.
        ca: PEM file of the authority that signed the server's certificate: TLS. None for $HANDGRAD_CA.
        certificate: PEM file of the client's own certificate, for mutual TLS. None for $HANDGRAD_CERTIFICATE.
        key: PEM file of its key. None for $HANDGRAD_KEY.
    """

    token: str | None = None
    ca: str | os.PathLike[str] | None = None
    certificate: str | os.PathLike[str] | None = None
    key: str | os.PathLike[str] | None = None


def open_channel(address: str, security: Security) -> tuple[grpc.Channel, Metadata]:
    """Opens a channel; it connects when it is first used. Returns it with the metadata that each call carries.

    Raises:
        InvalidArgumentError: The address is not HOST:PORT, a token would go to another machine without TLS or has
            characters that none has, or a certificate comes without its key.
        OSError: A file cannot be read.
    """
    host, _ = split_address(address)
    # Named so that gRPC takes it for nothing else: it has schemes of its own, such as unix:PATH.
    target = f"dns:///{address.replace('%', '%25')}"
    token = os.environ.get(TOKEN_VARIABLE, "") if security.token is None else security.token
    if not _TOKEN.fullmatch(token):
        # Not the token itself: a message ends in logs.
        raise InvalidArgumentError("token: ASCII letters, digits and signs, without spaces or line ends", "token")
    ca = security.ca or os.environ.get(CA_VARIABLE) or None
    local = is_this_machine(host)
    options = _options()
    if local:
        # No proxy of the environment's leads to this machine itself.
        options.append(("grpc.enable_http_proxy", 0))
    certificate = security.certificate or os.environ.get(CERTIFICATE_VARIABLE) or None
    key = security.key or os.environ.get(KEY_VARIABLE) or None
    if (certificate is None) != (key is None):
        raise InvalidArgumentError("key: a certificate and its key are given together, or neither", "key")
    if ca is None and certificate is None:
        if token and not local:
            raise InvalidArgumentError(
                f"token: {address} is another machine, and a token is not sent there without TLS; name its ca", "token"
            )
        channel = grpc.insecure_channel(target, options)
    else:
        credentials = grpc.ssl_channel_credentials(_read(ca), _read(key), _read(certificate))
        channel = grpc.secure_channel(target, credentials, options)
    # Not as gRPC's call credentials, which refuse a channel without TLS, loopback's too.
    return channel, (("authorization", f"Bearer {token}"),) if token else ()


def _options() -> list[tuple[str, Any]]:
    return [
        ("grpc.keepalive_time_ms", _milliseconds(KEEPALIVE_SECONDS)),
        ("grpc.keepalive_timeout_ms", _milliseconds(KEEPALIVE_ANSWER_SECONDS)),
        # What counts in grpcio 1.85, which never starts the timer of the one above; its default is a minute.
        ("grpc.http2.ping_timeout_ms", _milliseconds(KEEPALIVE_ANSWER_SECONDS)),
        # Otherwise gRPC asks twice, and then no more while a call sends nothing.
        ("grpc.http2.max_pings_without_data", 0),
        ("grpc.min_reconnect_backoff_ms", _milliseconds(CONNECT_ATTEMPT_SECONDS)),
        ("grpc.max_reconnect_backoff_ms", _milliseconds(MAX_SECONDS_BETWEEN_ATTEMPTS)),
        # A client has a connection of its own: one that connects anew must not get the lost one of another.
        ("grpc.use_local_subchannel_pool", 1),
    ]


def _milliseconds(seconds: float) -> int:
    return round(1000 * seconds)


def _read(file: str | os.PathLike[str] | None) -> bytes | None:
    return None if file is None else Path(file).read_bytes()
