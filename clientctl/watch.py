"""One watch as its reader has it: an async iterator over events that goes on over every loss of a server.

It keeps what has come and not been read, within bounds. `clientctl.watch_stream` brings the answers; this
module knows nothing of streams.
"""

from collections import deque
from enum import Enum, auto
from types import TracebackType
from typing import Protocol, Self

import trio

from clientctl.config import WatchLimits
from clientctl.watch_position import WatchPosition
from proto.kv_pb2 import Event
from proto.rpc_pb2 import WatchCreateRequest, WatchResponse


class Stage(Enum):
    """Where a watch is in its life."""

    NEW = auto()
    # Waits to be created on the stream there is, or on the next one.
    WANTED = auto()
    CREATING = auto()
    LIVE = auto()
    # Left the server because its reader lags; wanted again once that one has caught up.
    RESTING = auto()
    OVER = auto()


class WatchStream(Protocol):
    """What a watch needs of the stream that it shares with others."""

    def add(self, watch: "Watch") -> None:
        """Create the watch, and again after each loss."""

    def resume(self, watch: "Watch") -> None:
        """Its reader has caught up: create it again."""

    def drop(self, watch: "Watch") -> None:
        """Nobody wants it any more."""

    def ask_progress(self) -> None:
        """Ask the server how far it is; lost with the stream."""


class Watch:
    """Made by `Client.watch`. Iterate over it for events, or call `receive` for whole answers.

    `async with` returns when the server has begun to watch, and ends the watch when left. Without it, the
    first step of the iteration begins it, and `close` or the end of the client ends it. One task reads.
    Raises `Compacted`, `WatchCanceled` or `NotDone`; what had come before is returned first.
    """

    def __init__(self, stream: WatchStream, request: WatchCreateRequest, limits: WatchLimits) -> None:
        # Its name on the present stream; a new one for each creation.
        self.id = 0
        self.stage = Stage.NEW
        self.position = WatchPosition(request)
        # Answers in a row by which the server cancelled it.
        self.cancellations = 0
        # The revision at which a server first began to watch; 0 before.
        self.created_revision = 0
        self._stream = stream
        self._limits = limits
        self._responses: deque[WatchResponse] = deque()
        self._waiting_events = 0
        self._waiting_bytes = 0
        self._events: deque[Event] = deque()
        self._error: Exception | None = None
        self._arrival = trio.Event()

    async def __aenter__(self) -> Self:
        self._begin()
        try:
            while not self.created_revision and self._error is None:
                await self._wait()
        except BaseException:
            self.close()
            raise
        if self._error is not None and not self.created_revision:
            raise self._error
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self._events:
            self._events.extend((await self.receive()).events)
        return self._events.popleft()

    async def receive(self) -> WatchResponse:
        """The next answer: the events of one or more whole revisions, or, without any, a notice that there
        was nothing to see up to its header's revision."""
        self._begin()
        await trio.lowlevel.checkpoint()
        while not self._responses:
            if self.stage is Stage.RESTING:
                self._stream.resume(self)
            if self._error is not None:
                raise self._error
            await self._wait()
        response = self._responses.popleft()
        self._waiting_events -= len(response.events)
        self._waiting_bytes -= response.ByteSize()
        return response

    def request_progress(self) -> None:
        """Ask how far the server is: `receive` will return an answer without events, unless the connection
        is lost before. All watches of the client get it."""
        self._begin()
        self._stream.ask_progress()

    def close(self) -> None:
        """End the watch. What has not been read is gone."""
        if self.stage is not Stage.OVER:
            self._stream.drop(self)
        self._responses.clear()
        self._events.clear()
        self.end(trio.ClosedResourceError())

    # For the stream

    def take(self, response: WatchResponse) -> bool:
        """An answer has come; False when there is now more than may wait."""
        news = self.position.take(response)
        if news is not None:
            self.cancellations = 0
            self._responses.append(news)
            self._waiting_events += len(news.events)
            self._waiting_bytes += news.ByteSize()
            self._arrival.set()
        limits = self._limits
        # What tells of no event costs an event too: a reader may ask for progress and never look.
        waiting = max(self._waiting_events, len(self._responses))
        return waiting <= limits.waiting_events_max and self._waiting_bytes <= limits.waiting_bytes_max

    def created(self, revision: int) -> None:
        """A server has begun to watch."""
        self.position.created(revision)
        self.stage = Stage.LIVE
        self.created_revision = self.created_revision or max(revision, 1)
        self._arrival.set()

    def end(self, error: Exception) -> None:
        """Nothing more will come, because of `error`."""
        self.stage = Stage.OVER
        self._error = self._error or error
        self._arrival.set()

    def _begin(self) -> None:
        if self.stage is Stage.NEW:
            self._stream.add(self)

    async def _wait(self) -> None:
        await self._arrival.wait()
        self._arrival = trio.Event()
