"""What a file is by its content: the kinds of files that people give in place of those that are read."""

import re
from typing import Final

_HEAD_BYTES: Final = 4096

PICKLE: Final = "a Python pickle, which handgrad never runs"
PYTORCH: Final = f"a PyTorch file: {PICKLE}; safetensors.torch.save_file or numpy.savez saves its arrays"

_BEGINNINGS: Final = (
    (b"version https://git-lfs", "a git-lfs pointer: `git lfs pull` fetches the file itself"),
    (b"\x1f\x8b", "a gzip file"),
    (b"PK\x03\x04", "a zip archive"),
    (b"PK\x05\x06", "a zip archive"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ\x00", "an xz file"),
    (b"\x28\xb5\x2f\xfd", "a zstd file"),
    (b"\x1f\x9d", "a compress (.Z) file"),
    (b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    (b"Rar!\x1a\x07", "a RAR archive"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 (.h5) file"),
    (b"MATLAB ", "a MATLAB (.mat) file"),
    (b"\x93NUMPY", "a single array of numpy (.npy)"),
    # PyTorch's format before 1.6 begins with its magic number, pickled.
    (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", PYTORCH),
    *((bytes((0x80, protocol)), PICKLE) for protocol in range(2, 6)),
    # Protocols 0 and 1: a dictionary, a list, a tuple, an object.
    *((start, PICKLE) for start in (b"(dp", b"(lp", b"}q\x00", b"]q\x00", b"ccopy_reg\n", b"cnumpy")),
    (b"PAR1", "a Parquet file"),
    (b"ARROW1", "an Arrow file"),
    (b"SQLite format 3\x00", "an SQLite database"),
    (b"GGUF", "a GGUF file"),
    (b"%PDF", "a PDF file"),
    (b"\x89PNG", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"II*\x00", "a TIFF picture"),
    (b"MM\x00*", "a TIFF picture"),
    (b"\xff\xfe", "UTF-16 text"),
    (b"\xfe\xff", "UTF-16 text"),
)
_IDX_TYPES: Final = {8: "uint8", 9: "int8", 11: "int16", 12: "int32", 13: "float32", 14: "float64"}
_MAX_IDX_DIMENSIONS: Final = 8
_TEXTS: Final = (
    (r"<(!doctype html|html|head|body|script|!--)", "an HTML page, perhaps saved in place of the file"),
    (r"<", "XML text, perhaps saved in place of the file"),
    (r"(%.*\n\s*)*@relation\b", "ARFF text"),
    (r"[{\[]", "JSON text, perhaps saved in place of the file"),
)


def kind_of(content: bytes) -> str:
    """Returns what a file's content is, as words such as "an HTML page"; empty where it is not known."""
    for beginning, kind in _BEGINNINGS:
        if content.startswith(beginning):
            return kind
    if content[257:262] == b"ustar":
        return "a tar archive"
    # A .safetensors file begins with the length of its JSON.
    if content[6:9] == b"\x00\x00{" or content[6:10] == b"\x00\x00 {":
        return "a .safetensors file"
    if content[:2] == b"\0\0" and len(content) > 3 and content[2] in _IDX_TYPES and content[3] <= _MAX_IDX_DIMENSIONS:
        return f"an IDX file of {_IDX_TYPES[content[2]]} with {content[3]} dimension{'s' * (content[3] != 1)}"
    return _kind_of_text(content[:_HEAD_BYTES])


def kind_of_archive(names: list[str]) -> str:
    """Returns what a zip archive is by the names of its members."""
    if any(name.endswith("data.pkl") for name in names):
        return PYTORCH
    shown = ", ".join(name[:60] for name in names[:4])
    return f"a zip archive of {shown}{', ...' * (len(names) > 4)}"


def _kind_of_text(head: bytes) -> str:
    try:
        # The head may end inside a letter of several bytes.
        text = head.decode("utf-8-sig") if len(head) < _HEAD_BYTES else head[:-4].decode("utf-8-sig", "ignore")
    except UnicodeDecodeError:
        return ""
    if not text.strip() or "\0" in text or sum(not (each.isprintable() or each.isspace()) for each in text):
        return ""
    found = (kind for pattern, kind in _TEXTS if re.match(pattern, text.lstrip(), re.IGNORECASE | re.MULTILINE))
    return next(found, "") or _separated(text.splitlines()) or f"text: {text.strip()[:40]!r}"


def _separated(lines: list[str]) -> str:
    for separator, kind in ((",", "CSV text"), (";", "CSV text"), ("\t", "tab-separated text")):
        columns = lines[0].count(separator)
        # The second line may be cut at the end of the head.
        if columns and (len(lines) < 3 or lines[1].count(separator) == columns):
            return kind
    return ""
