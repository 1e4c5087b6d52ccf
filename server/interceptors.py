"""What surrounds each call: its id, its token, the answer to its errors, its metrics, and its line in the log."""

from __future__ import annotations  # grpc's classes take type arguments in their stubs alone

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

import grpc
from google.protobuf.message import DecodeError

from handgrad.core.errors import InvalidInputError
from handgrad.server import auth, logs
from handgrad.server.errors import STATUS_CODES, ExhaustedError, ServiceError, status_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import TypeAlias

    from handgrad.server.auth import Tokens
    from handgrad.server.metrics import Metrics

    Behavior: TypeAlias = Callable[[Any, grpc.ServicerContext], Any]

log = logging.getLogger(__name__)

MAX_ANSWER_BYTES: Final = 4 * 2**20
"""What gRPC receives, in every language, unless a client says otherwise: it drops what is larger."""


class CallInterceptor(grpc.ServerInterceptor):
    """Surrounds the handler of every method."""

    def __init__(self, tokens: Tokens | None, metrics: Metrics) -> None:
        """Takes the tokens that are allowed, None for a server that asks for none, and where calls are counted."""
        self._tokens = tokens
        self._metrics = metrics
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """Wraps the method's handler, whichever of its sides stream. A method that does not exist is not counted."""
        name = handler_call_details.method
        if name not in self._handlers:
            handler = continuation(handler_call_details)
            if handler is None:
                return None
            self._handlers[name] = self._surrounded(name, handler)
        return self._handlers[name]

    def _surrounded(self, name: str, handler: grpc.RpcMethodHandler[Any, Any]) -> grpc.RpcMethodHandler[Any, Any]:
        make = {
            (False, False): grpc.unary_unary_rpc_method_handler,
            (False, True): grpc.unary_stream_rpc_method_handler,
            (True, False): grpc.stream_unary_rpc_method_handler,
            (True, True): grpc.stream_stream_rpc_method_handler,
        }[bool(handler.request_streaming), bool(handler.response_streaming)]
        method = Method(name, self._tokens, self._metrics, unary=not handler.response_streaming)
        wrap = method.streaming if handler.response_streaming else method.one
        return make(
            wrap(_reading(_function(handler), streaming=bool(handler.request_streaming))),
            request_deserializer=_deserializer(handler.request_deserializer),
            response_serializer=_serializer(handler.response_serializer),
        )


@dataclass(frozen=True)
class Call:
    """One call: its id, its token's metadata, and when it came."""

    id: str
    authorization: str
    began: float


class Method:
    """What surrounds the calls of one method."""

    def __init__(self, name: str, tokens: Tokens | None, metrics: Metrics, *, unary: bool) -> None:
        self._full_name = name
        self._name = name.rpartition("/")[2]
        self._unary = unary
        self._tokens = tokens
        self._metrics = metrics

    def one(self, behavior: Behavior) -> Behavior:
        """Wraps a method with one answer."""

        def answer(request: Any, context: grpc.ServicerContext) -> Any:
            call = _begin(context)
            try:
                self._check(call)
                response = behavior(request, context)
                self._sent(response)
            except Exception as error:  # noqa: BLE001 - the edge of the server: nothing may pass unanswered
                self._abort(call, context, error)
            self._ended(call, "OK")
            return response

        return answer

    def streaming(self, behavior: Behavior) -> Behavior:
        """Wraps a method with a stream of answers."""

        def answer(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
            call = _begin(context)
            code = "CANCELLED"
            try:
                self._check(call)
                for response in behavior(request, context):
                    self._sent(response)
                    yield response
                code = "OK" if context.is_active() else code
            except Exception as error:  # noqa: BLE001 - as above
                code = ""
                self._abort(call, context, error)
            finally:
                # Also where the caller went away, which ends a generator from outside.
                if code:
                    self._ended(call, code)

        return answer

    def _check(self, call: Call) -> None:
        if self._tokens is not None:
            auth.caller.set(self._tokens.check(self._full_name, call.authorization))

    def _sent(self, response: Any) -> None:
        size = response.ByteSize()
        if size > MAX_ANSWER_BYTES:
            raise ExhaustedError(
                f"the answer has {size} bytes, and gRPC receives {MAX_ANSWER_BYTES} at most; ask for less in one call"
            )
        self._metrics.sent(self._name, size)

    def _ended(self, call: Call, code: str) -> None:
        seconds = time.perf_counter() - call.began
        self._metrics.ended(self._name, code, seconds)
        # At INFO, a line for each of thousands of calls a second would cost more than the calls.
        level = logging.DEBUG if code == "OK" and self._unary else logging.INFO
        log.log(level, "%s %s in %.1f ms", self._full_name, code, 1e3 * seconds)

    def _abort(self, call: Call, context: grpc.ServicerContext, error: Exception) -> NoReturn:
        if not context.is_active():
            # The caller went away, or its stream broke: there is nobody to answer.
            self._ended(call, "CANCELLED")
            context.abort(grpc.StatusCode.CANCELLED, "the caller went away")
        if isinstance(error, (ServiceError, InvalidInputError)):
            log.info("%s: %s", self._full_name, error)
            self._ended(call, STATUS_CODES[type(error)].name)
            context.abort_with_status(status_of(error))
        log.error("%s failed", self._full_name, exc_info=error)
        self._ended(call, "INTERNAL")
        context.abort(grpc.StatusCode.INTERNAL, f"the server has a fault; its log tells more (request {call.id})")
        raise AssertionError


def _begin(context: grpc.ServicerContext) -> Call:
    metadata: dict[str, str | bytes] = dict(context.invocation_metadata())
    call = Call(
        logs.id_of(str(metadata.get("x-request-id", ""))), str(metadata.get("authorization", "")), time.perf_counter()
    )
    logs.request_id.set(call.id)
    return call


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
