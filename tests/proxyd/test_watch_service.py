"""etcd's Watch protocol as the proxy speaks it, and what becomes of a client that reads slowly."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from proto import errors
from proto.errors import Status
from proto.kv_pb2 import Event
from proto.limits import REQUEST_BYTES_MAX
from proto.rpc_pb2 import WatchCreateRequest, WatchRequest
from proxyd import config
from proxyd.watch.stream import DUPLICATE_ID_TEXT, EMPTY_RANGE_TEXT, STALLED_TEXT, TOO_MANY_TEXT
from tests.proxyd.conftest import Setting
from tests.proxyd.watching import WatchClient


async def test_created_comes_first_with_the_present_revision(
    autojump_clock: MockClock, setting: Setting
) -> None:
    for _ in range(5):
        setting.cluster.write(b"a")
    client = WatchClient(setting)
    reply = await client.create(b"a")
    assert (reply.watch_id, reply.created, reply.canceled) == (0, True, False)
    assert reply.header.revision == setting.cluster.revision
    assert reply.header.cluster_id == setting.cluster.cluster_id
    assert (reply.header.member_id, reply.header.raft_term) == (1, 1)
    revision = setting.cluster.write(b"a")
    await client.until_revision(revision)
    assert client.received[0] is reply
    assert client.revisions() == [revision]


async def test_from_now_on_shows_nothing_from_before(autojump_clock: MockClock, setting: Setting) -> None:
    """Whatever had been written when a client asked is past, even if its node has yet to tell of it."""
    first, second = WatchClient(setting), WatchClient(setting)
    await first.create(b"a")
    await wait_all_tasks_blocked()
    for node in setting.cluster.nodes.values():
        node.watching.frozen = True
    before = setting.cluster.write(b"a")
    reply = await second.create(b"a")
    assert reply.header.revision == before
    for node in setting.cluster.nodes.values():
        node.watching.frozen = False
        node.watching.changed()
    after = setting.cluster.write(b"a")
    await second.until_revision(after)
    assert second.revisions() == [after]
    assert first.revisions() == [before, after]


async def test_ids_are_counted_or_chosen(autojump_clock: MockClock, setting: Setting) -> None:
    client = WatchClient(setting)
    assert (await client.create(b"a")).watch_id == 0
    assert (await client.create(b"a", watch_id=1)).watch_id == 1
    assert (await client.create(b"a", watch_id=7)).watch_id == 7
    assert (await client.create(b"a")).watch_id == 2
    refused = await client.create(b"a", watch_id=7)
    assert (refused.watch_id, refused.created, refused.canceled) == (-1, True, True)
    assert refused.cancel_reason == DUPLICATE_ID_TEXT
    revision = setting.cluster.write(b"a")
    for watch_id in (0, 1, 2, 7):
        await client.until_revision(revision, watch_id)
        assert client.revisions(watch_id) == [revision]


@pytest.mark.parametrize(
    ("key", "range_end", "fields", "reason"),
    [
        (b"b", b"a", {}, EMPTY_RANGE_TEXT),
        (b"a", b"a", {}, EMPTY_RANGE_TEXT),
        (b"a", b"", {"start_revision": -1}, errors.COMPACTED[1]),
        # It would end the stream that carries everybody's watches (hazard 90).
        (bytes(REQUEST_BYTES_MAX), b"", {}, errors.REQUEST_TOO_LARGE[1]),
    ],
)
async def test_refusals(
    autojump_clock: MockClock,
    setting: Setting,
    key: bytes,
    range_end: bytes,
    fields: dict[str, int],
    reason: str,
) -> None:
    client = WatchClient(setting)
    reply = await client.create(key, range_end, **fields)
    assert (reply.watch_id, reply.created, reply.canceled) == (-1, True, True)
    assert reply.cancel_reason == reason


async def test_ranges_without_an_end_and_without_a_key(autojump_clock: MockClock, setting: Setting) -> None:
    client = WatchClient(setting)
    await client.create(b"b", b"\0")
    await client.create(b"", b"\0")
    below, above = setting.cluster.write(b"a"), setting.cluster.write(b"c")
    await client.until_revision(above, watch_id=1)
    assert client.revisions(0) == [above]
    assert client.revisions(1) == [below, above]


async def test_cancel(autojump_clock: MockClock, setting: Setting) -> None:
    """An unknown id is passed over in silence: python-etcd3 cancels watches that are over."""
    client = WatchClient(setting)
    await client.create(b"a")
    await client.cancel(99)
    await client.cancel(0)
    await client.until(lambda: client.canceled)
    assert [(reply.watch_id, reply.cancel_reason) for reply in client.canceled] == [(0, "")]
    setting.cluster.write(b"a")
    await trio.sleep(1)
    assert client.revisions() == []


async def test_a_start_below_the_compacted_revision(autojump_clock: MockClock, setting: Setting) -> None:
    """First the ordinary `created`, then the cancellation that names the revision."""
    for _ in range(10):
        setting.cluster.write(b"a")
    setting.cluster.history.compacted = 8
    client = WatchClient(setting)
    await client.create(b"a", start_revision=3)
    await client.until(lambda: client.canceled)
    assert [(reply.created, reply.canceled) for reply in client.received] == [(True, False), (False, True)]
    assert client.canceled[0].compact_revision == 8
    assert client.canceled[0].cancel_reason == ""


async def test_fragments_only_where_asked_for(autojump_clock: MockClock, setting: Setting) -> None:
    whole, fragmented = WatchClient(setting), WatchClient(setting)
    await whole.create(b"k", b"l")
    await fragmented.create(b"k", b"l", fragment=True)
    keys = [b"k%d" % number + b"x" * 100_000 for number in range(40)]
    for key in keys:
        setting.cluster.write(key)
    revision = setting.cluster.erase(*keys)
    await whole.until_revision(revision)
    await fragmented.until_revision(revision)
    assert not any(response.fragment for response in whole.received)
    parts = [
        response
        for response in fragmented.received
        if response.events and response.events[0].type == Event.DELETE
    ]
    assert [part.fragment for part in parts] == [True] * (len(parts) - 1) + [False]
    assert len(parts) > 1
    assert all(part.ByteSize() <= config.WATCH_FRAGMENT_BYTES + 1000 for part in parts)
    assert fragmented.events() == whole.events()


async def test_progress_on_request(autojump_clock: MockClock, setting: Setting) -> None:
    client = WatchClient(setting)
    await client.create(b"a")
    for _ in range(7):
        setting.cluster.write(b"other")
    await client.ask_progress()
    await client.until(lambda: client.progress)
    assert client.progress == [setting.cluster.revision]


async def test_no_progress_before_what_the_client_has_seen(
    autojump_clock: MockClock, setting: Setting
) -> None:
    """The node of its watch is behind the one that told it the revision of now."""
    client = WatchClient(setting)
    await client.create(b"a")
    await wait_all_tasks_blocked()
    old = setting.cluster.revision
    for _ in range(5):
        setting.cluster.write(b"other")
    for node in setting.cluster.nodes.values():
        if node.watching.streams:
            node.revision = old
    while (await client.create(b"b")).header.revision == old:
        pass
    await client.ask_progress()
    await trio.sleep(1)
    assert client.progress == []
    for node in setting.cluster.nodes.values():
        node.revision = None
        node.watching.changed()
    await client.until(lambda: client.progress)
    assert client.progress == [setting.cluster.revision]


async def test_progress_waits_for_catch_ups(autojump_clock: MockClock, setting: Setting) -> None:
    revisions = [setting.cluster.write(b"a") for _ in range(5)]
    setting.cluster.revision += config.WATCH_RECENT_REVISIONS
    last = setting.cluster.write(b"elsewhere")
    await trio.sleep(0.2)
    for node in setting.cluster.nodes.values():
        node.watching.frozen = True
    client = WatchClient(setting)
    await client.create(b"a", start_revision=revisions[0])
    await client.ask_progress()
    await trio.sleep(5)
    assert client.progress == []
    for node in setting.cluster.nodes.values():
        node.watching.frozen = False
        node.watching.changed()
    await client.until(lambda: client.progress)
    assert client.progress == [last]
    assert client.revisions() == revisions
    assert client.received[-1].watch_id == -1


async def test_idle_watches_are_notified_now_and_then(autojump_clock: MockClock, setting: Setting) -> None:
    client = WatchClient(setting)
    await client.create(b"a", progress_notify=True)
    await client.create(b"b")
    setting.cluster.write(b"other")
    await trio.sleep(config.WATCH_NOTIFY_S * 1.2)
    idle = [response for response in client.received if not response.created]
    assert [(response.watch_id, response.header.revision) for response in idle] == [
        (0, setting.cluster.revision)
    ]
    setting.cluster.write(b"a")
    await trio.sleep(config.WATCH_NOTIFY_S)
    assert [len(response.events) for response in client.received if not response.created] == [0, 1]


async def test_the_end_of_requests_ends_no_watch(autojump_clock: MockClock, setting: Setting) -> None:
    client = WatchClient(setting)
    await client.create(b"a")
    client.end_requests()
    await trio.sleep(1)
    revision = setting.cluster.write(b"a")
    await client.until_revision(revision)


async def test_who_wants_a_leader_is_told_when_there_is_none(
    autojump_clock: MockClock, setting: Setting
) -> None:
    patient, wanting = WatchClient(setting), WatchClient(setting, {"hasleader": "true"})
    await patient.create(b"a")
    await wanting.create(b"a")
    for node in setting.cluster.nodes.values():
        node.leader = 0
        node.tell()
    with pytest.raises(Status) as raised:
        await wanting.handler.wait()
    assert (raised.value.code, raised.value.text) == errors.NO_LEADER
    assert wanting.handler.took_s <= 5 * setting.proxy.table.election_timeout_s
    setting.cluster.elect(1, term=2)
    revision = setting.cluster.write(b"a")
    await patient.until_revision(revision)


async def test_too_many_watches(
    autojump_clock: MockClock, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "MAX_WATCHES", 2)
    client = WatchClient(setting)
    await client.create(b"a")
    await client.create(b"a")
    refused = await client.create(b"a")
    assert (refused.watch_id, refused.cancel_reason) == (-1, TOO_MANY_TEXT)


async def test_malformed_requests_end_the_stream(autojump_clock: MockClock, setting: Setting) -> None:
    client = WatchClient(setting)
    await client._ours.send(b"\xff\xff")
    with pytest.raises(Status) as raised:
        await client.handler.wait()
    assert raised.value.code == errors.INTERNAL


async def test_a_slow_client_is_bounded_and_gets_all_later(
    autojump_clock: MockClock, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hazard 93: what waits for it is bounded; the others see events as they happen."""
    monkeypatch.setattr(config, "WATCH_OUTBOX_BYTES", 20_000)
    slow, quick = WatchClient(setting, message_limit=1), WatchClient(setting)
    await slow.create(b"a")
    await quick.create(b"a")
    slow.reads = trio.Event()
    written = []
    for _ in range(50):
        written.append(setting.cluster.write(b"a", b"x" * 2_000))
        await quick.until_revision(written[-1])
        assert setting.proxy.hub.outbox_bytes <= 20_000 + 3_000
    slow.reads.set()
    await slow.until_revision(written[-1])
    assert slow.revisions() == quick.revisions() == written
    assert setting.proxy.hub.outbox_bytes == 0


