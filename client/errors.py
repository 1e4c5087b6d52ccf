"""What the client raises.

Every exception of handgrad's own is a HandgradError:

HandgradError
├── InvalidArgumentError     a setting or a file cannot be used; `field` names it
├── NotFoundError            the name or the version does not exist
├── AlreadyExistsError       the name holds something else, and is never overwritten
├── PreconditionError        not possible as things stand
├── ExhaustedError           a bound of the server is reached
├── DamagedError             what was saved or sent is not what arrived
├── UnauthenticatedError     the server asks for a token, and was given none that it allows
├── PermissionDeniedError    the token is read-only, and the call is not
├── UnavailableError         no server answers
├── DeadlineError            the server did not answer in time
├── ServerError              the server has a fault
├── SweepError               a sweep has no best network
└── JobError                 a job did not succeed; `job` is the job
    ├── JobFailedError
    └── JobCancelledError
"""

from typing import Final

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from handgrad.v1 import job_pb2


class HandgradError(Exception):
    """What went wrong, in words for a person."""


class InvalidArgumentError(HandgradError, ValueError):
    """A setting or a file cannot be used.

    Attributes:
        field: Its name, such as `batch_size` or `params.npz`; empty where it is not known.
    """

    def __init__(self, message: str, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class NotFoundError(HandgradError):
    """The name or the version does not exist, or is no longer kept."""


class AlreadyExistsError(HandgradError):
    """The name holds something else, and is never overwritten."""


class PreconditionError(HandgradError):
    """The call is well formed, but not possible as things stand."""


class ExhaustedError(HandgradError):
    """A bound of the server is reached: its queue, its streams, its memory or its disk."""


class DamagedError(HandgradError):
    """What was saved or sent is not what arrived."""


class UnauthenticatedError(HandgradError):
    """The server asks for a token, and was given none that it allows."""


class PermissionDeniedError(HandgradError):
    """The token is read-only, and the call is not."""


class UnavailableError(HandgradError):
    """No server answers, or it is stopping."""


class DeadlineError(HandgradError):
    """The server did not answer in time."""


class ServerError(HandgradError):
    """The server has a fault, or is not one of handgrad's."""


class SweepError(HandgradError):
    """A sweep ended without a best member to publish, or was cancelled before there was one."""


class JobError(HandgradError):
    """A job did not succeed.

    Attributes:
        job: The job as it ended.
    """

    def __init__(self, message: str, job: job_pb2.Job) -> None:
        super().__init__(message)
        self.job = job


class JobFailedError(JobError):
    """A job stopped by an error."""


class JobCancelledError(JobError):
    """A job that was cancelled."""


ERRORS: Final[dict[grpc.StatusCode, type[HandgradError]]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidArgumentError,
    grpc.StatusCode.NOT_FOUND: NotFoundError,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExistsError,
    grpc.StatusCode.FAILED_PRECONDITION: PreconditionError,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ExhaustedError,
    grpc.StatusCode.DATA_LOSS: DamagedError,
    grpc.StatusCode.UNAUTHENTICATED: UnauthenticatedError,
    grpc.StatusCode.PERMISSION_DENIED: PermissionDeniedError,
    grpc.StatusCode.UNAVAILABLE: UnavailableError,
    # Of a call that reached a server while it stopped.
    grpc.StatusCode.CANCELLED: UnavailableError,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineError,
}
"""The exception for each status code; any other is a ServerError. The server's table is its mirror."""


def code(error: grpc.RpcError) -> grpc.StatusCode:
    """Gives the status code of a call that failed. What a stub raises is the call itself."""
    assert isinstance(error, grpc.Call)
    return error.code()


def from_rpc_error(error: grpc.RpcError) -> HandgradError:
    """Gives the exception for a call that failed."""
    assert isinstance(error, grpc.Call)
    kind = ERRORS.get(code(error), ServerError)
    message = error.details() or code(error).name
    if kind is InvalidArgumentError:
        return InvalidArgumentError(message, _field(error))
    if kind is ServerError:
        message = f"{message} ({code(error).name})"
    return kind(message)


def _field(error: grpc.Call) -> str:
    status = rpc_status.from_call(error)
    for detail in status.details if status else ():
        bad_request = error_details_pb2.BadRequest()
        if detail.Unpack(bad_request) and bad_request.field_violations:
            return str(bad_request.field_violations[0].field)
    return ""
