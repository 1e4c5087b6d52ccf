"""Signatures as a caller holds them: in words, and as parameter files hold them."""

import json
from collections.abc import Mapping
from typing import Any, Final, Literal

from handgrad.v1 import signature_pb2, tensor_pb2

Transform = Literal["identity", "unit"]

TRANSFORMS: Final[dict[Transform | None, signature_pb2.Transform.ValueType]] = {
    None: signature_pb2.TRANSFORM_UNSPECIFIED,
    "identity": signature_pb2.TRANSFORM_IDENTITY,
    "unit": signature_pb2.TRANSFORM_UNIT,
}
LOSSES: Final[Mapping[str, tuple[str, str]]] = {
    "softmax_cross_entropy": ("cross-entropy", "nats"),
    "squared_error": ("squared error", ""),
}
"""What a person reads of a loss, and its unit."""

_DATA_TYPES: Final[Mapping[int, str]] = {tensor_pb2.DATA_TYPE_UINT8: "uint8", tensor_pb2.DATA_TYPE_FLOAT32: "float32"}


def loss_axis(loss: str) -> str:
    """Returns a loss in words with its unit, for an axis: "cross-entropy [nats]"."""
    title, unit = LOSSES.get(loss, (loss, ""))
    return f"{title} [{unit}]" if unit else title


def loss_told(loss: str, value: float) -> str:
    """Returns a loss and its value in words: "cross-entropy 0.2213 nats"."""
    title, unit = LOSSES.get(loss, (loss, ""))
    return f"{title} {value:.4f} {unit}".rstrip()


def takes(signature: signature_pb2.Signature) -> str:
    """Returns what a model takes, in words: "28x28x1 bytes divided by 255", "30 floats from -1 to 2.5"."""
    inputs = signature.inputs
    shape = "x".join(map(str, inputs.shape))
    if inputs.data_type == tensor_pb2.DATA_TYPE_UINT8:
        divided = " divided by 255" if inputs.transform == signature_pb2.TRANSFORM_UNIT else ""
        return f"{shape} bytes{divided}"
    if inputs.data_type == tensor_pb2.DATA_TYPE_FLOAT32:
        seen = f" from {inputs.low:g} to {inputs.high:g}" if inputs.HasField("low") else ""
        return f"{shape} floats{seen}"
    return f"{shape} numbers"


def told_in_file(signature: signature_pb2.Signature) -> str:
    """Returns a signature as parameter files hold it: the JSON that the server reads."""
    inputs, outputs = signature.inputs, signature.outputs
    told: dict[str, Any] = {
        "shape": list(inputs.shape),
        "transform": next(name for name, value in TRANSFORMS.items() if value == inputs.transform),
    }
    if inputs.data_type in _DATA_TYPES:
        told["data_type"] = _DATA_TYPES[inputs.data_type]
        told |= {name: getattr(inputs, name) for name in ("low", "high", "mean") if inputs.HasField(name)}
    return json.dumps({"inputs": told, "outputs": {"loss": outputs.loss, "class_names": list(outputs.class_names)}})
