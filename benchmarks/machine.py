"""What a result was measured on."""

import os
import platform
from importlib.metadata import version
from pathlib import Path


def machine() -> dict[str, str]:
    return {
        "processor": _processor(),
        "vectors": _vectors(),
        "cores": str(len(os.sched_getaffinity(0))),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        **{package: version(package) for package in ("numpy", "jax", "grpcio")},
    }


def results(device: str = "") -> Path:
    """The folder of results on this kind of machine, whose vectors change the ratios; or of those on a device."""
    folder = Path(__file__).parent / "results" / (device or _vectors()).lower().replace("-", "")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _processor() -> str:
    return _cpuinfo("model name") or platform.processor() or "unknown"


def _vectors() -> str:
    """The widest vectors that products are computed with, on which their speed depends most."""
    flags = _cpuinfo("flags").split()
    return next((name for flag, name in (("avx512f", "AVX-512"), ("avx2", "AVX2")) if flag in flags), "unknown")


def _cpuinfo(key: str) -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "")
