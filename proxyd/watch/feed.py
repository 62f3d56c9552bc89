"""One range as it is watched at a node, and those of our clients' watches that have reached it.

Every watch has a `next_revision`: it has been shown all events of its range below that, and none from there
on. What is delivered depends on this number alone, so nothing is lost, doubled or out of order, whichever
node the events come from and wherever the ways by which they come meet (hazards 40, 41). No I/O, no clock.
"""

from collections import deque
from collections.abc import Sequence
from typing import Protocol

import trio

from proto.kv_pb2 import Event
from proxyd import config
from proxyd.watch.events import EventBatch

KeyRange = tuple[bytes, bytes]
"""etcd's key and range_end; no key has become the least one."""


class Sink(Protocol):
    """The stream of a client, as its watches see it."""

    @property
    def has_room(self) -> bool:
        """Whether it takes events now."""

    def put_events(self, watch: "ClientWatch", encoded: Sequence[bytes], last: int) -> None:
        """The events of revisions up to `last` that are for this watch."""

    def paused(self, watch: "ClientWatch") -> None:
        """There was no room for the watch's next events. It is on no feed; the sink attaches it again."""

    def compacted(self, watch: "ClientWatch", compact_revision: int) -> None:
        """Events that the watch has not seen are gone: it is over."""


class ClientWatch:
    """One watch of one client. `feed` is set while it takes part in one; `scope` ends its catch-up."""

    __slots__ = (
        "feed",
        "fragment",
        "id",
        "is_quiet",
        "key_range",
        "next_revision",
        "no_delete",
        "no_put",
        "prev_kv",
        "progress_notify",
        "scope",
        "sink",
    )

    def __init__(
        self,
        sink: Sink,
        watch_id: int,
        key_range: KeyRange,
        next_revision: int,
        *,
        no_put: bool = False,
        no_delete: bool = False,
        prev_kv: bool = False,
        fragment: bool = False,
        progress_notify: bool = False,
    ) -> None:
        self.sink = sink
        self.id = watch_id
        self.key_range = key_range
        self.next_revision = next_revision
        self.no_put = no_put
        self.no_delete = no_delete
        self.prev_kv = prev_kv
        self.fragment = fragment
        self.progress_notify = progress_notify
        self.is_quiet = True
        """No event since the last periodic progress notification."""
        self.feed: Feed | None = None
        self.scope: trio.CancelScope | None = None

    def deliver(self, batch: EventBatch) -> bool:
        """Shows what it has not seen; False when the client has no room, and then nothing has changed."""
        if batch.last < self.next_revision:
            return True
        encoded = batch.encoded(
            self.next_revision, no_put=self.no_put, no_delete=self.no_delete, prev_kv=self.prev_kv
        )
        if encoded:
            if not self.sink.has_room:
                return False
            self.is_quiet = False
            self.sink.put_events(self, encoded, batch.last)
        self.next_revision = batch.last + 1
        return True


class Kept:
    """Bytes of events that all feeds together keep."""

    def __init__(self) -> None:
        self.size_bytes = 0


class Feed:
    """`members` have been shown everything below `next_revision`, or below their own when that is higher.

    `_recent` holds all events with first_kept ≤ revision < next_revision, so that a watch which comes a
    little late needs nothing else. `expected` counts catch-ups that will end here.
    """

    def __init__(self, key_range: KeyRange, next_revision: int, kept: Kept, *, prev_kv: bool) -> None:
        self.key_range = key_range
        self.next_revision = next_revision
        self.first_kept = next_revision
        self.prev_kv = prev_kv
        self.upstream_id = 0
        """Its number on the stream to the node that serves it now; 0 while there is none."""
        self.confirmed = False
        """The node has said that it watches the feed; from then on its word on progress is about it too."""
        self.members: dict[ClientWatch, None] = {}
        self.expected = 0
        self._recent: deque[EventBatch] = deque()
        self._recent_bytes = 0
        self._kept = kept

    @property
    def is_wanted(self) -> bool:
        return bool(self.members) or self.expected > 0

    def join(self, watch: ClientWatch) -> None:
        """Takes in a watch that needs nothing older than what is kept; it may be paused at once."""
        assert watch.next_revision >= self.first_kept, (watch.next_revision, self.first_kept)
        for batch in self._recent:
            if not watch.deliver(batch):
                watch.sink.paused(watch)
                return
        self.members[watch] = None
        watch.feed = self

    def leave(self, watch: ClientWatch) -> None:
        del self.members[watch]
        watch.feed = None
        watch.next_revision = max(watch.next_revision, self.next_revision)

    def take(self, events: Sequence[Event]) -> None:
        """Events from a node, in order and whole revisions; those that were there before are passed over."""
        if events and events[0].kv.mod_revision < self.next_revision:
            events = [event for event in events if event.kv.mod_revision >= self.next_revision]
        if not events:
            return
        batch = EventBatch(events)
        for watch in list(self.members):
            if watch.feed is self and not watch.deliver(batch):
                self.leave(watch)
                watch.sink.paused(watch)
        batch.forget_encoded()
        self.next_revision = batch.last + 1
        self._keep(batch)

    def reached(self, revision: int) -> None:
        """There is no event that was not taken, up to this revision."""
        self.next_revision = max(self.next_revision, revision + 1)

    def start_prev_kv(self) -> None:
        """From here on with previous values. What is kept has none, and cannot serve who wants them."""
        self.prev_kv = True
        self.drop_kept()

    def compacted(self, compact_revision: int) -> None:
        """Its next events are gone. Members that have seen more, or asked for less, go on."""
        for watch in list(self.members):
            if max(watch.next_revision, self.next_revision) < compact_revision:
                self.leave(watch)
                watch.sink.compacted(watch, compact_revision)
        self.next_revision = max(self.next_revision, compact_revision)
        self.drop_kept()

    def drop_kept(self) -> None:
        self._recent.clear()
        self._kept.size_bytes -= self._recent_bytes
        self._recent_bytes = 0
        self.first_kept = self.next_revision

    def _keep(self, batch: EventBatch) -> None:
        self._recent.append(batch)
        self._recent_bytes += batch.size_bytes
        self._kept.size_bytes += batch.size_bytes
        if self._kept.size_bytes > config.WATCH_ALL_KEPT_BYTES:
            self.drop_kept()
        while len(self._recent) > config.WATCH_KEPT_BATCHES or self._recent_bytes > config.WATCH_KEPT_BYTES:
            dropped = self._recent.popleft()
            self._recent_bytes -= dropped.size_bytes
            self._kept.size_bytes -= dropped.size_bytes
            self.first_kept = dropped.last + 1
