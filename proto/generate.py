"""Generates the Python stubs beside the contract, or, with --check, says whether those there are the contract's."""

import argparse
import os
import subprocess
import sys
import tempfile
from importlib import resources
from pathlib import Path

PROTO = Path(__file__).resolve().parent
PACKAGE = Path("handgrad/v1")
SERVICES = ("training_service.proto",)


def generate(target: Path) -> None:
    """Writes the stubs of every .proto file to `target`, in the folders that their imports name."""
    sources = sorted(str(path.relative_to(PROTO)) for path in (PROTO / PACKAGE).glob("*.proto"))
    services = [str(PACKAGE / name) for name in SERVICES]
    include = str(resources.files("grpc_tools") / "_proto")
    protoc = [sys.executable, "-m", "grpc_tools.protoc", f"-I{PROTO}", f"-I{include}"]
    # protoc finds the plug-ins of mypy-protobuf by name: beside the interpreter, which need not be on the PATH.
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    for arguments in (
        [f"--python_out={target}", f"--mypy_out=quiet:{target}", *sources],
        [f"--grpc_python_out={target}", f"--mypy_grpc_out=quiet:{target}", *services],
    ):
        subprocess.run(protoc + arguments, check=True, env=os.environ | {"PATH": path})


def stubs(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / PACKAGE).glob("*_pb2*.py*")}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; exit with 1 where a stub differs")
    if not parser.parse_args().check:
        for stale in (PROTO / PACKAGE).glob("*_pb2*.py*"):
            stale.unlink()
        generate(PROTO)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        wanted, found = stubs(Path(folder)), stubs(PROTO)
    wrong = sorted(name for name in wanted | found if wanted.get(name) != found.get(name))
    if wrong:
        print(f"these stubs do not match the contract, run `make protos`: {', '.join(wrong)}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
