"""What the report's matrix products alone cost on this machine, at the rate of the fastest product of their size."""

import importlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from numpy.typing import NDArray

from handgrad.core.compilation import compiler_options

BATCH, INPUTS, HIDDEN, CLASSES = 100, 784, 100, 10
FLOPS = 2 * BATCH * (2 * INPUTS * HIDDEN + 3 * HIDDEN * CLASSES)
"""Of an iteration: X W_1', g' X; H W_2', g W_2, g' H. The inputs' gradient is nobody's."""

LARGE = 2 * BATCH * INPUTS * HIDDEN
REPEATS = 300
UNROLLED = 10


def candidates() -> dict[str, Callable[[], float]]:
    """Gives, by name, functions that tell how many FLOP a second one of the two large products runs at."""
    generator = np.random.default_rng(0)
    X, g, W = (
        generator.standard_normal(shape).astype(np.float32)
        for shape in ((BATCH, INPUTS), (BATCH, HIDDEN), (HIDDEN, INPUTS))
    )
    torch: Any = importlib.import_module("torch")
    tX, tg, tW = (torch.from_numpy(array) for array in (X, g, W))
    found = {
        "jax, X W'": _jax([X] * UNROLLED, W, lambda a, b: lax.dot_general(a, b, (((1,), (1,)), ((), ())))),
        "jax, g' X": _jax([g] * UNROLLED, X, lambda a, b: a.T @ b),
        "numpy, X W'": _timed(lambda: X @ W.T, 1),
        "numpy, g' X": _timed(lambda: g.T @ X, 1),
        "PyTorch, X W'": _timed(lambda: tX @ tW.T, 1),
        "PyTorch, g' X": _timed(lambda: tg.T @ tX, 1),
    }
    for rate in found.values():
        rate()
    return found


def _timed(work: Callable[[], Any], products: int) -> Callable[[], float]:
    def rate() -> float:
        began = time.perf_counter()
        for _ in range(REPEATS // products):
            work()
        return LARGE * REPEATS / (time.perf_counter() - began)

    return rate


def _jax(
    several: list[NDArray[np.float32]], other: NDArray[np.float32], product: Callable[..., Array]
) -> Callable[[], float]:
    """Several products in one call, each of an array of its own, so that the call costs them little."""
    compiled = jax.jit(lambda several, other: [product(a, other) for a in several], compiler_options=compiler_options())
    arrays, b = [jnp.array(array) for array in several], jnp.array(other)
    return _timed(lambda: [each.block_until_ready() for each in compiled(arrays, b)], len(several))
