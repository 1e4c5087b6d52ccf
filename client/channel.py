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
    # No proxy of the environment's leads to this machine itself.
    options: list[tuple[str, Any]] = [("grpc.enable_http_proxy", 0)] if local else []
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


def _read(file: str | os.PathLike[str] | None) -> bytes | None:
    return None if file is None else Path(file).read_bytes()
