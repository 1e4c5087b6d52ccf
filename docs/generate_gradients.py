"""Writes docs/gradients.md: the text of gradients.in.md, with the derivation of each operation from its docstring.

The formulas stand in one place, beside the code that the certificate checks; a test holds the page against them.
"""

import inspect
import sys
from pathlib import Path

from handgrad.core.operations.base import Operation
from handgrad.core.operations.table import OPERATIONS

FOLDER = Path(__file__).parent


def derivation(operation: Operation) -> str:
    """Gives an operation's summary and derivation: its docstring without its arguments and errors."""
    text = inspect.getdoc(operation.op) or ""
    body, _, rest = text.partition("\nArgs:\n")
    _, _, references = rest.partition("\nReferences:\n")
    cited = " ".join(line.strip() for line in references.splitlines())
    return body.rstrip() + (f"\n\nSource: {cited}" if cited else "")


def section(name: str) -> str:
    """Gives the section of an operation."""
    (operation,) = (each for each in OPERATIONS if each.name == name)
    module = inspect.getmodule(operation.op)
    assert module is not None
    file = module.__name__.removeprefix("handgrad.").replace(".", "/")
    heading = f"### {name}\n\n`{name}`, `{operation.fwd.__name__}`, `{operation.bwd.__name__}` in"
    return f"{heading} [{file}.py](../{file}.py).\n\n{derivation(operation)}\n"


def page() -> str:
    """Gives the page: each line `{{name}}` is replaced by the section of that operation."""
    lines = FOLDER.joinpath("gradients.in.md").read_text().splitlines()
    return "\n".join(section(line.strip("{}")) if line.startswith("{{") else line for line in lines) + "\n"


if __name__ == "__main__":
    if "--check" in sys.argv:
        sys.exit(page() != FOLDER.joinpath("gradients.md").read_text())
    FOLDER.joinpath("gradients.md").write_text(page())
