"""Calling from Trio: a channel to an address, unary calls and streams.

The grpc side of the client. Its counterpart is `proto.bridge.server`; what a caller holds is
`proto.call.Stream`.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

import grpc
import grpc.aio
import trio
from google.protobuf.descriptor import MethodDescriptor

from proto.bridge.threads import Bell, GrpcThread, LoopTask, OtherSideEnded, on_loop, put, trio_inbox
from proto.call import NOT_SENT_TEXTS, OUTCOME_TRAILER, Stream, decoded, text_metadata
from proto.errors import CANCELLED, NOT_DONE_OUTCOME, UNAVAILABLE, UNKNOWN_OUTCOME, Status
from proto.lane import Lane, LaneClosed
from proto.options import CLIENT_OPTIONS, ISOLATED, Options
from proto.service import Method

_CLOSED = "the channel was closed"


class Channel:
    """A connection to one address, which connects by itself and again after a loss. `connect` yields it.

    A `method` is its descriptor, or the path of a unary method whose messages then are serialized bytes, as
    with `raw`. `timeout` is in seconds; metadata keys are lower case. Calls raise `Status`. A CANCELLED that
    this side did not cause (so refuses a server that stops) is reported as UNAVAILABLE. `outcome` is the
    trailer of that name, and "not-done" when there was no connection to send anything on.
    """

    def __init__(self, address: str, channel: grpc.aio.Channel) -> None:
        self.address = address
        self._channel = channel
        self._grpc, self._trio = GrpcThread.get(), trio_inbox()
        self._unary_calls: dict[str, Any] = {}
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
        """Call a unary method and return its reply.

        `wait_for_ready`: wait for a connection, instead of failing when there is none.
        """
        known = self._method(method, raw)
        encoded = known.encode_request(request)
        try:
            reply, _ = await on_loop(
                self._unary, known.path, encoded, timeout, metadata, wait_for_ready, False
            )
        except OtherSideEnded:
            raise Status(UNAVAILABLE, _CLOSED) from None
        return decoded(known.decode_reply, [reply])[0]

    async def unary_with_trailers(
        self,
        method: MethodDescriptor | str,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        raw: bool = False,
    ) -> tuple[Any, Mapping[str, str]]:
        """As `unary`, with the server's trailing metadata."""
        known = self._method(method, raw)
        encoded = known.encode_request(request)
        try:
            reply, trailers = await on_loop(self._unary, known.path, encoded, timeout, metadata, False, True)
        except OtherSideEnded:
            raise Status(UNAVAILABLE, _CLOSED) from None
        return decoded(known.decode_reply, [reply])[0], trailers

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
        """Call a streaming method; `request` is for those whose client does not stream.

        Leaving ends the call, and what had not been sent by then is not sent.
        A method that only the client streams gives its reply as the one message received.
        """
        known = self._method(method, raw)
        arrival, room = Bell(self._grpc), Bell(self._grpc)
        stream = Stream(known)
        stream.open_lanes(self._trio, arrival.ring, room.ring)
        if request is not None:
            stream.offer(request)
            stream.close_sending()
        task = LoopTask(self._stream, known.path, stream, arrival, room, timeout, metadata, wait_for_ready)
        try:
            yield stream
        finally:
            task.cancel()
            with trio.CancelScope(shield=True), suppress(OtherSideEnded):
                await task.wait()

    async def ready(self) -> None:
        """Connect, and wait until there is a connection."""
        await on_loop(self._channel.channel_ready)

    def _method(self, method: MethodDescriptor | str, raw: bool) -> Method:
        if isinstance(method, str):
            return Method.unknown(method)
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
        with_trailers: bool,
    ) -> tuple[bytes, Mapping[str, str]]:
        start = self._unary_calls.get(path)
        if start is None:
            start = self._unary_calls[path] = self._channel.unary_unary(path)
        call = start(
            request, timeout=timeout, metadata=_pairs(metadata), wait_for_ready=wait_for_ready or None
        )
        try:
            reply = await call
            return reply, text_metadata(tuple(await call.trailing_metadata())) if with_trailers else {}
        except grpc.aio.AioRpcError as error:
            raise _status_of(error) from None

    async def _stream(
        self,
        path: str,
        stream: Stream,
        arrival: Bell,
        room: Bell,
        timeout: float | None,
        metadata: Mapping[str, str] | None,
        wait_for_ready: bool,
    ) -> None:
        # One kind does for all: on the wire a single message is a stream of one.
        start: Any = self._channel.stream_stream(path)
        call = start(timeout=timeout, metadata=_pairs(metadata), wait_for_ready=wait_for_ready or None)
        sender = self._grpc.loop.create_task(_send(call, stream.outgoing, arrival))
        error: Status | None = Status(UNAVAILABLE, _CLOSED)
        trailers: dict[str, str] = {}
        try:
            while (message := await call.read()) is not grpc.aio.EOF:
                await put(stream.incoming, message, room)
            trailers, error = text_metadata(tuple(await call.trailing_metadata())), None
        except grpc.aio.AioRpcError as failure:
            trailers, error = text_metadata(tuple(failure.trailing_metadata() or ())), _status_of(failure)
        finally:
            call.cancel()
            sender.cancel()
            stream.finish(error, trailers)
            await asyncio.wait([sender])


async def _send(call: Any, outgoing: Lane, arrival: Bell) -> None:
    """Move the caller's messages out of the lane until it is closed."""
    # Why a call failed is for its reader to say.
    with suppress(grpc.aio.AioRpcError, grpc.aio.BaseError):
        try:
            await call.wait_for_connection()
            # Not call.write(): if the call ends while that waits for flow control, it replaces the status
            # that is about to arrive by INTERNAL `Internal error from Core`.
            write = call._cython_call.send_serialized_message
            while True:
                message = outgoing.take()
                if message is None:
                    await arrival.wait()
                else:
                    await write(message)
        except LaneClosed:
            await call.done_writing()


def _pairs(metadata: Mapping[str, str] | None) -> tuple[tuple[str, str], ...] | None:
    return tuple(metadata.items()) if metadata else None


def _status_of(error: grpc.aio.AioRpcError) -> Status:
    code, text = error.code().value[0], error.details() or ""
    outcome = text_metadata(tuple(error.trailing_metadata() or ())).get(OUTCOME_TRAILER)
    if outcome not in (NOT_DONE_OUTCOME, UNKNOWN_OUTCOME):
        outcome = None
    if outcome is None and code == UNAVAILABLE and text.startswith(NOT_SENT_TEXTS):
        outcome = NOT_DONE_OUTCOME
    if code == CANCELLED:
        code, text = UNAVAILABLE, f"the server ended the call ({text})"
    return Status(code, text, outcome)


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
    """A channel to `address` ("host:port"), which connects on first use.

    Leaving closes it and ends the calls that are still running. `isolated`: with a connection of its own;
    else the channels of one process to one address share one.
    """
    channel = await on_loop(_open, address, credentials, options + (ISOLATED if isolated else ()))
    try:
        yield Channel(address, channel)
    finally:
        with trio.CancelScope(shield=True):
            await on_loop(channel.close)
