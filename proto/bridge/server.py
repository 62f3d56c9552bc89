"""Serving from Trio: each call of a listening grpc server becomes a Trio task.

The grpc side of the server. What a handler is given, and how its end becomes a verdict, is in `proto.call`.
"""

import asyncio
import errno
import functools
import urllib.parse
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

import grpc
import grpc.aio
import trio

from proto.bridge.threads import Bell, GrpcThread, on_loop, put, trio_inbox
from proto.call import NOT_SENT_TEXTS, OUTCOME_TRAILER, Call, LogFailure
from proto.errors import CANCELLED, UNAVAILABLE, UNKNOWN_OUTCOME, Status
from proto.lane import Lane, LaneClosed
from proto.options import SERVER_OPTIONS, Options
from proto.service import Handler, Method, Service

_CODES = {code.value[0]: code for code in grpc.StatusCode}
_METHOD_HANDLERS: dict[tuple[bool, bool], Any] = {
    (False, False): grpc.unary_unary_rpc_method_handler,
    (False, True): grpc.unary_stream_rpc_method_handler,
    (True, False): grpc.stream_unary_rpc_method_handler,
    (True, True): grpc.stream_stream_rpc_method_handler,
}


class AddressInUse(OSError):
    """Another process listens on `address`."""

    def __init__(self, address: str) -> None:
        super().__init__(errno.EADDRINUSE, f"{address} is in use by another process")
        self.address = address

    def __str__(self) -> str:
        return str(self.strerror)


class CannotListen(OSError):
    """`address` cannot be listened on, for another reason than that it is in use."""

    def __str__(self) -> str:
        return str(self.strerror)


class _CannotBind(Exception):
    pass


