"""The Trio side of a call: what a server's handler is given, and what a client's stream is.

All of it runs on the Trio thread, except `Call()`, `open_lanes` and `Stream.finish`. Knows nothing of grpc or
asyncio: `proto.bridge` gives it the wake-ups of its lanes and takes the verdict.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import trio
from google.protobuf.message import DecodeError

from proto.errors import CANCELLED, DEADLINE_EXCEEDED, INTERNAL, UNKNOWN, Status
from proto.lane import Inbox, Lane, LaneClosed
from proto.service import Handler, Method
from proto.stream import StreamEnded

Metadata = Sequence[tuple[str, str | bytes]]
LogFailure = Callable[[str, BaseException], None]
"""Called with a method's path and the unexpected exception of its handler."""

OUTCOME_TRAILER: Final = "outcome"
"""Trailer that carries `Status.outcome`."""

NOT_SENT_TEXTS: Final = ("failed to connect to all addresses", "errors resolving ")
"""How the texts begin with which grpc itself fails a call, UNAVAILABLE, before it has sent anything."""

_TRAILER = re.compile(r"[a-z0-9_.-]*[a-z0-9_.](?<!-bin)")


class EndOfRequests(StreamEnded):
    """The end of the requests of one particular call, so that a handler may let it pass."""

    def __init__(self, call: "Call") -> None:
        super().__init__()
        self.call = call


class LaneStream:
    """A `MessageStream` on two lanes, one for each direction."""

    _arrival: trio.lowlevel.ParkingLot
    _room: trio.lowlevel.ParkingLot
    incoming: Lane
    outgoing: Lane

    def __init__(self, encode: Callable[[Any], bytes], decode: Callable[[bytes], Any]) -> None:
        self._encode, self._decode = encode, decode

    def open_lanes(
        self, to_trio: Inbox, wake_grpc_reader: Callable[[], object], wake_grpc_writer: Callable[[], object]
    ) -> None:
        """Called once, before anything else, but not for a unary call, which must not pay for it."""
        self._arrival = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()
        self.incoming = Lane(lambda: to_trio.post(self._arrival.unpark_all), wake_grpc_writer)
        self.outgoing = Lane(wake_grpc_reader, lambda: to_trio.post(self._room.unpark_all))

    async def receive_all(self) -> list[Any]:
        """See `MessageStream`. Does not yield to other tasks when messages are waiting."""
        await trio.lowlevel.checkpoint_if_cancelled()
        while True:
            try:
                messages = self.incoming.take_all()
            except LaneClosed:
                raise self._end() from None
            if messages:
                return decoded(self._decode, messages)
            await self._arrival.park()

    async def send(self, message: Any) -> None:
        """See `MessageStream`. Does not yield to other tasks when there is room."""
        await trio.lowlevel.checkpoint_if_cancelled()
        encoded = self._encode(message)
        try:
            while not self.outgoing.offer(encoded, will_wait=True):
                await self._room.park()
        except LaneClosed:
            raise self._end() from None

    def offer(self, message: Any) -> bool:
        """See `MessageStream`."""
        try:
            return self.outgoing.offer(self._encode(message))
        except LaneClosed:
            raise self._end() from None

    def _end(self) -> Exception:
        raise NotImplementedError


