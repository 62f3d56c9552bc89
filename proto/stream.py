"""A two-way stream of messages as node, proxy and client see it, and an in-memory pair of them.

Knows nothing of grpc or asyncio. The real streams are a server's `Call` and a client's `Stream`; logic that
is written against `MessageStream` runs in tests on `in_memory_pair()` under Trio's autojump clock.
"""

from collections.abc import Mapping
from typing import Any, Protocol

import trio

from proto.errors import Status
from proto.options import STREAM_MESSAGES


class StreamEnded(Exception):
    """The other side has ended the stream without an error, or seems to have.

    A cancelled or expired call may look the same (grpc reports the end of requests first), so this proves
    nothing: whatever must be complete carries its own end mark.
    """


class MessageStream(Protocol):
    """One end of a two-way stream. Any number of tasks may send; one task at a time receives."""

    @property
    def metadata(self) -> Mapping[str, str]:
        """What the other side sent along when it opened the stream; empty on the side that opened it."""

    async def receive_all(self) -> list[Any]:
        """All that has arrived, in order, at least one message; waits for the first.

        Raises `StreamEnded` or, when the call failed, `Status`; in both cases after everything that had
        arrived before was returned.
        """

    async def send(self, message: Any) -> None:
        """Queue `message`, waiting while the queue is full.

        Raises `StreamEnded` or `Status` once the call is over.
        """

    def offer(self, message: Any) -> bool:
        """Queue `message` if there is room and say whether there was; never waits. Raises as `send` does."""


class InMemoryStream:
    """A `MessageStream` whose other end is in the same process. Messages are passed on, not copied."""

    def __init__(self, metadata: Mapping[str, str], message_limit: int) -> None:
        self.metadata: Mapping[str, str] = dict(metadata)
        self.other: InMemoryStream
        self._message_limit = message_limit
        self._arrived: list[Any] = []
        self._arrival = trio.lowlevel.ParkingLot()
        self._room = trio.lowlevel.ParkingLot()
        self._half_closed = False
        self._over = False
        self._error: Status | None = None

    async def receive_all(self) -> list[Any]:
        await trio.lowlevel.checkpoint()
        while not self._arrived:
            if self._half_closed or self._over:
                raise self._end()
            await self._arrival.park()
        messages, self._arrived = self._arrived, []
        self._room.unpark_all()
        return messages

    async def send(self, message: Any) -> None:
        await trio.lowlevel.checkpoint()
        while not self.offer(message):
            await self.other._room.park()

    def offer(self, message: Any) -> bool:
        if self._over:
            raise self._end()
        other = self.other
        assert not other._half_closed, "message sent after close_sending()"
        if len(other._arrived) >= self._message_limit:
            return False
        other._arrived.append(message)
        other._arrival.unpark_all()
        return True

    def close_sending(self) -> None:
        """Nothing more will be sent from here; the other end may still send."""
        self.other._half_closed = True
        self.other._arrival.unpark_all()

    def close(self, error: Status | None = None) -> None:
        """End the stream for both ends: cleanly, or as a call that failed with `error`."""
        for end in (self, self.other):
            if not end._over:
                end._over, end._error = True, error
                end._arrival.unpark_all()
                end._room.unpark_all()

    def _end(self) -> Exception:
        error = self._error
        return StreamEnded() if error is None else Status(error.code, error.text, error.outcome)


def in_memory_pair(
    metadata: Mapping[str, str] | None = None, *, message_limit: int = STREAM_MESSAGES
) -> tuple[InMemoryStream, InMemoryStream]:
    """The two ends of one stream: first the one that opened it (with `metadata`), then the one that answers.

    `message_limit` bounds what may wait in each direction.
    """
    opener, answerer = InMemoryStream({}, message_limit), InMemoryStream(metadata or {}, message_limit)
    opener.other, answerer.other = answerer, opener
    return opener, answerer
