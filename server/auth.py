"""Tokens: who may call what.

A tokens file has one token a line, `NAME SCOPE SHA256`, with the SHA-256 of the token in hexadecimal: whoever reads the
file cannot use it. Tokens are 32 random bytes, so that one round of a fast hash is as good as any.
"""

import hashlib
import hmac
import os
import re
import secrets
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from google.protobuf import descriptor_pb2

from handgrad.core.errors import InvalidInputError
from handgrad.server.errors import PermissionDeniedError, UnauthenticatedError
from handgrad.server.names import check_name
from handgrad.v1 import training_service_pb2

Scope = Literal["full", "read-only"]

caller: ContextVar[str] = ContextVar("caller", default="")
"""The name of the token of the call that this thread answers; empty where the server asks for none."""

BEARER: Final = "Bearer "
HEALTH: Final = "/grpc.health.v1.Health/"
"""Open to anybody: it tells no more than that a server is there."""

REFLECTION: Final = "/grpc.reflection."
_SERVICE: Final = training_service_pb2.DESCRIPTOR.services_by_name["TrainingService"]
_READING: Final = frozenset(
    f"/{_SERVICE.full_name}/{method.name}"
    for method in _SERVICE.methods
    if method.GetOptions().idempotency_level == descriptor_pb2.MethodOptions.NO_SIDE_EFFECTS
)
"""What a read-only token may call: what the contract marks NO_SIDE_EFFECTS, so that a new call is closed."""

_LINE = re.compile(r"(?P<name>\S+)\s+(?P<scope>full|read-only)\s+(?P<sha256>[0-9a-f]{64})")


@dataclass(frozen=True)
class Token:
    """A token that is allowed: its name, what it may do, its SHA-256."""

    name: str
    scope: Scope
    sha256: bytes


class Tokens:
    """The tokens that a server allows."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens

    def check(self, method: str, authorization: str) -> str:
        """Gives the name of the token that a call came with; empty for a call that is open to anybody.

        Args:
            method: The call's full name.
            authorization: The value of its `authorization` metadata; empty where it has none.

        Raises:
            UnauthenticatedError: It came with no token that is allowed.
            PermissionDeniedError: The token may not make this call.
        """
        if method.startswith(HEALTH):
            return ""
        found: Token | None = None
        given = hashlib.sha256(authorization.removeprefix(BEARER).encode()).digest()
        # All of them, each in constant time: how long it takes tells nothing about which came close.
        for token in self._tokens:
            if hmac.compare_digest(token.sha256, given):
                found = token
        if found is None or not authorization.startswith(BEARER):
            raise UnauthenticatedError("this server asks for a token: metadata `authorization: Bearer TOKEN`")
        if found.scope != "full" and method not in _READING and not method.startswith(REFLECTION):
            raise PermissionDeniedError(f"the token {found.name} is read-only")
        return found.name


def read_tokens(file: Path) -> Tokens:
    """Reads a tokens file.

    Raises:
        InvalidInputError: It cannot be read, has no token, or a line of it is none; its field is `tokens`.
    """
    try:
        lines = file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError("tokens", f"{file} cannot be read: {error}") from error
    tokens: list[Token] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        parts = _LINE.fullmatch(line.strip())
        if parts is None:
            raise InvalidInputError(
                "tokens", f"{file}, line {number}: NAME, full or read-only, and a SHA-256 in hexadecimal"
            )
        try:
            name = check_name(parts["name"], "name")
        except InvalidInputError as error:
            raise InvalidInputError("tokens", f"{file}, line {number}: {error.problem}") from error
        scope: Scope = "full" if parts["scope"] == "full" else "read-only"
        tokens.append(Token(name, scope, bytes.fromhex(parts["sha256"])))
    if not tokens:
        raise InvalidInputError("tokens", f"{file} has no token; `handgrad serve token NAME --tokens {file}` makes one")
    return Tokens(tokens)


def add_token(file: Path, name: str, scope: Scope) -> str:
    """Makes a token, adds its line to a file, and gives it: it is written nowhere else.

    Raises:
        InvalidInputError: The name is none.
        OSError: The file cannot be written.
    """
    check_name(name, "name")
    token = secrets.token_urlsafe(32)
    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "w") as opened:
        opened.write(f"{name} {scope} {hashlib.sha256(token.encode()).hexdigest()}\n")
    return token
