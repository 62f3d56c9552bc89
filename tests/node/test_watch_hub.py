"""The hub: every event to each watcher that wants it, once and in order, whatever happens meanwhile."""

import random
from collections.abc import Iterator, Sequence

import pytest

from proto import kv_pb2, rpc_pb2
from raftd.watch.hub import Batch, Change, Hub, Limits, Outbox, Watcher
from raftd.watch.ranges import key_range

LIMITS = Limits(outbox_bytes=400, fragment_bytes=100, slice_watchers=2, catch_up_watchers=3)


def change(revision: int, key: bytes, *, delete: bool = False, value: bytes = b"v") -> Change:
    kind = kv_pb2.Event.DELETE if delete else kv_pb2.Event.PUT
    key_value = kv_pb2.KeyValue(key=key, mod_revision=revision, value=b"" if delete else value)
    event = kv_pb2.Event(type=kind, kv=key_value)
    with_prev = kv_pb2.Event(type=kind, kv=key_value, prev_kv=kv_pb2.KeyValue(key=key, value=b"old"))
    return Change(revision, key, delete, event.SerializeToString(), with_prev.SerializeToString())


class Bench:
    """A hub, the history it would read, and the clients of its outboxes."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.history: list[Change] = []
        self.revision = 1
        self.compacted_revision = -1
        self.hub = Hub(1, limits, lambda: self.revision, lambda: self.compacted_revision)

    def write(self, *keys: bytes, delete: bool = False) -> None:
        self.revision += 1
        self.history += [change(self.revision, key, delete=delete) for key in keys]

    def read(self, first: int, last: int, *, prev: bool = True) -> Batch:
        changes = [
            found if prev else found._replace(with_prev=None)
            for found in self.history
            if first <= found.revision <= last and found.revision >= self.compacted_revision
        ]
        return Batch(first, last, changes, self.compacted_revision)

    def publish(self) -> Iterator[None]:
        first = self.hub.revision + 1
        return self.hub.publish(self.read(first, self.revision, prev=self.hub.prev_kv_count > 0))

    def publish_all(self) -> None:
        if self.hub.revision < self.revision:
            for _ in self.publish():
                pass

    def catch_up(self) -> bool:
        wanted = self.hub.next_catch_up()
        if wanted is None:
            return False
        for _ in self.hub.caught_up(wanted, self.read(wanted.first, wanted.last, prev=wanted.wants_prev)):
            pass
        return True

    def catch_up_all(self) -> None:
        while self.catch_up():
            pass


class Client:
    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.rings = 0
        self.outbox = Outbox(self.ring)
        self.replies: list[rpc_pb2.WatchResponse] = []

    def ring(self) -> None:
        self.rings += 1

    def watch(
        self,
        key: bytes,
        range_end: bytes = b"",
        start: int = 0,
        watch_id: int = 0,
        *,
        no_put: bool = False,
        no_delete: bool = False,
        prev_kv: bool = False,
        fragment: bool = False,
        progress_notify: bool = False,
    ) -> Watcher:
        watcher = Watcher(
            self.outbox,
            watch_id,
            key_range(key, range_end),
            start or self.bench.revision + 1,
            no_put=no_put,
            no_delete=no_delete,
            prev_kv=prev_kv,
            fragment=fragment,
            progress_notify=progress_notify,
        )
        self.bench.hub.add(watcher)
        return watcher

    def receive(self, count: int = 1_000_000) -> list[rpc_pb2.WatchResponse]:
        """What the stream's writer takes now."""
        taken: list[rpc_pb2.WatchResponse] = []
        while len(self.outbox) and len(taken) < count:
            taken.append(rpc_pb2.WatchResponse.FromString(self.outbox.take()))
        self.replies += taken
        return taken

    def events(self, watch_id: int = 0) -> list[tuple[int, bytes]]:
        self.receive()
        return events_of(self.replies, watch_id)


def events_of(replies: Sequence[rpc_pb2.WatchResponse], watch_id: int) -> list[tuple[int, bytes]]:
    return [
        (event.kv.mod_revision, event.kv.key)
        for reply in replies
        if reply.watch_id == watch_id
        for event in reply.events
    ]


def test_created_comes_first_and_events_follow() -> None:
    bench = Bench()
    client = Client(bench)
    client.watch(b"k")
    bench.write(b"k")
    bench.write(b"other")
    bench.publish_all()
    created, event = client.receive()
    assert created.created
    assert created.header.revision == 1
    assert event.header.revision == 3
    assert [(found.kv.mod_revision, found.kv.key) for found in event.events] == [(2, b"k")]


def test_from_now_means_after_what_this_node_has_applied() -> None:
    """Hazard 41: a client that has seen its put acknowledged does not see it again as news."""
    bench = Bench()
    bench.write(b"k")  # applied, not yet published
    client = Client(bench)
    client.watch(b"k")
    bench.publish_all()
    bench.write(b"k")
    bench.publish_all()
    assert client.events() == [(3, b"k")]


