"""Watches through the proxy: shared at the node, resumed over failures, never back in time."""

from collections.abc import Sequence

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from proto.kv_pb2 import Event, KeyValue
from proto.rpc_pb2 import WatchCreateRequest, WatchResponse
from proxyd import config
from proxyd.watch.feed import ClientWatch, Feed, Kept
from tests.proxyd.conftest import Setting
from tests.proxyd.fake_nodes import FakeNode
from tests.proxyd.watching import WatchClient


def serving(setting: Setting) -> list[FakeNode]:
    """The nodes that have a watch stream of the proxy."""
    return [node for node in setting.cluster.nodes.values() if node.watching.streams]


def creates(setting: Setting) -> list[WatchCreateRequest]:
    return [create for node in setting.cluster.nodes.values() for create in node.watching.creates]


async def test_many_clients_share_one_watch_at_a_follower(
    autojump_clock: MockClock, setting: Setting
) -> None:
    clients = [WatchClient(setting) for _ in range(20)]
    for client in clients:
        await client.create(b"a", b"b")
    revision = setting.cluster.write(b"a1")
    for client in clients:
        await client.until_revision(revision)
    assert len(creates(setting)) == 1
    assert [node.member_id in (2, 3) for node in serving(setting)] == [True]


async def test_distinct_ranges_share_one_stream(autojump_clock: MockClock, setting: Setting) -> None:
    client = WatchClient(setting)
    for number in range(10):
        await client.create(b"k%d" % number)
    revision = setting.cluster.write(b"k7")
    await client.until_revision(revision, watch_id=7)
    assert len(creates(setting)) == 10
    assert [len(node.watching.streams) for node in serving(setting)] == [1]


async def test_the_last_client_to_leave_ends_the_watch(autojump_clock: MockClock, setting: Setting) -> None:
    first, second = WatchClient(setting), WatchClient(setting)
    await first.create(b"a")
    await second.create(b"a")
    await wait_all_tasks_blocked()
    first.leave()
    await wait_all_tasks_blocked()
    assert [len(stream.watches) for node in serving(setting) for stream in node.watching.streams] == [1]
    await second.cancel(0)
    await second.until(lambda: second.canceled)
    await wait_all_tasks_blocked()
    assert [len(stream.watches) for node in serving(setting) for stream in node.watching.streams] == [0]
    assert setting.proxy.hub.watches == 0


async def test_filters_are_each_clients_own(autojump_clock: MockClock, setting: Setting) -> None:
    plain, no_put, no_delete = (WatchClient(setting) for _ in range(3))
    await plain.create(b"a")
    await no_put.create(b"a", filters=[WatchCreateRequest.NOPUT])
    await no_delete.create(b"a", filters=[WatchCreateRequest.NODELETE])
    put, erased = setting.cluster.write(b"a"), setting.cluster.erase(b"a")
    await plain.until_revision(erased)
    assert plain.revisions() == [put, erased]
    assert no_put.revisions() == [erased]
    assert no_delete.revisions() == [put]
    assert len(creates(setting)) == 1


async def test_previous_values_only_to_those_who_asked(autojump_clock: MockClock, setting: Setting) -> None:
    """One who asks later than the others changes nothing for them, and nobody misses anything."""
    plain, previous = WatchClient(setting), WatchClient(setting)
    await plain.create(b"a")
    setting.cluster.write(b"a", b"1")
    await previous.create(b"a", prev_kv=True)
    revision = setting.cluster.write(b"a", b"2")
    await previous.until_revision(revision)
    await plain.until_revision(revision)
    assert [event.prev_kv.value for event in previous.events()] == [b"1"]
    assert not any(event.HasField("prev_kv") for event in plain.events())
    assert plain.revisions() == [revision - 1, revision]


async def test_the_past_comes_first_and_then_the_shared_watch(
    autojump_clock: MockClock, setting: Setting
) -> None:
    revisions = [setting.cluster.write(b"a", b"%d" % number) for number in range(50)]
    setting.cluster.revision += config.WATCH_RECENT_REVISIONS
    setting.cluster.write(b"elsewhere")
    await trio.sleep(0.2)  # until the table has heard
    live, past = WatchClient(setting), WatchClient(setting)
    await live.create(b"a")
    await past.create(b"a", start_revision=revisions[10])
    await past.until_revision(revisions[-1])
    await setting.until(lambda: len(setting.proxy.hub._feeds[b"a", b""].members) == 2)
    revision = setting.cluster.write(b"a")
    await past.until_revision(revision)
    await live.until_revision(revision)
    assert past.revisions() == [*revisions[10:], revision]
    assert live.revisions() == [revision]
    await wait_all_tasks_blocked()
    assert sum(len(node.watching.streams) for node in serving(setting)) == 1


