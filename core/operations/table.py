"""The tables of all layers and all operations: whatever is not here cannot be in a network, and is not certified."""

from typing import Final

from handgrad.core.operations.activations import ELU, GELU, LeakyReLU, ReLU, Sigmoid, SiLU, Softplus, Tanh
from handgrad.core.operations.affine import AFFINE, Affine
from handgrad.core.operations.base import Layer, Operation, Stateless
from handgrad.core.operations.convolution import CONVOLUTION, Convolution
from handgrad.core.operations.dropout import DROPOUT, Dropout
from handgrad.core.operations.flatten import Flatten
from handgrad.core.operations.losses import L2_PENALTY, SOFTMAX_CROSS_ENTROPY, SQUARED_ERROR
from handgrad.core.operations.normalization import (
    BATCH_NORM,
    BATCH_NORM_INFERENCE,
    LAYER_NORM,
    BatchNorm,
    LayerNorm,
)
from handgrad.core.operations.pooling import AveragePool, MaxPool
from handgrad.core.operations.residual import RESIDUAL, Residual
from handgrad.core.operations.softmax import Softmax

_LAYERS: Final[tuple[type[Layer], ...]] = (
    *(Affine, Convolution, MaxPool, AveragePool, Flatten),
    *(Sigmoid, Tanh, ReLU, LeakyReLU, ELU, GELU, SiLU, Softplus, Softmax),
    *(Dropout, BatchNorm, LayerNorm, Residual),
)

LAYERS: Final[dict[str, type[Layer]]] = {layer.kind: layer for layer in _LAYERS}
"""Every kind of layer by its name in a network's file."""

OPERATIONS: Final[tuple[Operation, ...]] = (
    *(AFFINE, CONVOLUTION, DROPOUT, BATCH_NORM, BATCH_NORM_INFERENCE, LAYER_NORM, RESIDUAL),
    *(layer.operation for layer in _LAYERS if issubclass(layer, Stateless)),
    *(SOFTMAX_CROSS_ENTROPY, SQUARED_ERROR, L2_PENALTY),
)
"""Every operation: those of the layers that are one operation alone come from the line above."""
