"""Networks as plain data, for files and messages: a list of layers, each with its kind and its settings."""

import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, fields
from typing import Any, Literal, get_args, get_origin, get_type_hints

from handgrad.core.errors import InvalidInputError
from handgrad.core.operations.base import Layer
from handgrad.core.operations.table import LAYERS

MAX_DEPTH = 8
"""Residual blocks within one another, at most."""


def layers_from_spec(spec: Sequence[Any], field: str = "network.layers", depth: int = 0) -> tuple[Layer, ...]:
    """Makes layers of plain data, such as `[{"kind": "affine", "outputs": 100}, {"kind": "sigmoid"}]`.

    Args:
        spec: A mapping for each layer.
        field: What it came from, for errors.
        depth: Blocks that it stands in.

    Raises:
        InvalidInputError: A kind or a setting is unknown or missing, or of another type. Its field is `field[i]` or a
            setting of it.
    """
    if depth > MAX_DEPTH:
        raise InvalidInputError(field, f"blocks of at most {MAX_DEPTH} within one another")
    return tuple(_layer(given, f"{field}[{number}]", depth) for number, given in enumerate(spec))


def layers_to_spec(layers: Sequence[Layer]) -> list[dict[str, Any]]:
    """Gives layers as plain data: their kind, and every setting that is not None."""
    return [{"kind": layer.kind} | _settings_of(layer) for layer in layers]


def _settings_of(layer: Layer) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for name, hint in _hints(type(layer)).items():
        value = getattr(layer, name)
        if hint == tuple[Layer, ...]:
            if value:
                settings[name] = layers_to_spec(value)
        elif value is not None:
            settings[name] = value
    return settings


def _layer(given: Any, field: str, depth: int) -> Layer:
    if not isinstance(given, Mapping) or not isinstance(given.get("kind"), str):
        raise InvalidInputError(f"{field}.kind", f"a layer has a kind, one of {', '.join(LAYERS)}; got {given!r:.100}")
    if given["kind"] not in LAYERS:
        raise InvalidInputError(f"{field}.kind", f"one of {', '.join(LAYERS)}; got {given['kind']!r:.100}")
    kind = LAYERS[given["kind"]]
    hints = _hints(kind)
    settings: dict[str, Any] = {}
    for name, value in given.items():
        if name == "kind":
            continue
        if name not in hints:
            known = ", ".join(hints) or "none"
            raise InvalidInputError(f"{field}.{name!s:.100}", f"no setting of {kind.kind}; its settings: {known}")
        settings[name] = _value(value, hints[name], f"{field}.{name}", depth)
    for name, default in ((f.name, f.default) for f in fields(kind)):  # type: ignore[arg-type]
        if default is MISSING and name not in settings:
            raise InvalidInputError(f"{field}.{name}", f"{kind.kind} needs it")
    return kind(**settings)


def _value(value: Any, hint: Any, field: str, depth: int) -> Any:
    """Gives a value as the type that a setting has; a whole float, which is all that some formats know, as an int."""
    if hint == tuple[Layer, ...]:
        if not isinstance(value, Sequence) or isinstance(value, str):
            raise InvalidInputError(field, f"a list of layers; got {value!r:.100}")
        return layers_from_spec(value, field, depth + 1)
    kinds = (
        get_args(hint)
        if get_origin(hint) is types.UnionType or type(hint).__name__ == "_UnionGenericAlias"
        else (hint,)
    )
    for kind in kinds:
        if get_origin(kind) is Literal and value in get_args(kind):
            return value
        if isinstance(value, bool | str):
            if type(value) is kind:
                return value
        elif isinstance(value, int | float):
            if kind is int and value == value // 1 and abs(value) < 2**53:
                return int(value)
            if kind is float:
                return float(value)
    names = [repr(get_args(kind)[0]) if get_origin(kind) is Literal else kind.__name__ for kind in kinds]
    wanted = " or ".join(name for name in names if name != "NoneType")
    raise InvalidInputError(field, f"{wanted}; got {value!r:.100}")


def _hints(kind: type[Layer]) -> dict[str, Any]:
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}  # type: ignore[arg-type]
