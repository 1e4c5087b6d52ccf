"""A checkpoint's file with any one byte changed is told to be damaged, or its params are those that were saved."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import handgrad

ARRAYS: dict[str, Any] = {"W_1": np.arange(4.0).reshape(2, 2), "b_1": np.ones((2, 1))}


@pytest.mark.parametrize("mask", [0x01, 0x10, 0x80, 0xFF])
def test_a_changed_byte_never_passes_for_what_was_saved(hg: handgrad.Client, tmp_path: Path, mask: int) -> None:
    saved = hg.save_params(hg.upload_params(ARRAYS).model, "one")
    (file,) = (tmp_path / "data/checkpoints").iterdir()
    content = file.read_bytes()
    for position in range(len(content)):
        file.write_bytes(content[:position] + bytes([content[position] ^ mask]) + content[position + 1 :])
        try:
            loaded = hg.load_params("one")
        except handgrad.DamagedError:
            continue
        # The header's time of saving, or a space at its end: nothing that the params depend on.
        assert loaded.params_sha256 == saved.params_sha256, position
        assert loaded.pixels == saved.pixels, position
        hg.get_params(loaded.model)


@pytest.mark.parametrize("pixels", [b"unit", b"raw"])
def test_an_unknown_scale_of_pixels_is_damage(hg: handgrad.Client, tiny: str, tmp_path: Path, pixels: bytes) -> None:
    settings: dict[str, Any] = {"hidden": [], "batch_size": 10, "epochs": 1, "pixels": pixels.decode()}
    job = hg.train(dataset=tiny, **settings)
    job.wait()
    hg.save_params(job.model, "one")
    (file,) = (tmp_path / "data/checkpoints").iterdir()
    file.write_bytes(file.read_bytes().replace(b'"%s"' % pixels, b'"%s"' % pixels.swapcase()))
    with pytest.raises(handgrad.DamagedError, match="checkpoint one is damaged"):
        hg.load_params("one", "again")
    with pytest.raises(handgrad.NotFoundError):
        hg.get_params("again")


def test_a_time_that_is_none_is_damage(hg: handgrad.Client, tmp_path: Path) -> None:
    model = hg.upload_params(ARRAYS).model
    hg.save_params(model, "one")
    (file,) = (tmp_path / "data/checkpoints").iterdir()
    content = file.read_bytes()
    start = content.index(b'"save_time":"') + len(b'"save_time":"')
    end = content.index(b'"', start)
    for time in (b"inf", b"nan", b"-1e300", b"1e300"):
        file.write_bytes(content[:start] + time.ljust(end - start) + content[end:])
        with pytest.raises(handgrad.DamagedError, match="checkpoint one is damaged"):
            hg.save_params(model, "one")
