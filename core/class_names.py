"""The names of classes, as a data set's files tell them."""

from collections.abc import Sequence
from typing import Any, Final

from numpy.typing import NDArray

from handgrad.core.errors import InvalidInputError
from handgrad.core.file_kinds import kind_of

MAX_NAMES: Final = 256
MAX_CHARACTERS: Final = 100


def parse_class_names(content: bytes, file: str) -> tuple[str, ...]:
    """Parses a text of class names, one a line, in the order of the labels. Lines without text are left out.

    Raises:
        InvalidInputError: It is no such text.
    """
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        kind = kind_of(content) or "no UTF-8 text"
        raise InvalidInputError(file, f"it is {kind}; expected class names, one a line, as UTF-8 text") from error
    return check_class_names([line.strip() for line in lines if line.strip()], file)


def class_names_of(array: NDArray[Any], file: str) -> tuple[str, ...]:
    """Returns the names in the array `class_names` of an .npz file.

    Raises:
        InvalidInputError: It holds something else.
    """
    if array.ndim != 1 or array.dtype.kind != "U":
        raise InvalidInputError(
            file,
            f"class_names is {array.dtype} of shape {array.shape}; expected texts, (classes,), as "
            "numpy.array(['cat', 'dog']) makes them",
        )
    return check_class_names([str(name) for name in array], file)


def check_class_names(names: Sequence[str], file: str) -> tuple[str, ...]:
    """Returns the names, or raises InvalidInputError where they are too many, too long, not printable or not unique."""
    if not 0 < len(names) <= MAX_NAMES:
        raise InvalidInputError(file, f"{len(names)} class names; expected 1 to {MAX_NAMES}, one for each class")
    for index, name in enumerate(names):
        if not name.strip() or len(name) > MAX_CHARACTERS or not name.isprintable():
            raise InvalidInputError(
                file, f"class name {index} is {name[:40]!r}; expected 1 to {MAX_CHARACTERS} printable characters"
            )
        if name in names[:index]:
            raise InvalidInputError(
                file, f"class names {names.index(name)} and {index} are both {name!r}; expected one for each class"
            )
    return tuple(names)
