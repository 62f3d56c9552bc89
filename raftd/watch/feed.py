"""Where the hub's events come from: the store's history, read on worker threads.

Two tasks. One reads what has just been committed and publishes it to the synced watchers; the other serves
those that lag, at their own pace, and never holds up the first. Only what is in a committed transaction is
read, so what a watcher has seen survives every crash. Runs in the node's process for as long as it serves.
"""

from collections import deque
from collections.abc import Iterator
from typing import Protocol

import trio

from raftd import config
from raftd.core.messages import Entry
from raftd.kv.command import Kind, encode_command
from raftd.kv.events import Compacted, previous, read_events
from raftd.kv.state import State
from raftd.kv.transaction import Reader
from raftd.store import ReadTransaction, Store
from raftd.watch.hub import Batch, Change, Hub, Limits

LIMITS = Limits(
    outbox_bytes=config.WATCH_OUTBOX_BYTES,
    fragment_bytes=config.WATCH_FRAGMENT_BYTES,
    slice_watchers=config.WATCH_SLICE_WATCHERS,
    catch_up_watchers=config.WATCH_CATCH_UP_WATCHERS,
)

COMPACT_MARK = encode_command(Kind.COMPACT, 0, 0, b"")[:2]
"""How a command begins that compacts: so an entry without these bytes compacts nothing."""


class Committing(Protocol):
    """The node, as far as it matters here."""

    revision: int
    compacted_revision: int
    durable_revision: int
    revision_committed: trio.Event
    """Set, and replaced, when `durable_revision` has grown."""


class Feed:
    def __init__(self, node: Committing, store: Store) -> None:
        self.hub = Hub(node.durable_revision, LIMITS, lambda: node.revision, lambda: node.compacted_revision)
        self._node = node
        self._store = store
        self._lagging = trio.Event()
        self._kept: deque[Batch] = deque()
        """Added to by the writer's thread, taken from by Trio's."""
        self._kept_through = 0
        """Of the writer's thread."""
        self.hub.changed = self.room_made

    def keep_before(self, transaction: Reader, entry: Entry) -> None:
        """Called on the writer's thread before an entry is applied. What a compaction is about to remove, and
        the synced watchers have not been shown yet, is read while it is there: it is not their fault that the
        reading takes its time.
        """
        if COMPACT_MARK not in entry.payload or not self.hub.has_synced:
            return
        first = max(self.hub.revision, self._kept_through) + 1
        while first <= (last := State.load(transaction).revision):
            batch = read_batch(transaction, first, last, wants_prev=True)
            if batch.compacted_revision > first or len(self._kept) == config.MAX_KEPT_BATCHES:
                return
            self._kept.append(batch)
            self._kept_through = batch.last
            first = batch.last + 1

    def room_made(self) -> None:
        """A watcher lags, or the outbox of one that does has room again."""
        self._lagging.set()

    async def run(self) -> None:
        """Until cancelled. Raises what the store raises: then the node must stop."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._publish)
            nursery.start_soon(self._catch_up)

    async def _publish(self) -> None:
        hub = self.hub
        limiter = trio.CapacityLimiter(1)
        while True:
            committed = self._node.revision_committed
            last = self._node.durable_revision
            if hub.revision >= last:
                await committed.wait()
            elif not hub.has_synced:
                hub.skip_to(last)
            else:
                wants_prev = hub.prev_kv_count > 0
                batch = await trio.to_thread.run_sync(
                    self._read, hub.revision + 1, last, wants_prev, limiter=limiter
                )
                await _in_slices(hub.publish(self._or_kept(batch)))

    def _or_kept(self, batch: Batch) -> Batch:
        """Instead of what a compaction was quicker to remove: what was kept of it, if it was."""
        while self._kept and self._kept[0].last < batch.first:
            self._kept.popleft()
        if batch.compacted_revision <= batch.first or not self._kept or self._kept[0].first > batch.first:
            return batch
        kept = self._kept.popleft()
        changes = [change for change in kept.changes if change.revision >= batch.first]
        return Batch(batch.first, kept.last, changes)

    async def _catch_up(self) -> None:
        limiter = trio.CapacityLimiter(1)
        while True:
            await self._lagging.wait()
            self._lagging = trio.Event()
            while (wanted := self.hub.next_catch_up()) is not None:
                batch = await trio.to_thread.run_sync(
                    self._read, wanted.first, wanted.last, wanted.wants_prev, limiter=limiter
                )
                await _in_slices(self.hub.caught_up(wanted, batch))

    def _read(self, first: int, last: int, wants_prev: bool) -> Batch:
        with self._store.read() as reader:
            return read_batch(reader, first, last, wants_prev)


def read_batch(reader: ReadTransaction | Reader, first: int, last: int, wants_prev: bool) -> Batch:
    """The events from `first` on, whole revisions, up to `last` or to the bound on bytes."""
    changes: list[Change] = []
    size_bytes = 0
    try:
        found = read_events(reader, first, last)
    except Compacted as compacted:
        return Batch(first, last, (), compacted.revision)
    for revision, events in found:
        for event in events:
            with_prev = None
            key_value = event.kv
            encoded = event.SerializeToString()
            if wants_prev:
                before = previous(reader, event)
                if before is not None:
                    event.prev_kv.CopyFrom(before)
                with_prev = event.SerializeToString()
                size_bytes += len(with_prev)
            changes.append(Change(revision, key_value.key, event.type == event.DELETE, encoded, with_prev))
            size_bytes += len(encoded) + config.WATCH_CHANGE_OVERHEAD_BYTES
        if size_bytes >= config.WATCH_READ_BYTES:
            return Batch(first, revision, changes)
    return Batch(first, last, changes)


async def _in_slices(work: Iterator[None]) -> None:
    for _ in work:
        await trio.lowlevel.checkpoint()