class Call(LaneStream):
    """A call that a handler serves, and its stream of messages where it has one.

    `deadline` is on Trio's clock (inf when the client gave none); when it passes, or the client leaves, or
    the server stops, the handler is cancelled. `peer` is the client's address ("ipv4:127.0.0.1:1234").
    `identity` is what TLS knows of the client, by grpc's names ("x509_common_name", ...); empty without TLS.
    """

    def __init__(
        self,
        method: Method,
        metadata: Metadata,
        remaining_s: float | None,
        peer: str,
        identity: Mapping[str, Sequence[bytes]],
    ) -> None:
        super().__init__(method.encode_reply, method.decode_request)
        self.method = method
        self.peer = peer
        self.identity = identity
        self.deadline = float("inf")
        self.trailing_metadata: dict[str, str] = {}
        self.reply: bytes | None = None
        self.status: Status | None = None
        self._remaining_s = remaining_s
        self._received_metadata = metadata
        self._metadata: Mapping[str, str] | None = None
        self._scope = trio.CancelScope(shield=True)
        self._ended_by: Status | None = None

    @property
    def metadata(self) -> Mapping[str, str]:
        """The client's metadata. Of repeated keys the first counts; binary ones (`-bin`) are left out."""
        if self._metadata is None:
            self._metadata = text_metadata(self._received_metadata)
        return self._metadata

    def set_trailing_metadata(self, metadata: Mapping[str, str]) -> None:
        """Send these with the call's status. Keys are lower case and not binary, values printable ASCII."""
        for key, value in metadata.items():
            assert _TRAILER.fullmatch(key), f"not a metadata key: {key!r}"
            assert re.fullmatch("[ -~]*", value), f"not a metadata value: {value!r}"
        self.trailing_metadata.update(metadata)

    def start_clock(self) -> None:
        """Put the deadline on Trio's clock."""
        if self._remaining_s is not None:
            self.deadline = trio.current_time() + self._remaining_s
            self._scope.deadline = self.deadline

    def end(self, status: Status) -> None:
        """Cancel the handler; the call ends with `status`. Nothing happens if it has ended already."""
        if self._ended_by is None:
            self._ended_by = status
            self._scope.cancel()

    async def answer(self, handler: Handler, request: bytes | None, log_failure: LogFailure) -> None:
        """Run `handler` to its end and leave its verdict in `reply` or `status`. Never raises an Exception.

        The call's own scope is shielded: a server that is cancelled decides itself when its calls end.
        """
        self.status = Status(UNKNOWN, "the handler ended abnormally")
        try:
            with self._scope:
                arguments = () if request is None else decoded(self._decode, [request])
                result = await handler(*arguments, self)
                self.reply = None if self.method.server_streaming else self._encode(result)
            self.status = self._why_cancelled() if self._scope.cancelled_caught else None
        except Exception as error:
            self.status = self._verdict(error, log_failure)

    def _verdict(self, error: Exception, log_failure: LogFailure) -> Status | None:
        # A handler with a nursery of its own raises groups.
        while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
            error = error.exceptions[0]
        if isinstance(error, Status) and 0 < error.code <= 16:
            return error
        if isinstance(error, EndOfRequests) and error.call is self and self.method.server_streaming:
            return None
        log_failure(self.method.path, error)
        return Status(UNKNOWN, f"unexpected {type(error).__name__} in the server, see its log")

    def _why_cancelled(self) -> Status:
        if self._ended_by is not None:
            return self._ended_by
        # Remaining time arrives rounded up, but our clock may still fire just before grpc's.
        if trio.current_time() >= self.deadline:
            return Status(DEADLINE_EXCEEDED, "context deadline exceeded")
        return Status(CANCELLED, "the call was cancelled")

    def _end(self) -> Exception:
        return EndOfRequests(self)


class Stream(LaneStream):
    """The client's end of a streaming call; `Channel.stream` yields it."""

    metadata: Mapping[str, str] = {}

    def __init__(self, method: Method) -> None:
        super().__init__(method.encode_request, method.decode_reply)
        self.trailing_metadata: Mapping[str, str] = {}
        self._over = False
        self._error: Status | None = None

    def close_sending(self) -> None:
        """Nothing more will be sent; what waits still goes out, and the server may go on answering."""
        self.outgoing.close()

    def finish(self, error: Status | None, trailing_metadata: Mapping[str, str]) -> None:
        """The call is over; called by the bridge, in its own thread."""
        self._over, self._error, self.trailing_metadata = True, error, trailing_metadata
        # In this order: whoever has received the end can no longer send.
        self.outgoing.close(discard=True)
        self.incoming.close()

    def _end(self) -> Exception:
        assert self._over, "message sent after close_sending()"
        error = self._error
        return StreamEnded() if error is None else Status(error.code, error.text, error.outcome)


def decoded(decode: Callable[[bytes], Any], messages: list[bytes]) -> list[Any]:
    """The messages as objects. Raises `Status` INTERNAL if one is malformed, as all of gRPC does."""
    try:
        return [decode(message) for message in messages]
    except DecodeError:
        raise Status(INTERNAL, "the message cannot be decoded") from None


def text_metadata(metadata: Metadata) -> dict[str, str]:
    """Metadata as a mapping: the first of repeated keys, none of the binary ones."""
    return {key: value for key, value in reversed(metadata) if isinstance(value, str)}
