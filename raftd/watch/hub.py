"""The hub of all watches of one node: which event goes to whom, exactly once and in order.

Every watcher has a `next_revision`: all events of its range below it have been put into its stream's
outbox, none from there on. A watcher that is *synced* sees events as they are committed; one that *lags* (it
asked for the past, or its outbox was full) is served from the history in the store until it has reached the
others. Because what is delivered depends on `next_revision` alone, nothing is lost, doubled or out of order,
wherever the two ways meet (hazard 41).

Synchronous and without a clock: `raftd.watch.feed` reads the store, `raftd.services.watch` writes the
outboxes to the clients. What takes long is a generator, which yields wherever other work may go on.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from raftd.watch.messages import INVALID_WATCH_ID, control_response, event_field, events_response
from raftd.watch.ranges import Group, KeyRange, RangeIndex


class Change(NamedTuple):
    """One event of the history. `with_prev` is None where the previous value was not asked for."""

    revision: int
    key: bytes
    is_delete: bool
    event: bytes
    """A serialized mvccpb.Event."""
    with_prev: bytes | None


@dataclass(frozen=True, slots=True)
class Batch:
    """All changes with first ≤ revision ≤ last, in order. Where `compacted_revision` is above `first`, some
    of them are gone.
    """

    first: int
    last: int
    changes: Sequence[Change]
    compacted_revision: int = -1


@dataclass(frozen=True, slots=True)
class Limits:
    outbox_bytes: int
    """Above it a stream's watchers lag instead of being sent more."""
    fragment_bytes: int
    """Events in one message, where a client asked for fragments."""
    slice_watchers: int
    """After so many deliveries other work may go on."""
    catch_up_watchers: int
    """So many are served from one reading of the history."""


class Outbox:
    """What waits for a stream's writer. `ring` is called when something does."""

    __slots__ = ("_messages", "_ring", "asked_progress", "shown_revision", "size_bytes", "watchers")

    def __init__(self, ring: Callable[[], None]) -> None:
        self._messages: deque[bytes] = deque()
        self._ring = ring
        self.size_bytes = 0
        self.shown_revision = 0
        """No later message of this stream has an older one in its header (hazard 40)."""
        self.asked_progress: int | None = None
        """The revision that the client's last progress request must be answered with, at least."""
        self.watchers: dict[int, Watcher] = {}

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, message: bytes) -> None:
        self._messages.append(message)
        self.size_bytes += len(message)
        if len(self._messages) == 1:
            self._ring()

    def take(self) -> bytes:
        message = self._messages.popleft()
        self.size_bytes -= len(message)
        return message