async def test_a_catch_up_meets_the_feed_while_events_come(
    autojump_clock: MockClock, setting: Setting
) -> None:
    """Hazard 41: nothing lost and nothing doubled where the two meet."""
    first = [setting.cluster.write(b"a") for _ in range(10)]
    setting.cluster.revision += config.WATCH_RECENT_REVISIONS
    setting.cluster.write(b"elsewhere")
    await trio.sleep(0.2)
    live = WatchClient(setting)
    await live.create(b"a")
    clients = []
    written = list(first)
    for _ in range(30):
        client = WatchClient(setting)
        clients.append(client)
        await client.create(b"a", start_revision=first[0])
        written += [setting.cluster.write(b"a") for _ in range(3)]
    for client in clients:
        await client.until_revision(written[-1])
        assert client.revisions() == written


async def test_a_start_a_little_back_needs_no_catch_up(autojump_clock: MockClock, setting: Setting) -> None:
    """The usual case: read, then watch from the next revision."""
    live, late = WatchClient(setting), WatchClient(setting)
    await live.create(b"a")
    revisions = [setting.cluster.write(b"a") for _ in range(5)]
    await live.until_revision(revisions[-1])
    await late.create(b"a", start_revision=revisions[2])
    await late.until_revision(revisions[-1])
    assert late.revisions() == revisions[2:]
    assert setting.proxy.hub.catch_ups == 0


async def test_a_start_in_the_future_waits(autojump_clock: MockClock, setting: Setting) -> None:
    client = WatchClient(setting)
    await client.create(b"a", start_revision=5)
    for _ in range(5):
        setting.cluster.write(b"a")
    await client.until_revision(6)
    assert client.revisions() == [5, 6]


async def test_resumes_on_another_node_where_the_first_one_broke_off(
    autojump_clock: MockClock, setting: Setting
) -> None:
    client = WatchClient(setting)
    await client.create(b"a")
    written = []
    for _ in range(10):
        written += [setting.cluster.write(b"a") for _ in range(3)]
        await client.until_revision(written[-1])
        (node,) = serving(setting)
        node.kill()
        written += [setting.cluster.write(b"a") for _ in range(3)]
        await client.until_revision(written[-1])
        node.up = True
        await setting.until(lambda: len(setting.proxy.endpoints.links) == 3)
    assert client.revisions() == written
    assert not client.canceled


async def test_a_change_of_leader_moves_the_watch_off_the_new_leader(
    autojump_clock: MockClock, setting: Setting
) -> None:
    client = WatchClient(setting)
    await client.create(b"a")
    await wait_all_tasks_blocked()
    (follower,) = serving(setting)
    setting.cluster.elect(follower.member_id, term=2)
    await setting.until(lambda: serving(setting) and follower not in serving(setting))
    revision = setting.cluster.write(b"a")
    await client.until_revision(revision)
    assert client.revisions() == [revision]


async def test_a_follower_that_hears_no_leader_serves_no_watches(
    autojump_clock: MockClock, setting: Setting
) -> None:
    """It is lively, but what it shows stands still."""
    client = WatchClient(setting)
    await client.create(b"a")
    await wait_all_tasks_blocked()
    (cut_off,) = serving(setting)
    cut_off.watching.frozen = True
    cut_off.leader = 0
    cut_off.tell()
    revision = setting.cluster.write(b"a")
    await client.until_revision(revision)
    assert cut_off not in serving(setting)


async def test_the_next_node_may_be_behind(autojump_clock: MockClock, setting: Setting) -> None:
    """Hazard 40: what a client has seen it is not shown again, by no node."""
    client = WatchClient(setting)
    await client.create(b"a")
    written = [setting.cluster.write(b"a") for _ in range(6)]
    await client.until_revision(written[-1])
    (node,) = serving(setting)
    for other in setting.cluster.nodes.values():
        if other is not node:
            other.revision = written[2]
    node.kill()
    await setting.until(lambda: serving(setting))
    for other in setting.cluster.nodes.values():
        other.revision = None
    written.append(setting.cluster.write(b"a"))
    await client.until_revision(written[-1])
    assert client.revisions() == written
    headers = [response.header.revision for response in client.received]
    assert headers == sorted(headers)


async def test_an_idle_watch_survives_a_compaction(autojump_clock: MockClock, setting: Setting) -> None:
    """It has missed nothing, so a resumption from long ago must not end it."""
    client = WatchClient(setting)
    await client.create(b"a")
    for _ in range(100):
        setting.cluster.write(b"other")
    await trio.sleep(2 * config.WATCH_PROGRESS_S)
    setting.cluster.history.compacted = setting.cluster.revision
    (node,) = serving(setting)
    node.kill()
    revision = setting.cluster.write(b"a")
    await client.until_revision(revision)
    assert not client.canceled


