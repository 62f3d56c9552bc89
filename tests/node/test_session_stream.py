"""A node's end of the session stream: batches in, results out, and what a node says that does not lead."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from proto import errors, rpc_pb2, session_pb2
from proto.stream import InMemoryStream, in_memory_pair
from raftd import config
from raftd.node import Node
from raftd.services.header import Headers
from raftd.services.session import SessionStream, SessionStreams
from raftd.services.writes import Writes
from raftd.store import ClusterIdentity, Member
from tests.node.harness import Nodes, running_nodes

Kind = session_pb2.Command.Kind
Outcome = session_pb2.Result.Outcome


class Client:
    """The other end of a session stream: sends batches, collects replies until a condition holds."""

    def __init__(self, stream: InMemoryStream, served: SessionStream) -> None:
        self.stream = stream
        self.served = served
        self.results: dict[tuple[int, int], list[session_pb2.Result]] = {}
        self.reads: dict[int, session_pb2.ReadResult] = {}
        self.not_leader: list[session_pb2.NotLeader] = []

    async def receive(self) -> None:
        for reply in await self.stream.receive_all():
            for result in reply.results:
                self.results.setdefault((result.session, result.sequence), []).append(result)
            for read in reply.read_results:
                self.reads[read.id] = read
            if reply.HasField("not_leader"):
                self.not_leader.append(reply.not_leader)

    async def send(self, session: int, first_outstanding: int, *commands: session_pb2.Command) -> None:
        batch = session_pb2.Batch(session=session, first_outstanding=first_outstanding, commands=commands)
        await self.stream.send(session_pb2.Request(batches=[batch]))

    async def result(self, session: int, sequence: int, times: int = 1) -> session_pb2.Result:
        with trio.fail_after(60):
            while len(self.results.get((session, sequence), ())) < times:
                await self.receive()
        return self.results[session, sequence][-1]

    async def register(self) -> int:
        await self.send(0, 0, session_pb2.Command(sequence=7, kind=Kind.REGISTER))
        return session_pb2.Registered.FromString((await self.result(0, 7)).body).session

    async def refused(self) -> session_pb2.NotLeader:
        with trio.fail_after(60):
            while not self.not_leader:
                await self.receive()
        return self.not_leader[-1]


def put(sequence: int, key: bytes, value: bytes) -> session_pb2.Command:
    request = rpc_pb2.PutRequest(key=key, value=value).SerializeToString()
    return session_pb2.Command(sequence=sequence, kind=Kind.PUT, request=request)


class NoLinks:
    """Session streams forward nothing, so `Writes` needs no links here."""


@asynccontextmanager
async def stream_to(node: Node) -> AsyncIterator[Client]:
    cluster = ClusterIdentity(
        5,
        tuple(
            Member(voter, f"{voter}", ("http://p:1",), (f"http://c{voter}:1",))
            for voter in sorted(node.raft.voters)
        ),
    )
    service = SessionStreams(
        node,
        Writes(node, NoLinks(), 300),  # type: ignore[arg-type]
        node.state_machine,
        Headers(node, cluster.cluster_id, node.raft.node_id),
        cluster,
    )
    ours, theirs = in_memory_pair()
    async with trio.open_nursery() as nursery:
        served = SessionStream(service, theirs)
        nursery.start_soon(served.serve)
        yield Client(ours, served)
        ours.close()


def follower_of(nodes: Nodes, leader: Node) -> Node:
    return next(node for node in nodes.all if node is not leader)


async def test_commands_are_executed_and_their_replies_completed(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with running_nodes(tmp_path) as nodes, stream_to(await nodes.leader()) as client:
        session = await client.register()
        await client.send(session, 1, put(1, b"a", b"1"), put(2, b"b", b"2"))
        first, second = await client.result(session, 1), await client.result(session, 2)
        replies = [rpc_pb2.PutResponse.FromString(result.body) for result in (first, second)]
        assert [reply.header.revision for reply in replies] == [2, 3]
        assert replies[0].header.cluster_id == 5
        assert replies[0].header.raft_term > 0


async def test_a_repeated_number_is_answered_and_not_executed_again(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Hazard 87."""
    async with running_nodes(tmp_path) as nodes:
        leader = await nodes.leader()
        async with stream_to(leader) as client:
            session = await client.register()
            await client.send(session, 1, put(1, b"k", b"v"))
            first = await client.result(session, 1)
            async with stream_to(leader) as other:
                await other.send(session, 1, put(1, b"k", b"v"))
                again = await other.result(session, 1)
        assert again.body == first.body
        assert again.outcome == Outcome.DECIDED


