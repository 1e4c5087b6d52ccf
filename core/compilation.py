"""How XLA is told to compile what runs often."""

import os
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Final, Literal, get_args

import jax

from handgrad.core.errors import InvalidInputError

Platform = Literal["auto", "cpu", "gpu"]
PLATFORMS: tuple[Platform, ...] = get_args(Platform)

_OPTIONS = {
    # On a CPU, products by YNNPACK, and convolutions by Eigen: with YNNPACK, which is the default of jaxlib 0.10 for
    # both, the convolutions of `cnn` took 1.5 times as long.
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
}


MAX_COMPILED_BYTES: Final = 2**29
"""Of what is kept when a process starts: some thousand compiled loops."""


def choose_platform(platform: Platform) -> str:
    """Chooses where to compute; `auto` takes a GPU if there is one. Gives the device's name. Call it before any other.

    Raises:
        InvalidInputError: There is no such platform, or no GPU that jax can use; its field is `platform`.
    """
    if platform not in PLATFORMS:
        raise InvalidInputError("platform", f"one of {', '.join(PLATFORMS)}; got {platform!r:.80}")
    if platform == "cpu":
        # Without a look at what else there is.
        jax.config.update("jax_platforms", "cpu")  # type: ignore[no-untyped-call]
    device = jax.devices()[0]
    if platform == "gpu" and device.platform != "gpu":
        raise InvalidInputError(
            "platform", "jax finds no GPU here; pip install 'handgrad[cuda13]' or 'handgrad[cuda12]'"
        )
    return f"{device.platform}, {device.device_kind}"


def keep_compiled(folder: Path, max_bytes: int = MAX_COMPILED_BYTES) -> None:
    """Keeps what is compiled in a folder, for later processes; not where $JAX_COMPILATION_CACHE_DIR names another.

    A folder that cannot be written to is as good as none.

    Args:
        folder: The folder.
        max_bytes: What it may hold now: the oldest of what is more is deleted.
    """
    if "JAX_COMPILATION_CACHE_DIR" in os.environ:
        return
    # Not by jax's own bound, which needs another package, and whose notes of what was used a crash leaves incomplete.
    with suppress(OSError):
        _delete_oldest(folder, max_bytes)
    jax.config.update("jax_compilation_cache_dir", str(folder))  # type: ignore[no-untyped-call]
    # Also what compiles fast: a run compiles dozens of small programs.
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # type: ignore[no-untyped-call]
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)  # type: ignore[no-untyped-call]


def _delete_oldest(folder: Path, max_bytes: int) -> None:
    found = [(file.stat(), file) for file in folder.iterdir()]
    total = sum(status.st_size for status, _ in found)
    for status, file in sorted(found, key=lambda pair: pair[0].st_mtime_ns):
        if total <= max_bytes:
            return
        file.unlink(missing_ok=True)
        total -= status.st_size


@cache
def compiler_options() -> dict[str, str]:
    """Gives XLA's options for jax.jit: none where this jaxlib does not know them."""
    try:
        jax.jit(lambda: 0, compiler_options=_OPTIONS).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return _OPTIONS
