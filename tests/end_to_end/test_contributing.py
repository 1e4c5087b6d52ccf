"""The operation that CONTRIBUTING adds does what it promises; and the page of gradients is that of the code."""

import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import handgrad
from handgrad.core.operations import base, table
from handgrad.core.operations.base import Stateless
from handgrad.core.verification import check_operations

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.fixture
def softsign(monkeypatch: pytest.MonkeyPatch) -> type[Stateless]:
    """The layer of the example, with its line in the table."""
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)
    module = ModuleType("handgrad.core.operations.softsign")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    exec(code, vars(module))  # noqa: S102 - our own text
    layer: type[Stateless] = module.Softsign
    monkeypatch.setitem(table.LAYERS, layer.kind, layer)
    return layer


def test_the_operation_of_the_example_is_certified(softsign: type[Stateless]) -> None:
    assert check_operations(operations=[softsign.operation]).passed


def test_the_operation_of_the_example_has_its_golden_outputs(softsign: type[Stateless]) -> None:
    operation = softsign.operation
    assert operation.golden
    for golden in operation.golden:
        output = operation.op(*(jnp.asarray(array) for array in golden.arrays), **golden.settings)
        np.testing.assert_allclose(output, np.asarray(golden.output), rtol=1e-6)


def test_a_network_with_it_trains_and_is_certified(softsign: type[Stateless], hg: handgrad.Client, tiny: str) -> None:
    layers: list[dict[str, Any]] = [{"kind": "affine", "outputs": 4}, {"kind": softsign.kind}, {"kind": "affine"}]
    assert hg.check_gradients(layers, dataset=tiny).passed
    job = hg.train(network=layers, dataset=tiny, batch_size=10, epochs=2, transform="unit", learning_rate=0.1)
    assert job.wait().config.network.layers[1].kind == "softsign"


def test_every_operation_is_in_the_table_and_on_the_page() -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import generate_gradients  # type: ignore[import-not-found] # noqa: PLC0415
    finally:
        sys.path.pop(0)
    page = (ROOT / "docs" / "gradients.md").read_text()
    assert page == generate_gradients.page(), "make docs"
    for operation in table.OPERATIONS:
        assert f"### {operation.name}\n" in page
        assert "dE/d" in generate_gradients.derivation(operation) or operation.name == "flatten"
    kinds = {layer.kind for layer in _subclasses(base.Layer) if "kind" in vars(layer)}
    assert kinds - {"softsign"} == set(table.LAYERS)


def _subclasses(kind: type[base.Layer]) -> set[type[base.Layer]]:
    return {kind} | {each for child in kind.__subclasses__() for each in _subclasses(child)}
