"""gRPC for Trio programs: serve services, call methods. The only module that knows asyncio and grpc.

grpcio has no Trio transport, so one asyncio loop in one daemon thread owns all of grpc; it starts on first use and
lives as long as the process. A call crosses between the threads twice: as a callback in the other thread's `Inbox`,
or as messages in `Lane`s. Handlers and callers are ordinary Trio tasks, and message objects exist only on their side.

Used by raftd, proxyd and clientctl. Must not know what any service means.
"""

import asyncio
import errno
import functools
import importlib
import importlib.util
import threading
import urllib.parse
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, TypeVar

import grpc
import grpc.aio
import outcome
import trio
from google.protobuf.descriptor import MethodDescriptor

from proto.call import Call, LogFailure, Stream, text_metadata
from proto.errors import CANCELLED, NOT_DONE_OUTCOME, UNAVAILABLE, UNIMPLEMENTED, UNKNOWN_OUTCOME, Status
from proto.lane import Inbox, Lane, LaneClosed
from proto.options import CLIENT_OPTIONS, ISOLATED, SERVER_OPTIONS, Options
from proto.service import Handler, Method, Service
from proto.stream import MessageStream, StreamEnded

__all__ = [
    "AddressInUse",
    "Call",
    "Channel",
    "MessageStream",
    "Service",
    "Stream",
    "StreamEnded",
    "connect",
    "serve",
]

_T = TypeVar("_T")
_CODES = {code.value[0]: code for code in grpc.StatusCode}
_OUTCOME_TRAILER = "outcome"
_STOPPING = Status(UNAVAILABLE, "the server is stopping")
_CLIENT_LEFT = Status(CANCELLED, "the client has left")


class AddressInUse(OSError):
    """Another process listens on `address`."""

    def __init__(self, address: str) -> None:
        super().__init__(errno.EADDRINUSE, f"{address} is in use by another process")
        self.address = address

    def __str__(self) -> str:
        return str(self.strerror)


# The two threads


class _GrpcThread:
    """The asyncio loop that owns grpc. Exactly one per process: two share grpc's poller and disturb each other."""

    _instance: "_GrpcThread | None" = None
    _lock = threading.Lock()

    def __init__(self) -> None:
        # uvloop is worth having and not worth requiring.
        fast = importlib.util.find_spec("uvloop") is not None
        self.loop: asyncio.AbstractEventLoop = (
            importlib.import_module("uvloop").new_event_loop() if fast else asyncio.new_event_loop()
        )
        self.inbox = Inbox(self.loop.call_soon_threadsafe)
        threading.Thread(target=self._run, name="grpc", daemon=True).start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    @classmethod
    def get(cls) -> "_GrpcThread":
        with cls._lock:
            if cls._instance is None:
                cls._instance = cls()
            return cls._instance


_trio_inbox: trio.lowlevel.RunVar[Inbox] = trio.lowlevel.RunVar("proto.bridge.inbox")


def _to_trio() -> Inbox:
    """The inbox of the running Trio program."""
    try:
        return _trio_inbox.get()
    except LookupError:
        token = trio.lowlevel.current_trio_token()

        def ring(run: Callable[[], None]) -> None:
            # The program has ended; nobody waits for the callback.
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(run)

        _trio_inbox.set(Inbox(ring))
        return _trio_inbox.get()


