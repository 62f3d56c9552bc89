"""The Watch service on running nodes: etcd's stream protocol, and events from real stores."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from proto import errors, rpc_pb2, session_pb2
from proto.errors import Status
from proto.stream import InMemoryStream, in_memory_pair
from proto.turns import Turns
from raftd import config
from raftd.node import Node
from raftd.proposals import Refusal
from raftd.services.header import Headers
from raftd.services.watch import DUPLICATE_ID_TEXT, EMPTY_RANGE_TEXT, STALLED_TEXT, Watch, WatchStream
from raftd.watch.feed import Feed
from raftd.watch.hub import Outbox, Watcher
from raftd.watch.ranges import key_range
from tests.node.harness import Nodes, running_nodes, submit

Kind = session_pb2.Command.Kind
CLUSTER_ID = 5
ELECTION_TIMEOUT_MS = 300


async def put(nodes: Nodes, key: bytes, value: bytes = b"v") -> int:
    answer = await submit(
        await nodes.leader(), Kind.PUT, rpc_pb2.PutRequest(key=key, value=value).SerializeToString()
    )
    assert not isinstance(answer, Refusal)
    return rpc_pb2.PutResponse.FromString(answer[0].body).header.revision


async def compact(nodes: Nodes, revision: int) -> None:
    request = rpc_pb2.CompactionRequest(revision=revision).SerializeToString()
    answer = await submit(await nodes.leader(), Kind.COMPACT, request)
    assert not isinstance(answer, Refusal)
    assert answer[0].code == errors.OK


class Client:
    def __init__(self, stream: InMemoryStream) -> None:
        self.stream = stream
        self._waiting: list[bytes] = []

    async def send(self, request: rpc_pb2.WatchRequest) -> None:
        await self.stream.send(request.SerializeToString())

    async def create(
        self,
        key: bytes,
        range_end: bytes = b"",
        start_revision: int = 0,
        watch_id: int = 0,
        *,
        prev_kv: bool = False,
        progress_notify: bool = False,
    ) -> rpc_pb2.WatchResponse:
        create = rpc_pb2.WatchCreateRequest(
            key=key,
            range_end=range_end,
            start_revision=start_revision,
            watch_id=watch_id,
            prev_kv=prev_kv,
            progress_notify=progress_notify,
        )
        await self.send(rpc_pb2.WatchRequest(create_request=create))
        return await self.receive()

    async def cancel(self, watch_id: int) -> None:
        cancel = rpc_pb2.WatchCancelRequest(watch_id=watch_id)
        await self.send(rpc_pb2.WatchRequest(cancel_request=cancel))

    async def ask_progress(self) -> None:
        await self.send(rpc_pb2.WatchRequest(progress_request=rpc_pb2.WatchProgressRequest()))

    async def receive(self) -> rpc_pb2.WatchResponse:
        with trio.fail_after(5000):
            while not self._waiting:
                self._waiting = await self.stream.receive_all()
        return rpc_pb2.WatchResponse.FromString(self._waiting.pop(0))

    async def events(self, count: int) -> list[tuple[int, bytes]]:
        found: list[tuple[int, bytes]] = []
        while len(found) < count:
            found += [(event.kv.mod_revision, event.kv.key) for event in (await self.receive()).events]
        return found


@asynccontextmanager
async def watching(nodes: Nodes, node: Node) -> AsyncIterator[Watch]:
    """The Watch service of one of the nodes."""
    feed = Feed(node, nodes.stores[node.raft.node_id])
    turns = Turns(config.WATCH_SENDS_PER_TURN, trio.lowlevel.checkpoint)
    headers = Headers(node, CLUSTER_ID, node.raft.node_id)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(feed.run)
        nursery.start_soon(turns.run)
        yield Watch(node, feed, turns, headers, ELECTION_TIMEOUT_MS)
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def stream_to(service: Watch, metadata: dict[str, str] | None = None) -> AsyncIterator[Client]:
    ours, theirs = in_memory_pair(metadata)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(WatchStream(service, theirs).serve)
        yield Client(ours)
        ours.close()


@asynccontextmanager
async def one_client(directory: Path, *, follower: bool = False) -> AsyncIterator[tuple[Nodes, Client]]:
    async with running_nodes(directory, threads=True) as nodes:
        leader = await nodes.leader()
        node = next(node for node in nodes.all if (node is not leader) == follower)
        async with watching(nodes, node) as service, stream_to(service) as client:
            yield nodes, client


@pytest.mark.parametrize("follower", [False, True])
async def test_events_arrive_on_every_node(tmp_path: Path, follower: bool) -> None:
    async with one_client(tmp_path, follower=follower) as (nodes, client):
        created = await client.create(b"a", b"b")
        assert (created.created, created.watch_id, created.header.cluster_id) == (True, 0, CLUSTER_ID)
        await put(nodes, b"a1")
        await put(nodes, b"x")
        await put(nodes, b"a2")
        assert await client.events(2) == [(2, b"a1"), (4, b"a2")]


async def test_the_past_is_served_from_history(tmp_path: Path) -> None:
    async with one_client(tmp_path) as (nodes, client):
        for number in range(20):
            await put(nodes, b"k%d" % (number % 2))
        await client.create(b"k1", start_revision=5, prev_kv=True)
        assert await client.events(9) == [(revision, b"k1") for revision in range(5, 22, 2)]


async def test_previous_values(tmp_path: Path) -> None:
    async with one_client(tmp_path) as (nodes, client):
        await client.create(b"k", prev_kv=True)
        await put(nodes, b"k", b"one")
        await put(nodes, b"k", b"two")
        found = [event for _ in range(2) for event in (await client.receive()).events]
        assert [event.prev_kv.value for event in found] == [b"", b"one"]


async def test_a_watch_below_the_compacted_revision_is_cancelled_after_it_was_created(
    tmp_path: Path,
) -> None:
    """Hazard 41."""
    async with one_client(tmp_path) as (nodes, client):
        for _ in range(6):
            await put(nodes, b"k")
        await compact(nodes, 5)
        created = await client.create(b"k", start_revision=3)
        assert created.created
        assert not created.canceled
        canceled = await client.receive()
        assert (canceled.canceled, canceled.compact_revision, canceled.cancel_reason) == (True, 5, "")
        await client.create(b"k", start_revision=5)
        assert await client.events(3) == [(5, b"k"), (6, b"k"), (7, b"k")]


@pytest.mark.parametrize("compactions", [[7], [4, 7]])
async def test_a_compaction_takes_nothing_from_who_keeps_up(
    tmp_path: Path, autojump_clock: MockClock, compactions: list[int]
) -> None:
    """Hazard 41: the events were read before they were removed, though nobody had come to show them yet."""
    async with running_nodes(tmp_path) as nodes:
        node = await nodes.leader()
        feed = Feed(node, nodes.stores[node.raft.node_id])
        node.before_apply.append(feed.keep_before)
        outbox = Outbox(lambda: None)
        feed.hub.add(Watcher(outbox, 0, key_range(b"k", b""), 2, prev_kv=True))
        done = 1
        for revision in compactions:
            for _ in range(done, revision):
                done = await put(nodes, b"k", b"%d" % (done + 1))
            await compact(nodes, revision)
        await put(nodes, b"k")
        nodes.start_soon(feed.run)
        await nodes.until(lambda: feed.hub.complete_revision == 8)
        replies = [rpc_pb2.WatchResponse.FromString(outbox.take()) for _ in range(len(outbox))]
        events = [event for reply in replies for event in reply.events]
        assert [event.kv.mod_revision for event in events] == [2, 3, 4, 5, 6, 7, 8]
        assert [event.prev_kv.value for event in events[1:]] == [b"2", b"3", b"4", b"5", b"6", b"7"]
        assert not any(reply.canceled for reply in replies)


async def test_what_cannot_be_created_is_refused_as_in_etcd(tmp_path: Path) -> None:
    async with one_client(tmp_path) as (_nodes, client):
        assert (await client.create(b"k", watch_id=7)).watch_id == 7
        for refused, reason in (
            (await client.create(b"k", watch_id=7), DUPLICATE_ID_TEXT),
            (await client.create(b"z", b"a"), EMPTY_RANGE_TEXT),
            (await client.create(b"z", b"z"), EMPTY_RANGE_TEXT),
            (await client.create(b"k", start_revision=-1), errors.COMPACTED[1]),
        ):
            assert (refused.created, refused.canceled, refused.watch_id) == (True, True, -1)
            assert refused.cancel_reason == reason


async def test_ids_of_the_client_and_of_the_server_do_not_meet(tmp_path: Path) -> None:
    async with one_client(tmp_path) as (_nodes, client):
        await client.create(b"k", watch_id=1)
        assert [(await client.create(b"k")).watch_id for _ in range(3)] == [0, 2, 3]


async def test_cancel_and_cancel_of_an_unknown_watch(tmp_path: Path) -> None:
    async with one_client(tmp_path) as (nodes, client):
        await client.create(b"k")
        await client.create(b"k")
        await client.cancel(99)
        await client.cancel(0)
        canceled = await client.receive()
        assert (canceled.watch_id, canceled.canceled) == (0, True)
        await put(nodes, b"k")
        assert (await client.receive()).watch_id == 1
        assert (await client.create(b"k", watch_id=0)).watch_id == 2  # an id is not given twice


async def test_progress_on_request(tmp_path: Path) -> None:
    async with one_client(tmp_path) as (nodes, client):
        await client.create(b"k")
        revision = await put(nodes, b"x")
        await client.ask_progress()
        progress = await client.receive()
        assert (progress.watch_id, progress.header.revision) == (-1, revision)
        assert not progress.events


async def test_a_stream_that_wants_a_leader_ends_without_one(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running_nodes(tmp_path) as nodes:
        leader = await nodes.leader()
        node = next(node for node in nodes.all if node is not leader)
        async with watching(nodes, node) as service:
            ours, theirs = in_memory_pair({"hasleader": "true"})
            async with trio.open_nursery() as nursery:

                async def serve() -> None:
                    with pytest.RaisesGroup(Status, flatten_subgroups=True) as raised:
                        await WatchStream(service, theirs).serve()
                    assert raised.value.exceptions[0].args[:2] == errors.NO_LEADER

                nursery.start_soon(serve)
                await Client(ours).create(b"k")
                nodes.network.isolate(node.raft.node_id)
            with pytest.raises(Status, match="no leader"):
                await WatchStream(service, in_memory_pair({"hasleader": "true"})[1]).serve()


async def test_a_client_that_takes_nothing_is_left(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Hazard 93."""
    async with running_nodes(tmp_path) as nodes, watching(nodes, await nodes.leader()) as service:
        ours, theirs = in_memory_pair(message_limit=3)
        client = Client(ours)
        async with trio.open_nursery() as nursery:

            async def serve() -> None:
                with pytest.RaisesGroup(Status, flatten_subgroups=True) as raised:
                    await WatchStream(service, theirs).serve()
                assert raised.value.exceptions[0].args[:2] == (errors.RESOURCE_EXHAUSTED, STALLED_TEXT)

            nursery.start_soon(serve)
            await client.create(b"k")
            for _ in range(5):
                await put(nodes, b"k")
        assert service.feed.hub.counts == (0, 0)


async def test_periodic_progress(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with (
        running_nodes(tmp_path) as nodes,
        watching(nodes, await nodes.leader()) as service,
        stream_to(service) as client,
    ):
        await client.create(b"k", progress_notify=True)
        started = trio.current_time()
        progress = await client.receive()
        assert (progress.watch_id, progress.header.revision) == (0, 1)
        assert 1.0 <= (trio.current_time() - started) / config.WATCH_PROGRESS_S <= 1.1


async def test_turns_let_the_other_side_catch_up() -> None:
    sent = 0
    seen: list[int] = []

    async def caught_up() -> None:
        await trio.testing.wait_all_tasks_blocked()
        seen.append(sent)

    turns = Turns(3, caught_up)

    async def send_all() -> None:
        nonlocal sent
        for _ in range(4):
            await turns.next()
            sent += 1

    async with trio.open_nursery() as nursery:
        nursery.start_soon(turns.run)
        async with trio.open_nursery() as senders:
            for _ in range(5):
                senders.start_soon(send_all)
        nursery.cancel_scope.cancel()
    assert sent == 20
    assert seen == [3, 6, 9, 12, 15, 18]
