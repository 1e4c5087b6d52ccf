"""Names that callers give."""

import re
from collections.abc import Mapping

from handgrad.core.errors import InvalidInputError

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")


def check_name(name: str, field: str) -> str:
    """Gives the name back, or raises InvalidInputError for `field` where it is none."""
    if not _NAME.fullmatch(name):
        raise InvalidInputError(
            field,
            "a name has 1 to 63 characters: lower-case letters, digits, '.', '_' and '-', beginning with a letter or a "
            f"digit; got {name[:80]!r}",
        )
    return name


def next_name(stem: str, taken: Mapping[str, object]) -> str:
    """Gives the first of `stem-1`, `stem-2`, ... that is not taken."""
    number = len(taken) + 1
    while f"{stem}-{number}" in taken:
        number += 1
    return f"{stem}-{number}"
