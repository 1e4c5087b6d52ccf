"""What goes wrong while a call is answered, and the status code of each: one table, which the client mirrors."""

from __future__ import annotations  # grpc's classes take type arguments in their stubs alone

import logging
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from google.protobuf import any_pb2
from google.rpc import code_pb2, error_details_pb2, status_pb2
from grpc_status import rpc_status

from handgrad.core.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

log = logging.getLogger(__name__)

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
    StoppingError: grpc.StatusCode.UNAVAILABLE,
}


class ErrorInterceptor(grpc.ServerInterceptor):
    """Answers the exceptions of every method with the status of the table, and any other with INTERNAL."""

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps the method's handler, whichever of its sides stream."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[bool(handler.request_streaming), bool(handler.response_streaming)]
        behavior = _handler_function(handler)
        wrap = _streaming if handler.response_streaming else _unary
        return make(
            wrap(behavior, handler_call_details.method),
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )


def _handler_function(handler: grpc.RpcMethodHandler[Any, Any]) -> Callable[[Any, grpc.ServicerContext], Any]:
    function = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    assert function is not None
    return function


def _unary(
    behavior: Callable[[Any, grpc.ServicerContext], Any], method: str
) -> Callable[[Any, grpc.ServicerContext], Any]:
    def answer(request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return behavior(request, context)
        except Exception as error:  # noqa: BLE001 - the edge of the server: nothing may pass unanswered
            _abort(context, error, method)

    return answer


def _streaming(
    behavior: Callable[[Any, grpc.ServicerContext], Any], method: str
) -> Callable[[Any, grpc.ServicerContext], Iterator[Any]]:
    def answer(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        try:
            yield from behavior(request, context)
        except Exception as error:  # noqa: BLE001 - as above
            _abort(context, error, method)

    return answer


def _abort(context: grpc.ServicerContext, error: Exception, method: str) -> NoReturn:
    if not context.is_active():
        # The caller went away, or its stream broke: there is nobody to answer.
        log.info("%s ended by its caller", method)
        context.abort(grpc.StatusCode.CANCELLED, "the caller went away")
    code = STATUS_CODES.get(type(error))
    if code is None:
        log.error("%s failed", method, exc_info=error)
        context.abort(grpc.StatusCode.INTERNAL, "the server has a fault; its log tells more")
    status = status_pb2.Status(code=code_pb2.Code.Value(code.name), message=_shortened(str(error)))
    if isinstance(error, InvalidInputError):
        violation = error_details_pb2.BadRequest.FieldViolation(
            field=_shortened(error.field), description=_shortened(error.problem)
        )
        detail = any_pb2.Any()
        detail.Pack(error_details_pb2.BadRequest(field_violations=[violation]))
        status.details.append(detail)
    log.info("%s answered %s: %s", method, code.name, error)
    context.abort_with_status(rpc_status.to_status(status))
    raise AssertionError


def _shortened(text: str) -> str:
    # What callers send comes back in messages, and gRPC drops a status that is over 8 kB when it is encoded.
    encoded = text.encode()
    return text if len(encoded) <= MAX_TEXT_BYTES else encoded[:MAX_TEXT_BYTES].decode(errors="ignore") + " ..."
