"""The one stream to a node on which all feeds are watched; when it ends, all go on at another node.

A follower in good standing is preferred, so that the leader's time is left for writes. On a new stream each
feed begins at its own `next_revision`, wherever the former one broke off: clients notice nothing but the
delay.
"""

import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import trio

from proto.errors import Status
from proto.rpc_pb2 import WatchCreateRequest, WatchRequest, WatchResponse
from proto.stream import MessageStream, StreamEnded
from proxyd.dial import WATCH
from proxyd.node_link import NodeLink, redial_pause_s
from proxyd.table import LeaderTable, NodeView
from proxyd.watch.events import INVALID_WATCH_ID
from proxyd.watch.feed import Feed


class Sources:
    """Which node serves watches."""

    def __init__(self, table: LeaderTable, links: Mapping[str, NodeLink]) -> None:
        self._table = table
        self._links = links

    def choose(self, besides: str = "") -> NodeView | None:
        """One of the best, not that at the address `besides` unless there is no other."""
        views = self._connected()
        if not views:
            return None
        others = [view for view in views if view.address != besides]
        best = min(self._rank(view) for view in others or views)
        return random.choice([view for view in others or views if self._rank(view) == best])

    def is_outdone(self, address: str) -> bool:
        """Whether another node would serve better than the one at this address."""
        views = self._connected()
        mine = [self._rank(view) for view in views if view.address == address]
        best = min((self._rank(view) for view in views if view.address != address), default=3)
        return best < (mine[0] if mine else 3)

    async def wait_change(self) -> None:
        await self._table.wait_change()

    async def use(self, view: NodeView, drive: Callable[[MessageStream], Awaitable[None]]) -> None:
        """Drives a watch stream to the node until `drive` returns, the stream ends, or another node serves
        better."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._leave_when_outdone, view.address, nursery.cancel_scope)
            with suppress(Status, StreamEnded, OSError):
                async with self._links[view.address].stream(WATCH) as stream:
                    await drive(stream)
            nursery.cancel_scope.cancel()

    async def _leave_when_outdone(self, address: str, scope: trio.CancelScope) -> None:
        while not self.is_outdone(address):
            await self._table.wait_change()
        scope.cancel()

    def _connected(self) -> list[NodeView]:
        return [
            view
            for view in self._table.live_nodes()
            if view.address in self._links and self._links[view.address].connected
        ]

    def _rank(self, view: NodeView) -> int:
        leader = self._table.leader
        if not self._table.healthy(view, trio.current_time()):
            return 2
        if leader is None:
            return 0
        if view.member_id == leader.member_id:
            return 1
        # One that does not hear the leader may stand still for long, however lively it is otherwise.
        return 0 if view.leader == leader.member_id else 2


class Upstream:
    """`compacted` is called for a feed whose next events are gone, `progressed` with a revision up to which
    all feeds on the stream have been given everything."""

    def __init__(
        self,
        sources: Sources,
        compacted: Callable[[Feed, int], None],
        progressed: Callable[[int], None],
    ) -> None:
        self._sources = sources
        self._compacted = compacted
        self._progressed = progressed
        self._feeds: dict[Feed, None] = {}
        self._to_create: dict[Feed, None] = {}
        self._to_cancel: dict[int, None] = {}
        self._ask_progress = False
        self._by_id: dict[int, Feed] = {}
        self._last_id = 0
        self._work = trio.Event()
        self.resumptions = 0

    def add(self, feed: Feed) -> None:
        self._feeds[feed] = None
        self._to_create[feed] = None
        self._work.set()

    def remove(self, feed: Feed) -> None:
        del self._feeds[feed]
        self._to_create.pop(feed, None)
        self._stop(feed)

    def renew(self, feed: Feed) -> None:
        """Watches it anew, from its next revision, as it now is."""
        self._stop(feed)
        self._to_create[feed] = None
        self._work.set()

    def ask_progress(self) -> None:
        self._ask_progress = True
        self._work.set()

    async def run(self) -> None:
        """Until cancelled."""
        failed = ""
        while True:
            while not self._feeds:
                self._work = trio.Event()
                await self._work.wait()
            view = self._sources.choose(besides=failed)
            if view is None:
                with trio.move_on_after(redial_pause_s()):
                    await self._sources.wait_change()
                continue
            if view.address == failed:
                await trio.sleep(redial_pause_s())
            await self._sources.use(view, self._drive)
            failed = "" if self._sources.is_outdone(view.address) else view.address
            self.resumptions += 1

    async def _drive(self, stream: MessageStream) -> None:
        self._begin()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._send, stream)
            with suppress(Status, StreamEnded):
                await self._receive(stream)
            nursery.cancel_scope.cancel()

    def _begin(self) -> None:
        self._by_id.clear()
        self._to_cancel.clear()
        self._to_create = dict(self._feeds)
        for feed in self._feeds:
            feed.confirmed = False

    # Out.

    async def _send(self, stream: MessageStream) -> None:
        # When the stream fails here, the receiver meets the same end.
        with suppress(StreamEnded, Status):
            while True:
                self._work = trio.Event()
                request = self._next_request()
                if request is None:
                    await self._work.wait()
                else:
                    await stream.send(request)

    def _next_request(self) -> WatchRequest | None:
        if self._to_cancel:
            watch_id = next(iter(self._to_cancel))
            del self._to_cancel[watch_id]
            request = WatchRequest()
            request.cancel_request.watch_id = watch_id
            return request
        if self._to_create:
            feed = next(iter(self._to_create))
            del self._to_create[feed]
            return self._create(feed)
        if self._ask_progress:
            self._ask_progress = False
            request = WatchRequest()
            request.progress_request.SetInParent()
            return request
        return None

    def _create(self, feed: Feed) -> WatchRequest:
        # Never a number that was used before: what is still on its way for the old one must not be taken.
        self._last_id += 1
        feed.upstream_id = self._last_id
        self._by_id[feed.upstream_id] = feed
        key, range_end = feed.key_range
        return WatchRequest(
            create_request=WatchCreateRequest(
                key=key,
                range_end=range_end,
                start_revision=feed.next_revision,
                prev_kv=feed.prev_kv,
                watch_id=feed.upstream_id,
            )
        )

    def _stop(self, feed: Feed) -> None:
        if self._by_id.pop(feed.upstream_id, None) is not None:
            feed.confirmed = False
            self._to_cancel[feed.upstream_id] = None
            self._work.set()

    # In.

    async def _receive(self, stream: MessageStream) -> None:
        """Until the stream ends (raises), or the node does not keep its side."""
        while True:
            for response in await stream.receive_all():
                if not self._take(response):
                    return
                # Clients' writers run in between, and so does everything else.
                await trio.lowlevel.checkpoint()

    def _take(self, response: WatchResponse) -> bool:
        if response.watch_id == INVALID_WATCH_ID:
            if response.canceled:
                return False  # it refused to create one of ours
            for feed in self._by_id.values():
                if feed.confirmed:
                    feed.reached(response.header.revision)
            self._progressed(response.header.revision)
            return True
        served = self._by_id.get(response.watch_id)
        if served is not None:
            self._take_for(served, response)
        return True

    def _take_for(self, feed: Feed, response: WatchResponse) -> None:
        if response.canceled:
            self._stop(feed)
            del self._to_cancel[response.watch_id]
            if response.compact_revision:
                self._compacted(feed, response.compact_revision)
            if feed in self._feeds:
                self.renew(feed)
        elif response.created:
            feed.confirmed = True
        elif response.events:
            feed.take(response.events)
