"""What goes wrong while a call is answered, and the status code of each: one table, which the client mirrors."""

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from handgrad.core.errors import InvalidInputError

MAX_TEXT_BYTES = 600


class ServiceError(Exception):
    """A call that cannot be answered as it was asked."""


class NotFoundError(ServiceError):
    """The name or the version does not exist."""


class AlreadyExistsError(ServiceError):
    """The name holds something else, and is never overwritten."""


class PreconditionError(ServiceError):
    """The call is well formed, but not possible as things stand."""


class ExhaustedError(ServiceError):
    """A bound of the server is reached: its queue, its streams, its memory or its disk."""


class DamagedError(ServiceError):
    """What was saved cannot be read back."""


class StorageError(ServiceError):
    """The server's disk fails. What was answered before is kept; it may be tried again."""


class UnauthenticatedError(ServiceError):
    """The call came without a token that is allowed."""


class PermissionDeniedError(ServiceError):
    """The call's token may not make it."""


class StoppingError(ServiceError):
    """The server is stopping."""


STATUS_CODES: dict[type[Exception], grpc.StatusCode] = {
    InvalidInputError: grpc.StatusCode.INVALID_ARGUMENT,
    NotFoundError: grpc.StatusCode.NOT_FOUND,
    AlreadyExistsError: grpc.StatusCode.ALREADY_EXISTS,
    PreconditionError: grpc.StatusCode.FAILED_PRECONDITION,
    ExhaustedError: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DamagedError: grpc.StatusCode.DATA_LOSS,
    StorageError: grpc.StatusCode.UNAVAILABLE,
    UnauthenticatedError: grpc.StatusCode.UNAUTHENTICATED,
    PermissionDeniedError: grpc.StatusCode.PERMISSION_DENIED,
    StoppingError: grpc.StatusCode.UNAVAILABLE,
}


def status_of(error: ServiceError | InvalidInputError) -> grpc.Status:
    """Gives the status that a call is answered with; for an InvalidInputError with the field as its detail."""
    code = STATUS_CODES[type(error)]
    status = status_pb2.Status(code=code_pb2.Code.Value(code.name), message=_shortened(str(error)))
    if isinstance(error, InvalidInputError):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=_shortened(error.field), description=_shortened(error.problem)
        )
        detail = any_pb2.Any()
        detail.Pack(error_details_pb2.BadRequest(field_violations=[violation]))
        status.details.append(detail)
    answer: grpc.Status = rpc_status.to_status(status)
    return answer


def _shortened(text: str) -> str:
    # What callers send comes back in messages, and gRPC drops a status that is over 8 kB when it is encoded.
    encoded = text.encode()
    return text if len(encoded) <= MAX_TEXT_BYTES else encoded[:MAX_TEXT_BYTES].decode(errors="ignore") + " ..."
