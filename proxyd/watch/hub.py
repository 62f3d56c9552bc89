"""All watches of proxyd's clients and the feeds that serve them; what the store's revision is; progress.

`proxyd.watch.stream` brings the clients' watches, `proxyd.watch.upstream` the events. A feed is there as long
as a watch takes part in it or is about to.
"""

import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import trio

from proto import errors
from proto.rpc_pb2 import RangeRequest
from proto.turns import Turns
from proxyd import config
from proxyd.node_link import NodeLink
from proxyd.reads import Connection, Read, Reads, revision_of
from proxyd.table import LeaderTable
from proxyd.watch.feed import ClientWatch, Feed, Kept, KeyRange
from proxyd.watch.upstream import Sources, Upstream

_ANY_READ = RangeRequest(key=b"\0").SerializeToString()
"""For the revision in the header of its reply."""


class Asker(Protocol):
    """A client's stream that has asked for progress."""

    def progressed(self, revision: int) -> bool:
        """All feeds have given everything up to `revision`; False to be told again a little later."""

    def notify_due(self) -> bool:
        """The time for periodic notifications has come; whether there is anybody to notify."""


class Hub:
    """`known_revision` is the highest committed revision that proxyd has heard of; it never goes back."""

    def __init__(
        self,
        table: LeaderTable,
        reads: Reads,
        links: Mapping[str, NodeLink],
        caught_up: Callable[[], Awaitable[None]],
    ) -> None:
        self.sources = Sources(table, links)
        self.upstream = Upstream(self.sources, self._compacted, self._progressed)
        self.turns = Turns(config.WATCH_SENDS_PER_TURN, caught_up)
        self.catch_up_limit = trio.CapacityLimiter(config.MAX_CATCH_UPS)
        self.outbox_bytes = 0
        """Of all clients' streams."""
        self.watches = 0
        self.catch_ups = 0
        self.streams: dict[Asker, None] = {}
        self._table = table
        self._reads = reads
        self._feeds: dict[KeyRange, Feed] = {}
        self._kept = Kept()
        self._heard_revision = 0
        self._reached_revision = 0
        self._asking: dict[Asker, None] = {}
        self._asked_now: dict[Asker, None] = {}
        self._asked = trio.Event()
        self._answered = trio.Event()

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.upstream.run)
            nursery.start_soon(self.turns.run)
            nursery.start_soon(self._ask_progress)
            nursery.start_soon(self._notify)

    # Revisions.

    @property
    def known_revision(self) -> int:
        self._heard_revision = max(self._heard_revision, self._table.revision)
        return self._heard_revision

    def heard(self, revision: int) -> None:
        self._heard_revision = max(self._heard_revision, revision)

    async def current_revision(self) -> int:
        """The store's revision, not older than this call; while no leader is known, the highest known one.

        Either will do for a watch from now on: what is committed later has a higher revision.
        """
        if self._table.leader is not None:
            read = Read(
                request=_ANY_READ,
                txn=False,
                serializable=False,
                min_revision=0,
                deadline=trio.current_time() + config.WATCH_NOW_TIMEOUT_S,
                connection=Connection(),
            )
            result = await self._reads.execute(read)
            if result.code == errors.OK:
                self.heard(revision_of(result.body))
        return self.known_revision

    # Watches.

    @property
    def feeds(self) -> int:
        return len(self._feeds)

    def has_room(self, key_range: KeyRange) -> bool:
        """Whether one more watch of this range may be taken."""
        if self.watches >= config.MAX_WATCHES:
            return False
        return key_range in self._feeds or len(self._feeds) < config.MAX_FEEDS

    def attach(self, watch: ClientWatch) -> Feed | None:
        """Joins the watch to the feed of its range (it may be paused at once); or returns the feed, when it
        has to catch up first (`proxyd.watch.catch_up`), and then `not_expected` must follow."""
        feed = self._feed_for(watch)
        if watch.next_revision < feed.first_kept:
            feed.expected += 1
            return feed
        feed.join(watch)
        self._drop_if_unwanted(feed)
        return None

    def not_expected(self, feed: Feed) -> None:
        """A catch-up towards this feed has ended, in one way or another."""
        feed.expected -= 1
        self._drop_if_unwanted(feed)

    def detach(self, watch: ClientWatch) -> None:
        """The watch takes part in its feed no more."""
        feed = watch.feed
        if feed is not None:
            feed.leave(watch)
            self._drop_if_unwanted(feed)

    def _feed_for(self, watch: ClientWatch) -> Feed:
        feed = self._feeds.get(watch.key_range)
        if feed is None:
            start = self.known_revision + 1
            if start - watch.next_revision <= config.WATCH_RECENT_REVISIONS:
                start = min(start, watch.next_revision)
            feed = Feed(watch.key_range, start, self._kept, prev_kv=watch.prev_kv)
            self._feeds[watch.key_range] = feed
            self.upstream.add(feed)
        elif watch.prev_kv and not feed.prev_kv:
            feed.start_prev_kv()
            self.upstream.renew(feed)
        return feed

    def _drop_if_unwanted(self, feed: Feed) -> None:
        if not feed.is_wanted and self._feeds.get(feed.key_range) is feed:
            del self._feeds[feed.key_range]
            feed.drop_kept()
            self.upstream.remove(feed)

    def _compacted(self, feed: Feed, compact_revision: int) -> None:
        feed.compacted(compact_revision)
        self._drop_if_unwanted(feed)

    # Progress.

    def ask_progress(self, asker: Asker) -> None:
        """`asker.progressed` is called with an answer that was asked for after this call."""
        self._asking[asker] = None
        self._asked.set()

    def leave(self, asker: Asker) -> None:
        """The stream is over."""
        self._asking.pop(asker, None)
        self._asked_now.pop(asker, None)
        self.streams.pop(asker, None)

    def _progressed(self, revision: int) -> None:
        self.heard(revision)
        self._reached_revision = max(self._reached_revision, revision)
        asked, self._asked_now = self._asked_now, {}
        for asker in asked:
            if not asker.progressed(revision):
                self._asking[asker] = None
        self._answered.set()

    async def _ask_progress(self) -> None:
        """Asks when a client does, and now and then for the feeds themselves."""
        while True:
            self._asked = trio.Event()
            if not (self._asking or self._asked_now):
                with trio.move_on_after(config.WATCH_PROGRESS_S):
                    await self._asked.wait()
            self._drop_unwanted()
            self._asked_now, self._asking = {**self._asked_now, **self._asking}, {}
            if not self._feeds:  # then nobody that asked has a watch to be told of
                self._asked_now = {}
            elif self._asked_now or self.known_revision > self._reached_revision:
                await self._ask_once()

    async def _ask_once(self) -> None:
        self._answered = trio.Event()
        self.upstream.ask_progress()
        with trio.move_on_after(config.WATCH_PROGRESS_TIMEOUT_S):
            await self._answered.wait()
        if self._asking:
            await trio.sleep(config.WATCH_PROGRESS_RETRY_S * random.uniform(*config.REDIAL_JITTER))

    def _drop_unwanted(self) -> None:
        for feed in [feed for feed in self._feeds.values() if not feed.is_wanted]:
            self._drop_if_unwanted(feed)

    async def _notify(self) -> None:
        while True:
            await trio.sleep(config.WATCH_NOTIFY_S * random.uniform(*config.WATCH_NOTIFY_JITTER))
            for stream in list(self.streams):
                if stream.notify_due():
                    self.ask_progress(stream)
