"""TLS: the server's certificate, and the authority whose certificates callers must have."""

import ssl
from pathlib import Path

import grpc

from handgrad.core.errors import InvalidInputError


def server_credentials(certificate: Path, key: Path, client_ca: Path | None) -> grpc.ServerCredentials:
    """Gives the credentials of a server: with a client authority, mutual TLS.

    Args:
        certificate: PEM file of the certificate chain.
        key: PEM file of its key.
        client_ca: PEM file of the authority whose certificates callers must have; None for none.

    Raises:
        InvalidInputError: A file cannot be read or is not in PEM, or the key is not the certificate's; its field is
            `tls_certificate`, `tls_key` or `tls_client_ca`.
    """
    chain, secret = _read(certificate, "tls_certificate"), _read(key, "tls_key")
    authority = _read(client_ca, "tls_client_ca") if client_ca else None
    # gRPC would only fail each handshake later, and not say why.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except (ssl.SSLError, OSError) as error:
        raise InvalidInputError("tls_key", f"{key} is not the key of {certificate}: {error}") from error
    if client_ca:
        try:
            context.load_verify_locations(client_ca)
        except (ssl.SSLError, OSError) as error:
            raise InvalidInputError("tls_client_ca", f"{client_ca} holds no certificate: {error}") from error
    return grpc.ssl_server_credentials([(secret, chain)], authority, require_client_auth=authority is not None)


def _read(file: Path, field: str) -> bytes:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InvalidInputError(field, f"{file} cannot be read: {error.strerror}") from error
    if b"-----BEGIN " not in content:
        raise InvalidInputError(field, f"{file} is not a PEM file")
    return content