class _LoopTask:
    """A coroutine on the grpc thread, started from Trio and waited for there."""

    def __init__(self, function: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> None:
        self._grpc, self._trio = _GrpcThread.get(), _to_trio()
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False
        self._result: outcome.Outcome[Any] | None = None
        self._waiter: trio.lowlevel.Task | None = None
        self._grpc.inbox.post(functools.partial(self._start, function, arguments))

    def _start(self, function: Callable[..., Coroutine[Any, Any, Any]], arguments: tuple[Any, ...]) -> None:
        self._task = self._grpc.loop.create_task(function(*arguments))
        self._task.add_done_callback(self._finish)

    def _finish(self, task: "asyncio.Task[Any]") -> None:
        result: outcome.Outcome[Any] = (
            outcome.Error(asyncio.CancelledError()) if task.cancelled() else outcome.capture(task.result)
        )
        self._trio.post(functools.partial(self._resume, result))

    def _resume(self, result: outcome.Outcome[Any]) -> None:
        self._result = result
        if self._waiter is not None:
            trio.lowlevel.reschedule(self._waiter, outcome.Value(None))

    def cancel(self) -> None:
        if not self._cancelled:
            self._cancelled = True
            self._grpc.inbox.post(lambda: self._task is None or self._task.cancel())

    async def wait(self) -> Any:
        """The coroutine's result. A Trio cancel cancels it and waits for its end; a result that made it counts."""
        raise_cancel: Callable[[], Any] | None = None

        def abort(raise_cancelled: Callable[[], Any]) -> trio.lowlevel.Abort:
            nonlocal raise_cancel
            raise_cancel = raise_cancelled
            self.cancel()
            return trio.lowlevel.Abort.FAILED

        if self._result is None:
            self._waiter = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(abort)
        assert self._result is not None
        try:
            return self._result.unwrap()
        except asyncio.CancelledError:
            if raise_cancel is not None:
                return raise_cancel()
            raise Status(UNAVAILABLE, "the channel was closed") from None


async def _on_loop(function: Callable[..., Coroutine[Any, Any, _T]], *arguments: Any) -> _T:
    result: _T = await _LoopTask(function, *arguments).wait()
    return result


class _Bell:
    """Where the one grpc-side task of a lane's end waits. `ring` may be called in any thread."""

    __slots__ = ("_future", "_grpc")

    def __init__(self, grpc_thread: _GrpcThread) -> None:
        self._grpc = grpc_thread
        self._future: asyncio.Future[None] | None = None

    def ring(self) -> None:
        self._grpc.inbox.post(self._wake)

    def _wake(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def wait(self) -> None:
        # A ring in answer to what was just seen is still in our inbox, so it cannot be missed.
        self._future = self._grpc.loop.create_future()
        await self._future


async def _put(lane: Lane, message: bytes, room: _Bell) -> None:
    while not lane.offer(message, will_wait=True):
        await room.wait()


# Serving


class _Server:
    """The calls of one listening server. The first half of its methods runs on Trio, the second on the grpc thread."""

    def __init__(self, services: Iterable[Service], log_failure: LogFailure, *, secure: bool) -> None:
        self._grpc, self._trio = _GrpcThread.get(), _to_trio()
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
            call.status = _STOPPING
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
        """Refuse new calls, end streams, let unary calls finish within the grace, then end those too."""
        self._stopping = True
        for call in list(self._calls):
            # An open stream would use up all of the grace.
            if call.method.server_streaming or call.method.client_streaming:
                call.end(_STOPPING)
        await _on_loop(self._server.stop, grace_s)
        for call in list(self._calls):
            call.end(_STOPPING)

    async def listen(
        self, addresses: Sequence[str], credentials: grpc.ServerCredentials | None, options: Options
    ) -> list[int]:
        """Bind; returns the ports. Raises `_CannotBind`."""
        self._server = grpc.aio.server(
            handlers=[self._generic_handler(service) for service in self._services], options=options
        )
        ports = []
        for address in addresses:
            try:
                if credentials is None:
                    ports.append(self._server.add_insecure_port(address))
                else:
                    ports.append(self._server.add_secure_port(address, credentials))
            except RuntimeError as error:
                await self._server.stop(None)
                raise _CannotBind(address) from error
        return ports

    async def start(self) -> None:
        await self._server.start()

    def _generic_handler(self, service: Service) -> grpc.GenericRpcHandler:
        methods = {}
        for name, (method, handler) in service.methods.items():
            kind: Any = {
                (False, False): grpc.unary_unary_rpc_method_handler,
                (False, True): grpc.unary_stream_rpc_method_handler,
                (True, False): grpc.stream_unary_rpc_method_handler,
                (True, True): grpc.stream_stream_rpc_method_handler,
            }[method.client_streaming, method.server_streaming]
            serve: Any
            if handler is None:
                serve = functools.partial(_refuse, method.path)
            elif method.client_streaming or method.server_streaming:
                serve = functools.partial(self._serve_stream, method, handler)
            else:
                serve = functools.partial(self._serve_unary, method, handler)
            methods[name] = kind(serve)
        return grpc.method_handlers_generic_handler(service.name, methods)

    def _new_call(self, method: Method, context: Any, reader: _Bell, writer: _Bell) -> Call:
        return Call(
            method,
            context.invocation_metadata() or (),
            context.time_remaining(),
            urllib.parse.unquote(context.peer()),
            {key: tuple(values) for key, values in context.auth_context().items()} if self._secure else {},
            self._trio,
            reader.ring,
            writer.ring,
        )

    async def _serve_unary(self, method: Method, handler: Handler, request: bytes, context: Any) -> bytes:
        done = _Bell(self._grpc)
        call = self._new_call(method, context, done, done)
        self._trio.post(functools.partial(self._begin, call, handler, request, done.ring))
        try:
            await done.wait()
        except asyncio.CancelledError:
            self._trio.post(functools.partial(call.end, _CLIENT_LEFT))
            raise
        await _conclude(call, context)
        assert call.reply is not None
        return call.reply

    async def _serve_stream(
        self, method: Method, handler: Handler, request: Any, context: Any
    ) -> bytes | None:
        arrival, room = _Bell(self._grpc), _Bell(self._grpc)
        call = self._new_call(method, context, arrival, room)
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
                self._trio.post(functools.partial(call.end, _CLIENT_LEFT))
            if receiver is not None:
                receiver.cancel()
            call.incoming.close()


async def _receive(context: Any, incoming: Lane, room: _Bell) -> None:
    """Move a client's messages into the lane until they end, which on a cancelled call they seem to do as well."""
    with suppress(LaneClosed, grpc.aio.BaseError):
        while (message := await context.read()) is not grpc.aio.EOF:
            await _put(incoming, message, room)
    incoming.close()


async def _conclude(call: Call, context: Any) -> None:
    """Send the trailers, and the status when it is not OK (which raises grpc's AbortError)."""
    status, trailers = call.status, call.trailing_metadata
    if status is None:
        if trailers:
            context.set_trailing_metadata(tuple(trailers.items()))
        return
    if status.outcome is not None:
        trailers = {**trailers, _OUTCOME_TRAILER: status.outcome}
    await context.abort(_CODES[status.code], status.text, tuple(trailers.items()))


async def _refuse(path: str, _request: Any, context: Any) -> None:
    await context.abort(grpc.StatusCode.UNIMPLEMENTED, f"{path} is not implemented")


class _CannotBind(Exception):
    pass


async def _bind_error(address: str) -> OSError:
    """Why grpc could not listen on `address`; it does not tell, so ask the system."""
    host, _, port = address.rpartition(":")
    try:
        found = await trio.socket.getaddrinfo(host.strip("[]"), int(port), type=trio.socket.SOCK_STREAM)
        for family, kind, protocol, _name, socket_address in found:
            with trio.socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
                await probe.bind(socket_address)
                probe.listen(1)
    except ValueError:
        return OSError(errno.EINVAL, f"{address} is not host:port")
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            return AddressInUse(address)
        return OSError(error.errno, f"cannot listen on {address}: {error.strerror}")
    return OSError(errno.EADDRNOTAVAIL, f"cannot listen on {address}")


def _log_failure(path: str, error: BaseException) -> None:
    # Only here, because importing structlog costs a command-line client 60 ms.
    import structlog

    structlog.get_logger().error("unexpected error in a handler", method=path, exc_info=error)


async def serve(
    addresses: Sequence[str],
    services: Sequence[Service],
    *,
    credentials: grpc.ServerCredentials | None = None,
    grace_s: float = 1.0,
    options: Options = SERVER_OPTIONS,
    log_failure: LogFailure = _log_failure,
    task_status: trio.TaskStatus[list[int]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until cancelled, then drain: streams end with UNAVAILABLE, unary calls have `grace_s` to finish.

    `addresses` are "host:port" or "[ipv6]:port", port 0 for any; `task_status` is given the ports. A handler that
    raises `Status` ends its call with it; any other exception is UNKNOWN to the client and goes to `log_failure`.
    Raises `AddressInUse`, or another OSError, when it cannot bind.
    """
    server = _Server(services, log_failure, secure=credentials is not None)
    try:
        ports = await _on_loop(server.listen, addresses, credentials, options)
    except _CannotBind as error:
        raise await _bind_error(str(error)) from None
    async with trio.open_nursery() as server.nursery:
        try:
            await _on_loop(server.start)
            task_status.started(ports)
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await server.stop(grace_s)


# Calling


class Channel:
    """A connection to one address, which connects by itself and again after a loss. `connect` yields it.

    A `method` is its descriptor, or its path; then, as with `raw`, messages are serialized bytes.
    `timeout` is in seconds; metadata keys are lower case. Calls raise `Status`. A CANCELLED that this side did not
    cause (a server that stops refuses so) is reported as UNAVAILABLE. `outcome` is the trailer of that name, and
    "not-done" when there was no connection to send anything on.
    """

    def __init__(self, address: str, channel: grpc.aio.Channel) -> None:
        self.address = address
        self._channel = channel
        self._grpc, self._trio = _GrpcThread.get(), _to_trio()
        self._calls: dict[str, Any] = {}
        self._methods: dict[tuple[MethodDescriptor, bool], Method] = {}

    async def unary(
        self,
        method: MethodDescriptor | str,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        raw: bool = False,
        wait_for_ready: bool = False,
    ) -> Any:
        """Call a unary method and return its reply. `wait_for_ready`: wait for a connection instead of failing."""
        known = self._method(method, raw)
        options = (known.path, known.encode_request(request), timeout, metadata, wait_for_ready)
        return known.decode_reply(await _on_loop(self._unary, *options))

    @asynccontextmanager
    async def stream(
        self,
        method: MethodDescriptor | str,
        request: Any = None,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        raw: bool = False,
        wait_for_ready: bool = False,
    ) -> AsyncIterator[Stream]:
        """Call a streaming method; `request` is for those whose client does not stream. Leaving ends the call.

        A method that only the client streams gives its reply as the one message received.
        """
        known = self._method(method, raw)
        reader, writer = _Bell(self._grpc), _Bell(self._grpc)
        stream = Stream(known, self._trio, reader.ring, writer.ring)
        if request is not None:
            stream.offer(request)
            stream.close_sending()
        task = _LoopTask(self._stream, known.path, stream, reader, writer, timeout, metadata, wait_for_ready)
        try:
            yield stream
        finally:
            task.cancel()
            with trio.CancelScope(shield=True), suppress(Status):
                await task.wait()

    async def ready(self) -> None:
        """Wait until there is a connection."""
        await _on_loop(self._channel.channel_ready)

    def _method(self, method: MethodDescriptor | str, raw: bool) -> Method:
        if isinstance(method, str):
            return Method.unknown(method, client_streaming=True, server_streaming=True)
        known = self._methods.get((method, raw))
        if known is None:
            known = self._methods[method, raw] = Method.of(method, raw=raw)
        return known

    # On the grpc thread.

    async def _unary(
        self,
        path: str,
        request: bytes,
        timeout: float | None,
        metadata: Mapping[str, str] | None,
        wait_for_ready: bool,
    ) -> bytes:
        start = self._calls.get(path)
        if start is None:
            start = self._calls[path] = self._channel.unary_unary(path)
        call = start(
            request, timeout=timeout, metadata=_pairs(metadata), wait_for_ready=wait_for_ready or None
        )
        try:
            reply: bytes = await call
        except grpc.aio.AioRpcError as error:
            raise _status_of(error) from None
        return reply

    async def _stream(
        self,
        path: str,
        stream: Stream,
        reader: _Bell,
        writer: _Bell,
        timeout: float | None,
        metadata: Mapping[str, str] | None,
        wait_for_ready: bool,
    ) -> None:
        # One kind does for all: on the wire a single message is a stream of one.
        start: Any = self._channel.stream_stream(path)
        call = start(timeout=timeout, metadata=_pairs(metadata), wait_for_ready=wait_for_ready or None)
        sender = self._grpc.loop.create_task(_send(call, stream.outgoing, reader))
        error: Status | None = Status(UNAVAILABLE, "the channel was closed")
        trailers: dict[str, str] = {}
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                await _put(stream.incoming, message, writer)
            trailers, error = text_metadata(tuple(await call.trailing_metadata())), None
        except grpc.aio.AioRpcError as failure:
            trailers, error = text_metadata(tuple(failure.trailing_metadata() or ())), _status_of(failure)
        finally:
            call.cancel()
            sender.cancel()
            stream.finish(error, trailers)
            await asyncio.wait([sender])


async def _send(call: Any, outgoing: Lane, arrival: _Bell) -> None:
    """Move the caller's messages out of the lane until it is closed. Why a call failed is for its reader to say."""
    with suppress(grpc.aio.AioRpcError, grpc.aio.BaseError, asyncio.InvalidStateError):
        try:
            while True:
                message = outgoing.take()
                if message is None:
                    await arrival.wait()
                else:
                    await call.write(message)
        except LaneClosed:
            await call.done_writing()


def _pairs(metadata: Mapping[str, str] | None) -> tuple[tuple[str, str], ...] | None:
    return tuple(metadata.items()) if metadata else None


def _status_of(error: grpc.aio.AioRpcError) -> Status:
    code, text = error.code().value[0], error.details() or ""
    outcome_trailer = text_metadata(tuple(error.trailing_metadata() or ())).get(_OUTCOME_TRAILER)
    if outcome_trailer not in (NOT_DONE_OUTCOME, UNKNOWN_OUTCOME):
        outcome_trailer = None
    if code == CANCELLED:
        code, text = UNAVAILABLE, f"the server ended the call ({text})"
    if outcome_trailer is None and code == UNAVAILABLE and _never_connected(error):
        outcome_trailer = NOT_DONE_OUTCOME
    return Status(code, text, outcome_trailer)


def _never_connected(error: grpc.aio.AioRpcError) -> bool:
    # The text alone could be another server's, passed on; a received status says whom it is from.
    details, debug = error.details() or "", error.debug_error_string() or ""
    return details.startswith("failed to connect to all addresses") and "received from peer" not in debug


async def _open(
    address: str, credentials: grpc.ChannelCredentials | None, options: Options
) -> grpc.aio.Channel:
    if credentials is None:
        return grpc.aio.insecure_channel(address, options)
    return grpc.aio.secure_channel(address, credentials, options)


@asynccontextmanager
async def connect(
    address: str,
    *,
    credentials: grpc.ChannelCredentials | None = None,
    options: Options = CLIENT_OPTIONS,
    isolated: bool = False,
) -> AsyncIterator[Channel]:
    """A channel to `address`; connects on first use. Leaving closes it and ends the calls that are still running.

    `isolated`: with a connection of its own, else channels of one process to one address share one.
    """
    channel = await _on_loop(_open, address, credentials, options + (ISOLATED if isolated else ()))
    try:
        yield Channel(address, channel)
    finally:
        with trio.CancelScope(shield=True):
            await _on_loop(channel.close)
