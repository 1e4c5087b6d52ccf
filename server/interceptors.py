"""What surrounds each call: its id, its token, the answer to its errors, its metrics, and its line in the log."""

from __future__ import annotations  # grpc's classes take type arguments in their stubs alone

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import grpc
from google.protobuf.message import DecodeError

from handgrad.core.errors import InvalidInputError
from handgrad.server import auth, logs
from handgrad.server.errors import STATUS_CODES, ServiceError, status_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    from handgrad.server.auth import Tokens
    from handgrad.server.metrics import Metrics

    Behavior: TypeAlias = Callable[[Any, grpc.ServicerContext], Any]

log = logging.getLogger(__name__)


class CallInterceptor(grpc.ServerInterceptor):
    """Surrounds the handler of every method."""

    def __init__(self, tokens: Tokens | None, metrics: Metrics) -> None:
        """Takes the tokens that are allowed, None for a server that asks for none, and where calls are counted."""
        self._tokens = tokens
        self._metrics = metrics

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps the method's handler, whichever of its sides stream. A method that does not exist is not counted."""
        handler = continuation(handler_call_details)
        if handler is None:
            return None
        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[bool(handler.request_streaming), bool(handler.response_streaming)]
        call = Call(handler_call_details, self._tokens, self._metrics)
        wrap = call.streaming if handler.response_streaming else call.unary
        return make(
            wrap(_reading(_function(handler), streaming=bool(handler.request_streaming))),
            request_deserializer=_deserializer(handler.request_deserializer),
            response_serializer=_serializer(handler.response_serializer),
        )


class Call:
    """One call, from its arrival to its end."""

    def __init__(self, details: grpc.HandlerCallDetails, tokens: Tokens | None, metrics: Metrics) -> None:
        self._method = details.method
        self._name = details.method.rpartition("/")[2]
        self._unary = False
        self._metadata: dict[str, str | bytes] = dict(details.invocation_metadata or ())
        self._tokens = tokens
        self._metrics = metrics
        self._id = logs.id_of(str(self._metadata.get("x-request-id", "")))
        self._began = time.perf_counter()

    def unary(self, behavior: Behavior) -> Behavior:
        """Wraps a method with one answer."""
        self._unary = True

        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            logs.request_id.set(self._id)
            try:
                self._check()
                response = behavior(request, context)
                self._sent(response)
            except Exception as error:  # noqa: BLE001 - the edge of the server: nothing may pass unanswered
                self._abort(context, error)
            self._ended("OK")
            return response

        return answer

    def streaming(self, behavior: Behavior) -> Behavior:
        """Wraps a method with a stream of answers."""

        def answer(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            logs.request_id.set(self._id)
            code = "CANCELLED"
            try:
                self._check()
                for response in behavior(request, context):
                    self._sent(response)
                    yield response
                code = "OK" if context.is_active() else code
            except Exception as error:  # noqa: BLE001 - as above
                code = ""
                self._abort(context, error)
            finally:
                # Also where the caller went away, which ends a generator from outside.
                if code:
                    self._ended(code)

        return answer

    def _check(self) -> None:
        if self._tokens is not None:
            authorization = str(self._metadata.get("authorization", ""))
            auth.caller.set(self._tokens.check(self._method, authorization))

    def _sent(self, response: Any) -> None:
        self._metrics.sent(self._name, response.ByteSize())

    def _ended(self, code: str) -> None:
        seconds = time.perf_counter() - self._began
        self._metrics.ended(self._name, code, seconds)
        # At INFO, a line for each of thousands of calls a second would cost more than the calls.
        level = logging.DEBUG if code == "OK" and self._unary else logging.INFO
        log.log(level, "%s %s in %.1f ms", self._method, code, 1e3 * seconds)

    def _abort(self, context: grpc.ServicerContext, error: Exception) -> NoReturn:
        if not context.is_active():
            # The caller went away, or its stream broke: there is nobody to answer.
            self._ended("CANCELLED")
            context.abort(grpc.StatusCode.CANCELLED, "the caller went away")
        if isinstance(error, (ServiceError, InvalidInputError)):
            log.info("%s: %s", self._method, error)
            self._ended(STATUS_CODES[type(error)].name)
            context.abort_with_status(status_of(error))
        log.error("%s failed", self._method, exc_info=error)
        self._ended("INTERNAL")
        context.abort(grpc.StatusCode.INTERNAL, f"the server has a fault; its log tells more (request {self._id})")
        raise AssertionError


@dataclass(frozen=True)
class Encoded:
    """An answer that is encoded already, and kept so for the next caller."""

    content: bytes

    def ByteSize(self) -> int:  # noqa: N802 - as a message has it
        """Gives its length."""
        return len(self.content)


@dataclass(frozen=True)
class Malformed:
    """Bytes that are no message: gRPC itself would answer INTERNAL, and log a traceback."""

    problem: str


def _deserializer(deserialize: Callable[[bytes], Any] | None) -> Callable[[bytes], Any] | None:
    if deserialize is None:
        return None

    def read(content: bytes) -> Any:
        try:
            return deserialize(content)
        except DecodeError as error:
            return Malformed(str(error))

    return read


def _reading(behavior: Behavior, *, streaming: bool) -> Behavior:
    """Wraps a method so that a malformed request is an InvalidInputError."""
    if streaming:
        return lambda requests, context: behavior(map(_whole, requests), context)
    return lambda request, context: behavior(_whole(request), context)


def _whole(request: Any) -> Any:
    if isinstance(request, Malformed):
        raise InvalidInputError("request", f"a message of the contract; these bytes are none: {request.problem}")
    return request


def _serializer(serialize: Callable[[Any], bytes] | None) -> Callable[[Any], bytes] | None:
    if serialize is None:
        return None
    return lambda response: response.content if isinstance(response, Encoded) else serialize(response)


def _function(handler: grpc.RpcMethodHandler[Any, Any]) -> Behavior:
    function = handler.unary_unary or handler.unary_stream or handler.stream_unary or handler.stream_stream
    assert function is not None
    return function
