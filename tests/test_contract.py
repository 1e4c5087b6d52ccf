"""The generated stubs, held against what the package says that it needs."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STUBS = ROOT / "proto/handgrad/v1"


def floors() -> dict[str, tuple[int, ...]]:
    """Gives the lowest version of each dependency of the client."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = dict(requirement.split(">=") for requirement in project["dependencies"])
    return {name: tuple(map(int, version.split("."))) for name, version in found.items()}


@pytest.mark.parametrize(
    ("package", "stub", "pattern"),
    [
        ("protobuf", "training_service_pb2.py", r"Protobuf Python Version: ([\d.]+)"),
        ("grpcio", "training_service_pb2_grpc.py", r"GRPC_GENERATED_VERSION = '([\d.]+)'"),
    ],
)
def test_no_runtime_that_we_allow_is_older_than_the_generator(package: str, stub: str, pattern: str) -> None:
    # Generated code raises an error on such a runtime.
    generator = re.search(pattern, (STUBS / stub).read_text())
    assert generator
    assert floors()[package] >= tuple(map(int, generator[1].split(".")))
