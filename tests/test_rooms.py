"""Each folder imports what CONTRIBUTING says it may, and no more."""

import ast
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

FORMATS = {"safetensors"}
GRPC = {"grpc", "grpc_health", "grpc_reflection", "grpc_status", "google"}
ROOMS = {
    "core": {"jax", "numpy", "handgrad.core"} | FORMATS,
    "server": {
        "jax",
        "numpy",
        "grpc_reflection",
        "prometheus_client",
        "handgrad.core",
        "handgrad.server",
        "handgrad.v1",
    }
    | GRPC,
    "client": {"numpy", "click", "rich", "matplotlib", "PIL", "handgrad.client", "handgrad.v1"} | FORMATS | GRPC,
}


def imports(path: Path) -> set[str]:
    """Gives what a module imports: the package's name, or, of our own, the room's."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} is a relative import"
            module = node.module or ""
            names |= {f"{module}.{alias.name}" if module == "handgrad" else module for alias in node.names}
    parts = [name.split(".") for name in names]
    return {".".join(part[:2]) if part[0] == "handgrad" else part[0] for part in parts}


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_imports_stay_in_their_room(room: str) -> None:
    allowed = ROOMS[room] | sys.stdlib_module_names | ({"handgrad.__version__"} if room == "client" else set())
    modules = sorted((ROOT / room).rglob("*.py"))
    assert modules
    wrong = {str(path.relative_to(ROOT)): sorted(imports(path) - allowed) for path in modules}
    assert not {path: names for path, names in wrong.items() if names}


def test_the_import_name_holds_links_alone() -> None:
    found = {path.name: path.is_symlink() for path in (ROOT / "handgrad").iterdir() if path.name != "__pycache__"}
    links = {"core": True, "server": True, "client": True, "v1": True}
    assert found == {"__init__.py": False, "py.typed": False} | links
    assert imports(ROOT / "handgrad/__init__.py") == {"handgrad.client"}


def test_nothing_depends_on_optax() -> None:
    for name in ("pyproject.toml", "constraints.txt"):
        assert "optax" not in (ROOT / name).read_text()