async def test_a_client_that_takes_nothing_loses_its_watch_and_then_its_stream(
    autojump_clock: MockClock, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "WATCH_OUTBOX_BYTES", 20_000)
    stalled, quick = WatchClient(setting, message_limit=1), WatchClient(setting)
    await stalled.create(b"a")
    await quick.create(b"a")
    stalled.reads = trio.Event()
    for _ in range(50):
        revision = setting.cluster.write(b"a", b"x" * 2_000)
        await quick.until_revision(revision)
    await trio.sleep(config.WATCH_STALLED_S * 1.5)
    assert setting.proxy.hub.watches == 1
    stalled.reads.set()
    await stalled.until(lambda: stalled.canceled)
    assert stalled.canceled[0].cancel_reason == STALLED_TEXT
    # What came before the cancellation is whole.
    seen = stalled.revisions()
    assert seen == quick.revisions()[: len(seen)]
    stalled.reads = trio.Event()
    for _ in range(10):
        await stalled.send(WatchRequest(create_request=WatchCreateRequest(key=b"b")))
    await trio.sleep(config.WATCH_STALLED_S * 2)
    with pytest.raises(Status) as raised:
        await stalled.handler.wait()
    assert (raised.value.code, raised.value.text) == (errors.RESOURCE_EXHAUSTED, STALLED_TEXT)