def test_a_watcher_of_the_past_gets_the_history_first() -> None:
    bench = Bench()
    for key in (b"a", b"b", b"a"):
        bench.write(key)
    bench.hub.skip_to(bench.revision)
    client = Client(bench)
    client.watch(b"a", start=2)
    bench.write(b"a")
    bench.publish_all()
    bench.catch_up_all()
    bench.write(b"a")
    bench.publish_all()
    assert client.events() == [(2, b"a"), (4, b"a"), (5, b"a"), (6, b"a")]
    assert bench.hub.counts == (1, 0)


def test_a_watcher_of_the_future_waits_for_it() -> None:
    """Hazard 41 (future revision)."""
    bench = Bench()
    client = Client(bench)
    client.watch(b"k", start=4)
    for _ in range(4):
        bench.write(b"k")
        bench.publish_all()
    assert client.events() == [(4, b"k"), (5, b"k")]


def test_a_revision_is_never_split() -> None:
    bench = Bench(Limits(10_000, 10, 2, 3))
    client = Client(bench)
    client.watch(b"a", b"z")
    bench.write(*(b"k%d" % number for number in range(20)))
    bench.publish_all()
    _, event = client.receive()
    assert len(event.events) == 20


def test_fragments_when_they_are_asked_for() -> None:
    bench = Bench(Limits(10_000, 60, 2, 3))
    client = Client(bench)
    client.watch(b"a", b"z", fragment=True)
    bench.write(*(b"k%d" % number for number in range(6)))
    bench.publish_all()
    _, *parts = client.receive()
    assert len(parts) > 1
    assert [part.fragment for part in parts] == [True] * (len(parts) - 1) + [False]
    assert [event.kv.key for part in parts for event in part.events] == [b"k%d" % n for n in range(6)]


def test_filters_and_previous_values() -> None:
    bench = Bench()
    puts, deletes, plain = Client(bench), Client(bench), Client(bench)
    puts.watch(b"k", no_delete=True, prev_kv=True)
    deletes.watch(b"k", no_put=True)
    plain.watch(b"k")
    bench.write(b"k")
    bench.write(b"k", delete=True)
    bench.publish_all()
    assert puts.events() == [(2, b"k")]
    assert puts.replies[-1].events[0].prev_kv.value == b"old"
    assert deletes.events() == [(3, b"k")]
    assert plain.events() == [(2, b"k"), (3, b"k")]
    assert not plain.replies[-1].events[0].HasField("prev_kv")


def test_a_slow_watcher_is_bounded_and_slows_nobody() -> None:
    """Hazards 41 and 93."""
    bench = Bench()
    slow, quick = Client(bench), Client(bench)
    slow.watch(b"k")
    quick.watch(b"k")
    for _ in range(100):
        bench.write(b"k")
        bench.publish_all()
        bench.catch_up_all()
        quick.receive()
    assert slow.outbox.size_bytes < LIMITS.outbox_bytes + 100
    assert bench.hub.counts == (1, 1)
    assert quick.events() == [(revision, b"k") for revision in range(2, 102)]
    while slow.receive(1) or bench.catch_up():
        pass
    assert slow.events() == quick.events()
    assert bench.hub.counts == (2, 0)


def test_a_slow_watcher_that_a_compaction_overtakes_is_cancelled() -> None:
    """Hazard 41 (compaction)."""
    bench = Bench()
    client = Client(bench)
    client.watch(b"k", watch_id=5)
    for _ in range(100):
        bench.write(b"k")
        bench.publish_all()
    bench.compacted_revision = 90
    client.receive()
    bench.catch_up_all()
    (reply,) = client.receive()
    assert (reply.canceled, reply.compact_revision, reply.watch_id) == (True, 90, 5)
    assert not client.outbox.watchers
    assert bench.hub.counts == (0, 0)


@pytest.mark.parametrize(("start", "canceled"), [(2, True), (4, True), (5, False)])
def test_what_is_kept_can_be_watched(start: int, canceled: bool) -> None:
    bench = Bench()
    for _ in range(6):
        bench.write(b"k")
    bench.hub.skip_to(bench.revision)
    bench.compacted_revision = 5
    client = Client(bench)
    client.watch(b"k", start=start)
    bench.catch_up_all()
    replies = client.receive()
    assert replies[0].created
    assert not replies[0].canceled
    assert replies[1].canceled == canceled
    assert replies[1].compact_revision == (5 if canceled else 0)


def test_a_compaction_ahead_of_the_reading_is_told_to_all() -> None:
    """Hazard 41: what was not read before it was removed is never passed over in silence."""
    bench = Bench()
    client = Client(bench)
    client.watch(b"k")
    bench.write(b"k")
    bench.write(b"k")
    bench.compacted_revision = 3
    bench.publish_all()
    bench.catch_up_all()
    _created, canceled = client.receive()
    assert canceled.canceled
    assert canceled.compact_revision == 3