async def test_a_compaction_that_took_unseen_events_ends_the_watch(
    autojump_clock: MockClock, setting: Setting
) -> None:
    behind, ahead = WatchClient(setting), WatchClient(setting)
    await behind.create(b"a")
    await wait_all_tasks_blocked()
    for node in setting.cluster.nodes.values():
        node.watching.frozen = True
    for _ in range(10):
        setting.cluster.write(b"a")
    await ahead.create(b"a", start_revision=setting.cluster.revision + 1)
    setting.cluster.history.compacted = setting.cluster.revision
    for node in setting.cluster.nodes.values():
        node.watching.frozen = False
        node.watching.changed()
    await behind.until(lambda: behind.canceled)
    assert behind.canceled[0].compact_revision == setting.cluster.revision
    assert behind.canceled[0].cancel_reason == ""
    revision = setting.cluster.write(b"a")
    await ahead.until_revision(revision)
    assert ahead.revisions() == [revision]


async def test_all_events_of_a_revision_come_together(autojump_clock: MockClock, setting: Setting) -> None:
    client = WatchClient(setting)
    await client.create(b"a", b"b")
    for key in (b"a1", b"a2", b"a3"):
        setting.cluster.write(key)
    revision = setting.cluster.erase(b"a1", b"a2", b"a3")
    await client.until_revision(revision)
    last = [response for response in client.received if response.events][-1]
    assert [event.type for event in last.events][-3:] == [Event.DELETE] * 3


async def test_nodes_are_left_in_peace_while_nothing_happens(
    autojump_clock: MockClock, setting: Setting
) -> None:
    client = WatchClient(setting)
    await client.create(b"a")
    await trio.sleep(2 * config.WATCH_PROGRESS_S)
    before = sum(node.watching.progress_requests for node in setting.cluster.nodes.values())
    await trio.sleep(20 * config.WATCH_PROGRESS_S)
    assert sum(node.watching.progress_requests for node in setting.cluster.nodes.values()) == before


async def test_progress_is_not_about_a_watch_that_the_node_has_yet_to_take(
    autojump_clock: MockClock, setting: Setting
) -> None:
    client = WatchClient(setting)
    await client.create(b"a")
    await wait_all_tasks_blocked()
    (node,) = serving(setting)
    node.watching.holds_creates = True
    await client.create(b"b")
    revision = setting.cluster.write(b"b")
    await client.ask_progress()
    await trio.sleep(3 * config.WATCH_PROGRESS_S)
    assert node.watching.progress_requests > 0
    assert client.progress == []
    node.watching.release_creates()
    await client.until_revision(revision, watch_id=1)
    await client.until(lambda: client.progress)
    assert client.received[-1].watch_id == -1


class Shown:
    """The sink of a watch, in a feed without a proxy around it."""

    def __init__(self) -> None:
        self.has_room = True
        self.shown: list[int] = []
        self.is_paused = False

    def put_events(self, watch: ClientWatch, encoded: Sequence[bytes], last: int) -> None:
        for event in encoded:
            self.shown += [event.kv.mod_revision for event in WatchResponse.FromString(event).events]

    def paused(self, watch: ClientWatch) -> None:
        self.is_paused = True

    def compacted(self, watch: ClientWatch, compact_revision: int) -> None:
        raise AssertionError("nothing is compacted here")


def put(revision: int) -> Event:
    return Event(kv=KeyValue(key=b"a", mod_revision=revision))


def test_a_node_that_repeats_itself_changes_nothing() -> None:
    """Neither for those who were there, nor in what is kept for those who come."""
    feed = Feed((b"a", b""), 1, Kept(), prev_kv=False)
    early, late = Shown(), Shown()
    feed.join(ClientWatch(early, 0, feed.key_range, 1))
    feed.take([put(1), put(2)])
    feed.take([put(1), put(2), put(3)])
    feed.take([put(2)])
    assert feed.next_revision == 4
    feed.join(ClientWatch(late, 0, feed.key_range, 1))
    assert early.shown == late.shown == [1, 2, 3]


def test_a_paused_watch_remembers_how_far_its_feed_had_come() -> None:
    """A compaction of what was none of its business must not end it."""
    feed = Feed((b"a", b""), 1, Kept(), prev_kv=False)
    sink = Shown()
    watch = ClientWatch(sink, 0, feed.key_range, 1)
    feed.join(watch)
    feed.reached(100)
    sink.has_room = False
    feed.take([put(105)])
    assert sink.is_paused
    assert watch.feed is None
    assert watch.next_revision == 101
