"""How XLA is told to compile what runs often."""

from functools import cache

import jax

_OPTIONS = {
    # On a CPU, products by YNNPACK, and convolutions by Eigen: with YNNPACK, which is the default of jaxlib 0.10 for
    # both, the convolutions of `cnn` took 1.5 times as long.
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT"
}


@cache
def compiler_options() -> dict[str, str]:
    """Gives XLA's options for jax.jit: none where this jaxlib does not know them."""
    try:
        jax.jit(lambda: 0, compiler_options=_OPTIONS).lower().compile()
    except jax.errors.JaxRuntimeError:
        return {}
    return _OPTIONS