def test_a_watcher_that_wants_previous_values_gets_them_though_they_were_not_read() -> None:
    bench = Bench()
    client = Client(bench)
    client.watch(b"k")
    bench.write(b"k")
    publishing = bench.hub.publish(bench.read(2, 2, prev=False))
    client.watch(b"k", start=2, watch_id=1, prev_kv=True)
    for _ in publishing:
        pass
    bench.catch_up_all()
    assert client.events(1) == [(2, b"k")]
    assert client.replies[-1].events[0].prev_kv.value == b"old"


def test_progress_is_told_when_all_watchers_of_the_stream_are_synced() -> None:
    bench = Bench()
    bench.write(b"a")
    bench.hub.skip_to(2)
    client = Client(bench)
    client.watch(b"a", start=2)
    bench.hub.ask_progress(client.outbox)
    assert [reply.watch_id for reply in client.receive()] == [0]
    bench.catch_up_all()
    event, progress = client.receive()
    assert event.events
    assert not progress.events
    assert (progress.watch_id, progress.header.revision) == (-1, 2)


def test_progress_does_not_overtake_events_that_are_being_delivered() -> None:
    """Hazards 40 and 41."""
    bench = Bench()
    clients = [Client(bench) for _ in range(7)]
    for client in clients:
        client.watch(b"k")
    bench.write(b"k")
    for _ in bench.publish():
        for client in clients:
            bench.hub.ask_progress(client.outbox)
    for client in clients:
        _, event, progress = client.receive()
        assert event.events
        assert progress.watch_id == -1
        assert progress.header.revision == 2


def test_periodic_progress_for_quiet_watchers_alone() -> None:
    bench = Bench()
    client = Client(bench)
    client.watch(b"a", watch_id=1, progress_notify=True)
    client.watch(b"b", watch_id=2, progress_notify=True)
    client.watch(b"c", watch_id=3)
    bench.write(b"b")
    bench.publish_all()
    client.receive()
    bench.hub.notify_progress(client.outbox)
    assert [(reply.watch_id, reply.header.revision) for reply in client.receive()] == [(1, 2)]
    bench.hub.notify_progress(client.outbox)
    assert [reply.watch_id for reply in client.receive()] == [1, 2]


def test_a_stream_that_leaves_leaves_nothing() -> None:
    bench = Bench()
    client = Client(bench)
    client.watch(b"a", watch_id=1, prev_kv=True)
    client.watch(b"a", watch_id=2, start=1)
    bench.hub.ask_progress(client.outbox)
    bench.write(b"a")
    publishing = bench.publish()
    bench.hub.leave(client.outbox)
    for _ in publishing:
        pass
    assert bench.hub.counts == (0, 0)
    assert bench.hub.prev_kv_count == 0


@pytest.mark.parametrize("seed", range(40))
def test_nothing_is_lost_doubled_or_out_of_order(seed: int) -> None:
    """Hazard 41: watchers that come, lag, catch up and leave at any moment, also in the midst of a delivery;
    each has seen exactly the history of its range from its start on.
    """
    dice = random.Random(seed)
    bench = Bench(Limits(dice.choice([50, 400]), 60, dice.choice([1, 3]), dice.choice([1, 3])))
    clients = [Client(bench) for _ in range(4)]
    watched: dict[tuple[Client, int], tuple[bytes, bytes, int]] = {}
    running: list[Iterator[None]] = []

    def come_or_receive() -> None:
        client = dice.choice(clients)
        if dice.random() < 0.3:
            start = dice.choice([0, dice.randrange(1, bench.revision + 4)])
            watch_id = len(watched)
            key, range_end = dice.choice([(b"a", b""), (b"b", b"d"), (b"\x00", b"\x00"), (b"c", b"")])
            watched[client, watch_id] = (key, range_end, start or bench.revision + 1)
            client.watch(key, range_end, start, watch_id, prev_kv=dice.random() < 0.3, fragment=True)
        else:
            client.receive(dice.randrange(4))

    for _ in range(400):
        match dice.randrange(4):
            case 0:
                bench.write(*dice.sample([b"a", b"b", b"c", b"d"], dice.randrange(1, 4)))
            case 1 if not running and bench.hub.revision < bench.revision:
                running.append(bench.publish())
            case 2:
                bench.catch_up()
            case _:
                come_or_receive()
        if running and next(running[0], running) is running:
            running.pop()
    for publishing in running:
        for _ in publishing:
            pass
    bench.publish_all()
    while bench.catch_up() or any(client.receive() for client in clients):
        pass
    for (client, watch_id), (key, range_end, start) in watched.items():
        low, high = key_range(key, range_end)
        expected = [
            (found.revision, found.key)
            for found in bench.history
            if found.revision >= start and low <= found.key and (high is None or found.key < high)
        ]
        assert client.events(watch_id) == expected, (watch_id, start)
    for client in clients:
        shown = [reply.header.revision for reply in client.replies]
        assert shown == sorted(shown)
