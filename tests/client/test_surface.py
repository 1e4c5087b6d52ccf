"""What the client promises by its names alone: methods, exports, errors, imports."""

import inspect
import re
import subprocess
import sys

import grpc
import pytest

import handgrad
from handgrad.client import errors
from handgrad.core.errors import InvalidInputError
from handgrad.server import errors as server_errors
from handgrad.v1 import training_service_pb2

SERVICE = training_service_pb2.DESCRIPTOR.services_by_name["TrainingService"]

# Where a method is not named as its call is.
METHODS = {
    "StreamParams": "_params",
    "StartDatasetUpload": "upload_dataset",
    "UploadDatasetChunk": "upload_dataset",
    "FinishDatasetUpload": "upload_dataset",
}

# Where an exception is not named as the server's is.
NAMES = {
    "InvalidInputError": "InvalidArgumentError",
    "StoppingError": "UnavailableError",
    "StorageError": "UnavailableError",
}


def snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


@pytest.mark.parametrize("rpc", [method.name for method in SERVICE.methods])
def test_every_call_of_the_service_has_a_method(rpc: str) -> None:
    name = METHODS.get(rpc, snake_case(rpc))
    method = getattr(handgrad.Client, name, None)
    assert callable(method), f"{rpc} has no Client.{name}"
    assert f"self._stub.{rpc}" in inspect.getsource(method)


def test_the_exported_names() -> None:
    assert handgrad.__all__ == [
        "AlreadyExistsError",
        "Client",
        "DamagedError",
        "DeadlineError",
        "Evaluation",
        "ExhaustedError",
        "Halving",
        "HandgradError",
        "InvalidArgumentError",
        "Job",
        "JobCancelledError",
        "JobError",
        "JobFailedError",
        "NotFoundError",
        "Params",
        "PermissionDeniedError",
        "PreconditionError",
        "Prediction",
        "ServerError",
        "Sweep",
        "SweepError",
        "UnauthenticatedError",
        "UnavailableError",
        "__version__",
        "connect",
        "grid",
    ]
    assert all(hasattr(handgrad, name) for name in handgrad.__all__)


def test_the_tables_of_errors_mirror_each_other() -> None:
    sent = {code: NAMES.get(kind.__name__, kind.__name__) for kind, code in server_errors.STATUS_CODES.items()}
    received = {code: kind.__name__ for code, kind in errors.ERRORS.items()}
    # These are gRPC's own: nothing the server raises.
    own = {grpc.StatusCode.DEADLINE_EXCEEDED: "DeadlineError", grpc.StatusCode.CANCELLED: "UnavailableError"}
    assert received == sent | own


def test_every_error_of_the_server_has_a_status() -> None:
    kinds = {kind for _, kind in inspect.getmembers(server_errors, inspect.isclass)}
    service_errors = {kind for kind in kinds if issubclass(kind, server_errors.ServiceError)}
    assert server_errors.STATUS_CODES.keys() == service_errors - {server_errors.ServiceError} | {InvalidInputError}


def test_the_tree_in_the_modules_words_is_that_of_the_classes() -> None:
    raised = {name: kind for name, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, Exception)}
    assert errors.__doc__
    told = re.findall(r"^([│ ├└─]*)(\w+Error)\b", errors.__doc__, re.MULTILINE)
    assert {name for _, name in told} == raised.keys()
    branch: list[str] = []
    for indent, name in told:
        depth = len(indent) // 4
        parent = branch[depth - 1] if depth else "Exception"
        assert parent in {base.__name__ for base in raised[name].__bases__}, name
        branch[depth:] = [name]
    assert {name for name in raised if name not in handgrad.__all__} == set()


@pytest.mark.parametrize("module", ["handgrad", "handgrad.client.cli.main"])
def test_the_client_imports_nothing_heavy(module: str) -> None:
    script = (
        f"import sys, {module}\n"
        "heavy = ('jax', 'jaxlib', 'matplotlib', 'rich.progress', 'handgrad.core', 'handgrad.server')\n"
        "print(sorted(set(heavy) & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
