"""The node's loop: turns, results, reads, outcomes. Three nodes of real Raft on real LMDB, links in
memory."""

from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from proto import rpc_pb2
from proto.errors import Status
from raftd.kv.command import Kind
from raftd.node import Node
from raftd.proposals import Refusal
from raftd.reads import Read
from tests.node.harness import running_nodes, submit


def put(key: bytes, value: bytes) -> bytes:
    return rpc_pb2.PutRequest(key=key, value=value).SerializeToString()


async def read(node: Node, key: bytes, *, linearizable: bool = True) -> bytes | None:
    """One key's value, through the node's own path."""
    answered = trio.Event()
    answers: list[bytes | Status] = []

    def done(answer: bytes | Status) -> None:
        answers.append(answer)
        answered.set()

    request = rpc_pb2.RangeRequest(key=key)
    node.read(
        Read(
            lambda reader: node.state_machine.range(reader, request).SerializeToString(),
            done,
            linearizable=linearizable,
        )
    )
    with trio.fail_after(60):
        await answered.wait()
    if isinstance(answers[0], Status):
        raise answers[0]
    kvs = rpc_pb2.RangeResponse.FromString(answers[0]).kvs
    return kvs[0].value if kvs else None


async def test_a_put_is_applied_on_every_node(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running_nodes(tmp_path) as nodes:
        leader = await nodes.leader()
        answer = await submit(leader, Kind.PUT, put(b"k", b"v"))
        assert not isinstance(answer, Refusal)
        assert answer[0].code == 0
        await nodes.until(lambda: len({node.applied_index for node in nodes.all}) == 1)


async def test_commands_of_one_turn_share_one_entry(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running_nodes(tmp_path) as nodes:
        leader = await nodes.leader()
        await submit(leader, Kind.PUT, put(b"first", b""))
        before = leader.raft.last_index
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(submit, leader, Kind.PUT, put(b"%d" % number, b"v"))
        assert leader.raft.last_index == before + 1


async def test_a_follower_refuses_and_nothing_is_done(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running_nodes(tmp_path) as nodes:
        leader = await nodes.leader()
        follower = next(node for node in nodes.all if node is not leader)
        assert await submit(follower, Kind.PUT, put(b"k", b"v")) is Refusal.NOT_LEADER


async def test_what_an_isolated_leader_took_is_overwritten_and_said_so(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Hazard 87: a command whose entry was replaced surely never happened; until then nothing is said."""
    async with running_nodes(tmp_path) as nodes:
        old = await nodes.leader()
        await submit(old, Kind.PUT, put(b"k", b"kept"))
        nodes.network.isolate(old.raft.node_id)
        async with trio.open_nursery() as nursery:
            answers: list[object] = []

            async def lost_put() -> None:
                answers.append(await submit(old, Kind.PUT, put(b"k", b"lost")))

            nursery.start_soon(lost_put)
            new = await nodes.leader()
            assert new is not old
            await submit(new, Kind.PUT, put(b"k", b"new"))
            assert not answers, "the old leader cannot know yet"
            nodes.network.isolated.clear()
            await nodes.until(lambda: answers)
        assert answers == [Refusal.OVERWRITTEN]


async def test_leadership_moves_on_request(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Thesis §3.10. Commands that arrive meanwhile wait for the successor to be known."""
    async with running_nodes(tmp_path) as nodes:
        old = await nodes.leader()
        old.transfer_leadership()
        await nodes.until(lambda: not old.leads)
        assert await nodes.leader() is not old


@pytest.mark.parametrize("of_the_leader", [True, False])
async def test_reads_see_what_was_acknowledged_before(tmp_path: Path, of_the_leader: bool) -> None:
    """Thesis §6.4, on the leader and on followers. Real writer threads, real clock."""
    async with running_nodes(tmp_path, threads=True) as nodes:
        leader = await nodes.leader()
        reader = leader if of_the_leader else next(node for node in nodes.all if node is not leader)
        for number in range(50):
            value = b"%d" % number
            await submit(leader, Kind.PUT, put(b"k", value))
            assert await read(reader, b"k") == value


async def test_a_lone_survivor_serves_serializable_reads(tmp_path: Path) -> None:
    async with running_nodes(tmp_path, threads=True) as nodes:
        leader = await nodes.leader()
        await submit(leader, Kind.PUT, put(b"k", b"v"))
        survivor = next(node for node in nodes.all if node is not leader)
        await nodes.until(lambda: survivor.durable_applied_index == leader.applied_index)
        for node in nodes.all:
            if node is not survivor:
                nodes.network.isolate(node.raft.node_id)
        assert await read(survivor, b"k", linearizable=False) == b"v"