async def test_an_acknowledged_number_is_never_executed(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running_nodes(tmp_path) as nodes, stream_to(await nodes.leader()) as client:
        session = await client.register()
        await client.send(session, 1, put(1, b"k", b"v"))
        await client.result(session, 1)
        await client.send(session, 2, put(2, b"k", b"w"))
        await client.result(session, 2)
        await client.send(session, 2, put(1, b"k", b"v"))
        assert (await client.result(session, 1, times=2)).outcome == Outcome.UNKNOWN


async def test_an_unknown_session_is_said_to_be_expired(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running_nodes(tmp_path) as nodes, stream_to(await nodes.leader()) as client:
        await client.send(99, 1, put(1, b"k", b"v"))
        assert (await client.result(99, 1)).outcome == Outcome.SESSION_EXPIRED


async def test_a_mistake_is_refused_alone(tmp_path: Path, autojump_clock: MockClock) -> None:
    """One client's empty key does not touch its neighbours in the batch."""
    async with running_nodes(tmp_path) as nodes, stream_to(await nodes.leader()) as client:
        session = await client.register()
        await client.send(session, 1, put(1, b"", b"v"), put(2, b"k", b"v"))
        assert (await client.result(session, 2)).code == errors.OK
        refused = await client.result(session, 1)
        assert (refused.code, refused.text) == errors.KEY_NOT_PROVIDED
        assert refused.outcome == Outcome.DECIDED


async def test_a_follower_names_the_leader(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running_nodes(tmp_path) as nodes:
        leader = await nodes.leader()
        async with stream_to(follower_of(nodes, leader)) as client:
            await client.send(0, 0, session_pb2.Command(sequence=1, kind=Kind.REGISTER))
            refused = await client.refused()
        assert refused.leader == leader.raft.node_id
        assert refused.client_urls == [f"http://c{leader.raft.node_id}:1"]


async def test_a_deposed_leader_gives_its_pending_commands_back(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Their sender repeats them, under the same numbers, at the new leader: executed once, answered once."""
    async with running_nodes(tmp_path) as nodes:
        old = await nodes.leader()
        async with stream_to(old) as client:
            session = await client.register()
            nodes.network.isolate(old.raft.node_id)
            await client.send(session, 1, put(1, b"k", b"v"))
            await client.refused()
            new = await nodes.leader()
            async with stream_to(new) as other:
                await other.send(session, 1, put(1, b"k", b"v"))
                assert (await other.result(session, 1)).code == errors.OK
            nodes.network.isolated.clear()
            await nodes.until(lambda: old.applied_index == new.applied_index)
            assert (session, 1) not in client.results


async def test_reads_share_the_stream(tmp_path: Path) -> None:
    """On a follower too; the reader thread needs the real clock."""
    async with running_nodes(tmp_path, threads=True) as nodes:
        leader = await nodes.leader()
        async with stream_to(leader) as writer, stream_to(follower_of(nodes, leader)) as reader:
            session = await writer.register()
            await writer.send(session, 1, put(1, b"k", b"v"))
            await writer.result(session, 1)
            request = rpc_pb2.RangeRequest(key=b"k").SerializeToString()
            reads = [session_pb2.Read(id=number, request=request) for number in range(10)]
            bad = session_pb2.Read(id=10, request=rpc_pb2.RangeRequest().SerializeToString())
            await reader.stream.send(session_pb2.Request(reads=[*reads, bad]))
            with trio.fail_after(60):
                while len(reader.reads) < 11:
                    await reader.receive()
        for number in range(10):
            answer = rpc_pb2.RangeResponse.FromString(reader.reads[number].body)
            assert [kv.value for kv in answer.kvs] == [b"v"]
        assert (reader.reads[10].code, reader.reads[10].text) == errors.KEY_NOT_PROVIDED


async def test_a_large_batch_becomes_entries_that_links_carry(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Hazard 90: one entry of a whole batch could exceed what peers take, and stop all writes for ever."""
    async with running_nodes(tmp_path) as nodes:
        leader = await nodes.leader()
        async with stream_to(leader) as client:
            session = await client.register()
            before = leader.raft.last_index
            value = bytes(config.MAX_ENTRY_BYTES // 4)
            commands = [put(number, b"k%d" % number, value) for number in range(1, 11)]
            await client.send(session, 1, *commands)
            for number in range(1, 11):
                assert (await client.result(session, number)).code == errors.OK
            assert leader.raft.last_index - before == 4, "three in each"
            client.results.clear()
            many = config.MAX_ENTRY_COMMANDS + 1
            await client.send(session, 11, *(put(10 + number, b"k", b"") for number in range(1, many)))
            await client.result(session, 10 + many - 1)


async def test_session_0_only_registers(tmp_path: Path, autojump_clock: MockClock) -> None:
    """A write of no session would be executed once for each time it is sent."""
    async with running_nodes(tmp_path) as nodes, stream_to(await nodes.leader()) as client:
        session = await client.register()
        await client.send(0, 0, put(1, b"k", b"v"))
        refused = await client.result(0, 1)
        assert (refused.code, refused.outcome) == (errors.INVALID_ARGUMENT, Outcome.DECIDED)
        await client.send(session, 1, session_pb2.Command(sequence=1, kind=Kind.REGISTER))
        assert (await client.result(session, 1)).code == errors.INVALID_ARGUMENT


async def test_too_much_at_once_is_surely_not_done(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hazard 95. The same number may be sent again."""
    async with running_nodes(tmp_path) as nodes, stream_to(await nodes.leader()) as client:
        session = await client.register()
        with monkeypatch.context() as patch:
            patch.setattr(config, "MAX_PENDING_COMMANDS", 0)
            await client.send(session, 1, put(1, b"k", b"v"))
            refused = await client.result(session, 1)
        assert (refused.code, refused.text) == errors.TOO_MANY_REQUESTS
        assert refused.outcome == Outcome.NOT_DONE
        await client.send(session, 1, put(1, b"k", b"v"))
        assert (await client.result(session, 1, times=2)).code == errors.OK


async def test_a_client_that_takes_no_replies_waits(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hazard 93: what a node keeps for it is bounded, however little each result holds; nothing is lost."""
    monkeypatch.setattr(config, "MAX_GATHERED_BYTES", 10_000)
    monkeypatch.setattr(config, "MAX_REPLY_BYTES", 1_000)
    async with running_nodes(tmp_path) as nodes, stream_to(await nodes.leader()) as client:
        total = 2_000
        async with trio.open_nursery() as nursery:

            async def send_all() -> None:
                for number in range(total):
                    await client.send(9, 0, put(number, b"", b""))

            nursery.start_soon(send_all)
            await wait_all_tasks_blocked()
            served = client.served
            assert served._gathered_bytes > config.MAX_GATHERED_BYTES
            assert served._gathered_bytes < 2 * config.MAX_GATHERED_BYTES
            with trio.fail_after(60):
                while len(client.results) < total:
                    await client.receive()
        assert served._gathered_bytes == 0


async def test_reads_of_one_stream_are_bounded_and_forgotten(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that wait for a leader: the rest stays on the stream. They end with it (hazard 92)."""
    monkeypatch.setattr(config, "MAX_STREAM_READS", 4)
    async with running_nodes(tmp_path) as nodes:
        await nodes.leader()
        node = nodes.all[0]
        nodes.network.isolate(node.raft.node_id)
        await nodes.until(lambda: node.soft_state.leader is None)
        async with stream_to(node) as client:
            request = rpc_pb2.RangeRequest(key=b"k").SerializeToString()
            reads = [session_pb2.Read(id=number, request=request) for number in range(10)]
            await client.stream.send(session_pb2.Request(reads=reads))
            await nodes.until(lambda: len(node.reads) == 4)
            with trio.fail_after(60):
                while len(client.reads) < 6:
                    await client.receive()
            assert {read.text for read in client.reads.values()} == {errors.TIMEOUT[1]}
        await nodes.until(lambda: len(node.reads) == 0)


async def test_acknowledgements_of_many_sessions_are_not_all_remembered(
    tmp_path: Path, autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "MAX_STREAM_SESSIONS", 3)
    async with running_nodes(tmp_path) as nodes, stream_to(await nodes.leader()) as client:
        for session in range(1, 20):
            await client.send(session, 5, put(5, b"k", b"v"))
            assert (await client.result(session, 5)).outcome == Outcome.SESSION_EXPIRED
            assert len(client.served._acknowledged) <= 3