class Watcher:
    """One watch. It is synced when it has a group in the index, and over when it is not `active`."""

    __slots__ = (
        "active",
        "fragment",
        "group",
        "id",
        "is_quiet",
        "key_range",
        "next_revision",
        "no_delete",
        "no_put",
        "outbox",
        "prev_kv",
        "progress_notify",
    )

    def __init__(
        self,
        outbox: Outbox,
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
        self.outbox = outbox
        self.id = watch_id
        self.key_range = key_range
        self.next_revision = next_revision
        self.no_put = no_put
        self.no_delete = no_delete
        self.prev_kv = prev_kv
        self.fragment = fragment
        self.progress_notify = progress_notify
        self.active = True
        self.is_quiet = True
        """No event since the last periodic progress notification."""
        self.group: Group[Watcher] | None = None

    def wants(self, change: Change) -> bool:
        if change.revision < self.next_revision:
            return False
        return not (self.no_delete if change.is_delete else self.no_put)


class Hub:
    """`revision`: synced watchers are served up to it, or are being served now; `complete_revision`: they
    have been. `applied_revision` and `compacted_revision` tell what the node has applied, which may be a
    little more than what can be read.
    """

    def __init__(
        self,
        revision: int,
        limits: Limits,
        applied_revision: Callable[[], int],
        compacted_revision: Callable[[], int],
    ) -> None:
        self.revision = revision
        self.complete_revision = revision
        self.changed: Callable[[], None] = lambda: None
        """Called when there is something to catch up for, that was not before."""
        self._limits = limits
        self._applied_revision = applied_revision
        self._compacted_revision = compacted_revision
        self._synced: RangeIndex[Watcher] = RangeIndex()
        self._synced_count = 0
        self._lagging: dict[Watcher, None] = {}
        self._asking: dict[Outbox, None] = {}
        self.prev_kv_count = 0
        """Synced watchers that want to see previous values."""

    @property
    def has_synced(self) -> bool:
        return self._synced_count > 0

    @property
    def counts(self) -> tuple[int, int]:
        """Synced and lagging watchers."""
        return self._synced_count, len(self._lagging)

    # Watchers come and go.

    def add(self, watcher: Watcher) -> None:
        """Its `created` reply goes into the outbox before any of its events can."""
        outbox = watcher.outbox
        outbox.watchers[watcher.id] = watcher
        outbox.shown_revision = max(outbox.shown_revision, self._applied_revision())
        outbox.put(control_response(outbox.shown_revision, watcher.id, created=True))
        if watcher.next_revision > self.revision:
            self._sync(watcher)
        else:
            self._lagging[watcher] = None
            self.changed()

    def cancel(self, watcher: Watcher, *, compact_revision: int = 0, reason: str = "") -> None:
        """Ends a watch and says so to its client."""
        self.remove(watcher)
        outbox = watcher.outbox
        outbox.shown_revision = max(outbox.shown_revision, self._applied_revision())
        outbox.put(
            control_response(
                outbox.shown_revision,
                watcher.id,
                canceled=True,
                compact_revision=compact_revision,
                cancel_reason=reason,
            )
        )

    def remove(self, watcher: Watcher) -> None:
        watcher.active = False
        del watcher.outbox.watchers[watcher.id]
        self._unsync(watcher)
        self._lagging.pop(watcher, None)

    def leave(self, outbox: Outbox) -> None:
        """The stream is over, and all its watches."""
        self._asking.pop(outbox, None)
        for watcher in list(outbox.watchers.values()):
            self.remove(watcher)

    def _sync(self, watcher: Watcher) -> None:
        assert watcher.next_revision > self.revision, (watcher.next_revision, self.revision)
        watcher.group = self._synced.add(watcher.key_range, watcher)
        self._synced_count += 1
        self.prev_kv_count += watcher.prev_kv

    def _unsync(self, watcher: Watcher) -> None:
        if watcher.group is not None:
            self._synced.remove(watcher.group, watcher)
            watcher.group = None
            self._synced_count -= 1
            self.prev_kv_count -= watcher.prev_kv

    # Events as they are committed.

    def skip_to(self, revision: int) -> None:
        """With no synced watcher there is nobody to be told of what happened up to `revision`."""
        assert not self.has_synced
        self.revision = self.complete_revision = max(self.revision, revision)
        self._answer_asking()

    def publish(self, batch: Batch) -> Iterator[None]:
        """Serves the synced watchers. To be run to its end before the next one is begun."""
        assert batch.first == self.revision + 1, (batch.first, self.revision)
        self.revision = batch.last
        if batch.compacted_revision > batch.first:
            yield from self._lag_all(batch)
        else:
            groups: dict[Group[Watcher], list[Change]] = {}
            for change in batch.changes:
                for group in self._synced.matching(change.key):
                    groups.setdefault(group, []).append(change)
            for group, changes in groups.items():
                yield from self._deliver(list(group.members), changes, batch.last)
        self.complete_revision = batch.last
        self._answer_asking()

    def _lag_all(self, batch: Batch) -> Iterator[None]:
        """A compaction was quicker than the reading of what it removed: each is told in its turn."""
        for group in self._synced.groups():
            for watcher in list(group.members):
                if watcher.next_revision <= batch.last:
                    self._lag(watcher, max(watcher.next_revision, batch.first))
            yield

    def _lag(self, watcher: Watcher, next_revision: int) -> None:
        self._unsync(watcher)
        watcher.next_revision = next_revision
        self._lagging[watcher] = None
        self.changed()

    # Events from the history.

    def next_catch_up(self) -> "CatchUp | None":
        """Those lagging watchers whose outbox has room, and what to read for them."""
        chosen = []
        for watcher in self._lagging:
            if watcher.outbox.size_bytes < self._limits.outbox_bytes:
                chosen.append(watcher)
                if len(chosen) == self._limits.catch_up_watchers:
                    break
        if not chosen:
            return None
        first = min(watcher.next_revision for watcher in chosen)
        return CatchUp(first, self.revision, any(watcher.prev_kv for watcher in chosen), chosen)

    def caught_up(self, catch_up: "CatchUp", batch: Batch) -> Iterator[None]:
        """Serves the chosen ones what was read; those that have reached the others are synced again."""
        compacted_revision = max(batch.compacted_revision, self._compacted_revision())
        index: RangeIndex[Watcher] = RangeIndex()
        for watcher in catch_up.watchers:
            if not self._is_lagging(watcher) or watcher.next_revision > batch.last:
                continue
            if watcher.next_revision < compacted_revision:
                self.cancel(watcher, compact_revision=compacted_revision)
            else:
                index.add(watcher.key_range, watcher)
        yield
        groups: dict[Group[Watcher], list[Change]] = {}
        for change in batch.changes:
            for group in index.matching(change.key):
                groups.setdefault(group, []).append(change)
        stuck: set[Watcher] = set()
        for group, changes in groups.items():
            yield from self._deliver(list(group.members), changes, batch.last, stuck)
        for watcher in catch_up.watchers:
            if not self._is_lagging(watcher) or watcher in stuck:
                continue
            watcher.next_revision = max(watcher.next_revision, batch.last + 1)
            del self._lagging[watcher]
            if watcher.next_revision > self.revision:
                self._sync(watcher)
            else:  # to the end of the queue
                self._lagging[watcher] = None
        self._answer_asking()

    def _is_lagging(self, watcher: Watcher) -> bool:
        return watcher in self._lagging

    # Delivery.

    def _deliver(
        self, watchers: Iterable[Watcher], changes: list[Change], last: int, stuck: set[Watcher] | None = None
    ) -> Iterator[None]:
        """`stuck` takes those that had no room, when they lag already."""
        shared: dict[tuple[bool, bool, bool, bool, int], list[bytes]] = {}
        for number, watcher in enumerate(watchers):
            if number % self._limits.slice_watchers == self._limits.slice_watchers - 1:
                yield
            if not watcher.active or (stuck is None and watcher.group is None):
                continue
            begin = watcher.next_revision if watcher.next_revision > changes[0].revision else 0
            variant = (watcher.no_put, watcher.no_delete, watcher.prev_kv, watcher.fragment, begin)
            parts = shared.get(variant)
            if parts is None:
                parts = shared[variant] = self._parts(watcher, changes)
            if not parts:
                continue
            if watcher.outbox.size_bytes >= self._limits.outbox_bytes or (
                watcher.prev_kv and any(change.with_prev is None for change in changes)
            ):
                revision = next(change.revision for change in changes if watcher.wants(change))
                if stuck is None:
                    self._lag(watcher, revision)
                else:
                    watcher.next_revision = revision
                    stuck.add(watcher)
                continue
            self._send(watcher, parts, last)

    def _parts(self, watcher: Watcher, changes: Iterable[Change]) -> list[bytes]:
        """The events that the watcher wants, one blob for each message."""
        parts: list[bytes] = []
        part: list[bytes] = []
        size_bytes = 0
        for change in changes:
            if not watcher.wants(change):
                continue
            event = event_field(change.with_prev or change.event if watcher.prev_kv else change.event)
            if part and watcher.fragment and size_bytes + len(event) > self._limits.fragment_bytes:
                parts.append(b"".join(part))
                part, size_bytes = [], 0
            part.append(event)
            size_bytes += len(event)
        if part:
            parts.append(b"".join(part))
        return parts

    def _send(self, watcher: Watcher, parts: Sequence[bytes], last: int) -> None:
        outbox = watcher.outbox
        outbox.shown_revision = max(outbox.shown_revision, last)
        for number, part in enumerate(parts, 1):
            more = number < len(parts)
            outbox.put(events_response(outbox.shown_revision, watcher.id, part, more=more))
        watcher.next_revision = last + 1
        watcher.is_quiet = False

    # Progress.

    def ask_progress(self, outbox: Outbox) -> None:
        """Answered at once, or when all watchers of the stream have been shown all that there is now."""
        outbox.asked_progress = max(self._applied_revision(), outbox.shown_revision)
        self._asking[outbox] = None
        self._answer_asking()

    def notify_progress(self, outbox: Outbox) -> None:
        """The periodic kind: to each watcher that asked for it and has seen no event since the last one."""
        for watcher in outbox.watchers.values():
            if watcher.progress_notify and watcher.group is not None:
                if watcher.is_quiet and self.complete_revision >= outbox.shown_revision:
                    outbox.shown_revision = self.complete_revision
                    outbox.put(control_response(self.complete_revision, watcher.id))
                watcher.is_quiet = True

    def _answer_asking(self) -> None:
        for outbox in list(self._asking):
            assert outbox.asked_progress is not None
            if self.complete_revision < max(outbox.asked_progress, outbox.shown_revision):
                continue
            if self.complete_revision < self.revision:
                return  # in the midst of `publish`
            if any(watcher.group is None for watcher in outbox.watchers.values()):
                continue
            del self._asking[outbox]
            outbox.asked_progress = None
            outbox.shown_revision = self.complete_revision
            outbox.put(control_response(self.complete_revision, INVALID_WATCH_ID))


@dataclass(frozen=True, slots=True)
class CatchUp:
    """What to read of the history, and for whom."""

    first: int
    last: int
    wants_prev: bool
    watchers: Sequence[Watcher]
