"""All watches of a client on one Watch stream, and on the next one when that is lost.

It asks each server for what each watch has not seen yet. It does not know who reads.
"""

from collections import deque

import trio

from clientctl.config import WatchLimits
from clientctl.errors import Compacted, InvalidRequest, WatchCanceled, not_done
from clientctl.lifetime import CLOSED
from clientctl.link import WATCH, Link
from clientctl.shared_link import SharedLink
from clientctl.watch import Stage, Watch
from clientctl.watch_position import ALL_WATCHES
from proto import errors
from proto.errors import Status
from proto.limits import REQUEST_BYTES_MAX
from proto.rpc_pb2 import (
    WatchCancelRequest,
    WatchCreateRequest,
    WatchProgressRequest,
    WatchRequest,
    WatchResponse,
)
from proto.stream import MessageStream, StreamEnded

# A server that has lost its leader ends the stream then, instead of falling silent.
_METADATA = {"hasleader": "true"}

# With these a server refuses watches as such: another try would not help.
_REFUSALS = frozenset({errors.UNIMPLEMENTED, errors.PERMISSION_DENIED, errors.UNAUTHENTICATED})


class WatchStreams:
    """`run` is its one task; `make` gives watches that it serves."""

    def __init__(self, link: SharedLink, limits: WatchLimits) -> None:
        self._link = link
        self._limits = limits
        # An ordered set.
        self._watches: dict[Watch, None] = {}
        # Both in the order in which they are to be sent.
        self._wanted: dict[Watch, None] = {}
        self._requests: deque[WatchRequest] = deque()
        # By id on the stream. Ids are never used twice: what still comes under an old one means nothing.
        # Servers answer creations in their order.
        self._creating: dict[int, Watch] = {}
        self._live: dict[int, Watch] = {}
        self._last_id = 0
        self._progress_wanted = False
        self._closed = False
        self._work = trio.Event()

    def make(self, request: WatchCreateRequest) -> Watch:
        """A watch for what `request` says, not begun yet."""
        if request.ByteSize() > REQUEST_BYTES_MAX:
            # It would end the stream, and with it all the others, again and again.
            raise InvalidRequest(*errors.REQUEST_TOO_LARGE)
        return Watch(self, request, self._limits)

    async def run(self) -> None:
        """Serve the watches, until cancelled."""
        try:
            while True:
                while not self._watches:
                    await self._work.wait()
                    self._work = trio.Event()
                await self._serve()
        finally:
            self._closed = True
            self._end_all(trio.ClosedResourceError(CLOSED))

    async def _serve(self) -> None:
        """Over one connection."""
        link = await self._link.get()
        try:
            error = await self._use(link)
        finally:
            self._lost()
        self._link.failed(link, error)
        if error.code in _REFUSALS:
            self._end_all(not_done(error.code, error.text))
        elif self._link.hopeless:
            text = f"no connection: {self._link.last_error}"
            for watch in [watch for watch in self._watches if not watch.created_revision]:
                self._end(watch, not_done(errors.UNAVAILABLE, text))

    # For watches

    def add(self, watch: Watch) -> None:
        if self._closed:
            watch.end(trio.ClosedResourceError(CLOSED))
            return
        if len(self._watches) >= self._limits.watches_max:
            watch.end(not_done(errors.RESOURCE_EXHAUSTED, "clientctl: too many watches"))
            return
        self._watches[watch] = None
        self._want(watch)

    def resume(self, watch: Watch) -> None:
        self._want(watch)

    def drop(self, watch: Watch) -> None:
        self._watches.pop(watch, None)
        self._wanted.pop(watch, None)
        if watch.stage is Stage.LIVE:
            self._leave(watch)

    def ask_progress(self) -> None:
        self._progress_wanted = True
        self._work.set()

    # On one stream

    async def _use(self, link: Link) -> Status:
        """Serve the watches on one stream; returns why that ended."""
        try:
            async with (
                link.stream(WATCH["Watch"], metadata=_METADATA) as stream,
                trio.open_nursery() as tasks,
            ):
                tasks.start_soon(self._send, stream)
                end = await self._receive(stream)
                tasks.cancel_scope.cancel()
            return end
        except Status as error:
            return error

    async def _send(self, stream: MessageStream) -> None:
        try:
            while True:
                self._work = trio.Event()
                while (request := self._next_request()) is not None:
                    await stream.send(request)
                await self._work.wait()
        except (StreamEnded, Status):
            # The receiver meets the same end, after all that has arrived before it.
            return

    def _next_request(self) -> WatchRequest | None:
        # Cancellations first: they make room at the server.
        if self._requests:
            return self._requests.popleft()
        if self._progress_wanted and not self._wanted and not self._creating:
            # The answer is for the watches that there are by then.
            self._progress_wanted = False
            return WatchRequest(progress_request=WatchProgressRequest())
        if not self._wanted or len(self._creating) >= self._limits.creations_max:
            return None
        watch = next(iter(self._wanted))
        del self._wanted[watch]
        watch.stage = Stage.CREATING
        self._last_id += 1
        watch.id = self._last_id
        self._creating[watch.id] = watch
        return WatchRequest(create_request=watch.position.create_request(watch.id))

    async def _receive(self, stream: MessageStream) -> Status:
        try:
            while True:
                for response in await stream.receive_all():
                    # Not for creations: a server that answers them and then goes away is not to be asked
                    # again and again without a pause.
                    if response.events:
                        self._link.served()
                    self._dispatch(response)
                # A stream that always has more must not keep the readers from their events.
                await trio.lowlevel.checkpoint()
        except StreamEnded:
            return Status(errors.UNAVAILABLE, "the stream of watches has ended")
        except Status as error:
            return error

    def _dispatch(self, response: WatchResponse) -> None:
        if response.created or (response.canceled and response.watch_id == ALL_WATCHES):
            self._created(response)
        elif response.watch_id == ALL_WATCHES:
            for watch in list(self._live.values()):
                self._take(watch, response)
        elif (live := self._live.get(response.watch_id)) is None:
            # It was left, and the server did not know yet.
            return
        elif response.canceled:
            self._canceled(live, response)
        else:
            self._take(live, response)

    def _take(self, watch: Watch, response: WatchResponse) -> None:
        if not watch.take(response):
            self._leave(watch)
            watch.position.lost()
            watch.stage = Stage.RESTING

    def _created(self, response: WatchResponse) -> None:
        # A creation that failed names no watch, and an old server gives ids of its own: it is the oldest.
        asked = response.watch_id if response.watch_id in self._creating else next(iter(self._creating), 0)
        watch = self._creating.pop(asked, None)
        self._work.set()
        if watch is None:
            return
        if not response.canceled:
            watch.id = response.watch_id
            self._live[watch.id] = watch
            if watch in self._watches:
                watch.created(response.header.revision)
            else:
                # It was closed before it was there.
                self._leave(watch)
        elif response.compact_revision:
            self._end(watch, Compacted(response.compact_revision))
        else:
            reason = response.cancel_reason or "the server refuses the watch"
            self._end(watch, WatchCanceled(errors.CANCELLED, reason))

    def _canceled(self, watch: Watch, response: WatchResponse) -> None:
        """The server gives a watch up. Unless it is for want of history, it may come back."""
        del self._live[watch.id]
        watch.cancellations += 1
        if response.compact_revision:
            self._end(watch, Compacted(response.compact_revision))
        elif watch.cancellations > self._limits.cancellations_max:
            reason = response.cancel_reason or errors.WATCH_CANCELED[1]
            self._end(watch, WatchCanceled(errors.CANCELLED, reason))
        else:
            watch.position.lost()
            self._want(watch)

    # Bookkeeping

    def _want(self, watch: Watch) -> None:
        watch.stage = Stage.WANTED
        self._wanted[watch] = None
        self._work.set()

    def _leave(self, watch: Watch) -> None:
        """Have the server forget a watch."""
        del self._live[watch.id]
        self._requests.append(WatchRequest(cancel_request=WatchCancelRequest(watch_id=watch.id)))
        self._work.set()

    def _lost(self) -> None:
        """The stream is gone, and with it all that the server knew."""
        self._requests.clear()
        self._progress_wanted = False
        self._creating.clear()
        self._live.clear()
        self._wanted.clear()
        for watch in self._watches:
            watch.position.lost()
            if watch.stage is not Stage.RESTING:
                self._want(watch)

    def _end(self, watch: Watch, error: Exception) -> None:
        self._watches.pop(watch, None)
        self._wanted.pop(watch, None)
        watch.end(error)

    def _end_all(self, error: Exception) -> None:
        for watch in list(self._watches):
            self._end(watch, error)