async def serve(
    addresses: Sequence[str],
    services: Sequence[Service],
    *,
    credentials: grpc.ServerCredentials | None = None,
    grace_s: float = 1.0,
    options: Options = SERVER_OPTIONS,
    log_failure: LogFailure | None = None,
    task_status: trio.TaskStatus[list[int]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled, then drain: streams end with UNAVAILABLE, unary calls have `grace_s` to finish.

    `addresses` are "host:port" or "[ipv6]:port", port 0 for any; `task_status` is given the ports. A handler
    that raises `Status` ends its call with it; any other exception is UNKNOWN to the client and goes to
    `log_failure`, by default to structlog. Raises `AddressInUse` or `CannotListen`.
    """
    for address in addresses:
        _check(address)
    server = _Server(services, log_failure or _log_failure, secure=credentials is not None)
    refused = None
    async with trio.open_nursery() as server.nursery:
        try:
            # A start that is cancelled half-way leaves grpc's server in a state that it cannot be stopped
            # from.
            with trio.CancelScope(shield=True):
                ports = await on_loop(server.listen, addresses, credentials, options)
        except _CannotBind as error:
            refused = str(error)
        else:
            try:
                task_status.started(ports)
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    await server.stop(grace_s)
    # Out here, or it would arrive as an exception group.
    if refused is not None:
        raise await _why_not(refused)


class _Server:
    """One listening server and its calls.

    `_begin`, `_answer` and `stop` run on Trio and own `_calls`; the other methods run on the grpc thread.
    """

    def __init__(self, services: Iterable[Service], log_failure: LogFailure, *, secure: bool) -> None:
        self._grpc, self._trio = GrpcThread.get(), trio_inbox()
        self._services = list(services)
        self._log_failure = log_failure
        self._secure = secure
        self._calls: set[Call] = set()
        self._stopping = False
        self.nursery: trio.Nursery
        self._server: grpc.aio.Server

    def _begin(
        self, call: Call, handler: Handler, request: bytes | None, settle: Callable[[], object]
    ) -> None:
        if self._stopping:
            call.status = _stopping()
            settle()
            return
        call.start_clock()
        self._calls.add(call)
        self.nursery.start_soon(self._answer, call, handler, request, settle, name=call.method.path)

    async def _answer(
        self, call: Call, handler: Handler, request: bytes | None, settle: Callable[[], object]
    ) -> None:
        try:
            await call.answer(handler, request, self._log_failure)
        finally:
            self._calls.discard(call)
            settle()

    async def stop(self, grace_s: float) -> None:
        self._stopping = True
        for call in list(self._calls):
            # grpc would spend all of the grace on an open stream.
            if call.method.server_streaming or call.method.client_streaming:
                call.end(_stopping())
        await on_loop(self._server.stop, grace_s)
        for call in list(self._calls):
            call.end(_stopping())

    async def listen(
        self, addresses: Sequence[str], credentials: grpc.ServerCredentials | None, options: Options
    ) -> list[int]:
        """Bind and start; returns the ports."""
        self._server = grpc.aio.server(
            handlers=[self._handlers(it) for it in self._services], options=options
        )
        try:
            ports = [self._bind(address, credentials) for address in addresses]
        except _CannotBind:
            # Only a server that was started gives back the ports that it has.
            self._stopping = True
            await self._server.start()
            await self._server.stop(None)
            raise
        await self._server.start()
        return ports

    def _bind(self, address: str, credentials: grpc.ServerCredentials | None) -> int:
        try:
            if credentials is None:
                return self._server.add_insecure_port(address)
            return self._server.add_secure_port(address, credentials)
        except RuntimeError as error:
            raise _CannotBind(address) from error

    def _handlers(self, service: Service) -> grpc.GenericRpcHandler:
        handlers = {}
        for name, (method, handler) in service.methods.items():
            kind = _METHOD_HANDLERS[method.client_streaming, method.server_streaming]
            handlers[name] = kind(self._behaviour(method, handler))
        return grpc.method_handlers_generic_handler(service.name, handlers)

    def _behaviour(self, method: Method, handler: Handler | None) -> Callable[[Any, Any], Any]:
        # Plain coroutine functions: for each call grpc finds out what it has, and a partial takes it 5 µs
        # more.
        async def refuse(_request: Any, context: Any) -> None:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{method.path} is not implemented")

        if handler is None:
            return refuse
        implemented = handler

        async def serve_unary(request: bytes, context: Any) -> bytes:
            return await self._serve_unary(method, implemented, request, context)

        async def serve_stream(request: Any, context: Any) -> bytes | None:
            return await self._serve_stream(method, implemented, request, context)

        return serve_stream if method.client_streaming or method.server_streaming else serve_unary

    def _new_call(self, method: Method, context: Any) -> Call:
        return Call(
            method,
            context.invocation_metadata() or (),
            context.time_remaining(),
            urllib.parse.unquote(context.peer()),
            {key: tuple(values) for key, values in context.auth_context().items()} if self._secure else {},
        )

    async def _serve_unary(self, method: Method, handler: Handler, request: bytes, context: Any) -> bytes:
        done = Bell(self._grpc)
        call = self._new_call(method, context)
        self._trio.post(functools.partial(self._begin, call, handler, request, done.ring))
        try:
            await done.wait()
        except asyncio.CancelledError:
            self._trio.post(functools.partial(call.end, _client_left()))
            raise
        await _conclude(call, context)
        assert call.reply is not None
        return call.reply

    async def _serve_stream(
        self, method: Method, handler: Handler, request: Any, context: Any
    ) -> bytes | None:
        arrival, room = Bell(self._grpc), Bell(self._grpc)
        call = self._new_call(method, context)
        call.open_lanes(self._trio, arrival.ring, room.ring)
        first = None if method.client_streaming else request
        self._trio.post(functools.partial(self._begin, call, handler, first, call.outgoing.close))
        receiver = None
        if method.client_streaming:
            receiver = self._grpc.loop.create_task(_receive(context, call.incoming, room))
        over = False
        try:
            with suppress(LaneClosed):
                while True:
                    message = call.outgoing.take()
                    if message is None:
                        await arrival.wait()
                    else:
                        await context.write(message)
            over = True
            await _conclude(call, context)
            return call.reply
        except grpc.aio.InternalError:
            # The client left while write() waited for flow control; no CancelledError comes then.
            return None
        finally:
            if not over:
                call.outgoing.close(discard=True)
                self._trio.post(functools.partial(call.end, _client_left()))
            if receiver is not None:
                receiver.cancel()
            call.incoming.close()


async def _receive(context: Any, incoming: Lane, room: Bell) -> None:
    """Move a client's messages into the lane until they end, as on a cancelled call they seem to do."""
    with suppress(LaneClosed, grpc.aio.BaseError):
        while (message := await context.read()) is not grpc.aio.EOF:
            await put(incoming, message, room)
    incoming.close()


async def _conclude(call: Call, context: Any) -> None:
    """Send the trailers, and the status when it is not OK (which raises grpc's AbortError)."""
    status, trailers = call.status, call.trailing_metadata
    if status is None:
        if trailers:
            context.set_trailing_metadata(tuple(trailers.items()))
        return
    outcome = status.outcome
    if outcome is None and status.text.startswith(NOT_SENT_TEXTS):
        # Another call's failure, passed on: to our client it would look like its own, and as surely not done.
        outcome = UNKNOWN_OUTCOME
    if outcome is not None:
        trailers = {**trailers, OUTCOME_TRAILER: outcome}
    await context.abort(_CODES[status.code], status.text, tuple(trailers.items()))


def _stopping() -> Status:
    return Status(UNAVAILABLE, "the server is stopping")


def _client_left() -> Status:
    return Status(CANCELLED, "the client has left")


def _log_failure(path: str, error: BaseException) -> None:
    # Not at the top: importing structlog costs a command-line client 60 ms.
    import structlog

    structlog.get_logger().error("unexpected error in a handler", method=path, exc_info=error)


def _check(address: str) -> None:
    # Given no port, grpc listens on 443.
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise CannotListen(errno.EINVAL, f"cannot listen on {address}: not of the form host:port")


async def _why_not(address: str) -> OSError:
    """Why grpc could not listen on `address`: it does not tell, so ask the system."""
    try:
        await check_free(address)
    except OSError as error:
        return error
    return CannotListen(errno.EADDRNOTAVAIL, f"cannot listen on {address}")


async def check_free(address: str) -> None:
    """Whether a server could listen on `address` now. Raises `AddressInUse` or `CannotListen`."""
    _check(address)
    host, _, port = address.rpartition(":")
    try:
        found = await trio.socket.getaddrinfo(host.strip("[]"), int(port), type=trio.socket.SOCK_STREAM)
        for family, kind, protocol, _name, socket_address in found:
            with trio.socket.socket(family, kind, protocol) as probe:
                # As grpc does: connections that have just ended do not hold the port.
                probe.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
                await probe.bind(socket_address)
                probe.listen()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(address) from None
        raise CannotListen(error.errno, f"cannot listen on {address}: {error.strerror}") from None
