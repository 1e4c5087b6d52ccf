"""Text that may hold anything, such as a file's name, made safe to be sent and shown."""


def printable(text: str, keep: str = "") -> str:
    r"""Returns a text with escapes, such as \x1b, for what a terminal takes for a command, and for what is no text.

    That is each character that is not printable: control characters, those that turn the order of writing around, and
    the bytes of a file's name that are not UTF-8, which Python holds as surrogates.

    Args:
        text: The text.
        keep: Characters that stay as they are.
    """
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() or each in keep else each.encode("unicode_escape").decode() for each in text
    )


def encodable(text: str) -> str:
    """Returns a text with a question mark for each surrogate, which no encoding of Unicode has."""
    return text.encode(errors="replace").decode()
