"""Leases on running nodes: never over early, over in the end, whoever leads."""

import contextlib
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import trio
from trio.testing import MockClock

from proto import errors, rpc_pb2, session_pb2
from raftd.core.messages import Entry
from raftd.kv.command import Applied, Result
from raftd.leases import Leases
from raftd.node import Node
from raftd.proposals import Refusal
from raftd.reads import Read, answered
from tests.node.harness import Nodes, running_nodes, submit

Kind = session_pb2.Command.Kind
ELECTION_TIMEOUT_MS = 300
TTL_S = 5


class Cluster:
    def __init__(self, nodes: Nodes, leases: dict[Node, Leases]) -> None:
        self.nodes = nodes
        self.leases = leases
        self.ended_at: dict[int, float] = {}
        """When a lease's revocation was first applied."""
        for node in nodes.all:
            node.applied.append(self._follow)

    def _follow(self, entry: Entry, applied: Applied) -> None:
        for change in applied.lease_changes:
            if not change.granted:
                self.ended_at.setdefault(change.lease.id, trio.current_time())

    async def end_of(self, lease_id: int) -> float:
        """Reads nothing: the clock leaps while a thread reads."""
        with trio.fail_after(1000):
            await self.nodes.until(lambda: lease_id in self.ended_at)
        return self.ended_at[lease_id]

    async def command(self, kind: int, request: bytes) -> Result:
        answer = await submit(await self.nodes.leader(), kind, request)
        assert not isinstance(answer, Refusal)
        return answer[0]

    async def grant(self, lease_id: int, ttl_s: int = TTL_S) -> None:
        request = rpc_pb2.LeaseGrantRequest(ID=lease_id, TTL=ttl_s)
        result = await self.command(Kind.LEASE_GRANT, request.SerializeToString())
        assert result.code == errors.OK

    async def put(self, key: bytes, lease_id: int) -> None:
        request = rpc_pb2.PutRequest(key=key, lease=lease_id)
        assert (await self.command(Kind.PUT, request.SerializeToString())).code == errors.OK

    async def ask(self, lease_id: int, *, renew: bool = False, node: Node | None = None) -> int | None:
        leases = self.leases[node or await self.nodes.leader()]
        times = await leases.times([lease_id], renew=renew, deadline=trio.current_time() + 5)
        return None if times is None else times[0]

    async def granted_ids(self) -> list[int]:
        leader = await self.nodes.leader()
        read = Read(
            lambda transaction: leader.state_machine.lease_leases(transaction).SerializeToString(),
            deadline=math.inf,
        )
        found = rpc_pb2.LeaseLeasesResponse.FromString(await answered(leader.read, read))
        return [lease.ID for lease in found.leases]

    async def value_is_there(self, key: bytes) -> bool:
        leader = await self.nodes.leader()
        request = rpc_pb2.RangeRequest(key=key)
        read = Read(lambda reader: leader.state_machine.range(reader, request).SerializeToString())
        return rpc_pb2.RangeResponse.FromString(await answered(leader.read, read)).count == 1

    async def lose_leader(self) -> Node:
        old = await self.nodes.leader()
        self.nodes.network.isolate(old.raft.node_id)
        await self.nodes.leader()
        return old


@asynccontextmanager
async def cluster_of(directory: Path) -> AsyncIterator[Cluster]:
    async with running_nodes(directory) as nodes, trio.open_nursery() as nursery:
        leases = {node: Leases(node, ELECTION_TIMEOUT_MS) for node in nodes.all}
        for each in leases.values():
            nursery.start_soon(each.run)
        assert not any(node.leads for node in nodes.all)  # so they will see the no-op of the first term
        yield Cluster(nodes, leases)
        nursery.cancel_scope.cancel()


async def test_a_lease_ends_after_its_time_and_its_keys_with_it(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with cluster_of(tmp_path) as cluster:
        await cluster.grant(2)
        assert await cluster.ask(2) in (TTL_S - 1, TTL_S)
        started = trio.current_time()
        await cluster.grant(1)
        await cluster.put(b"k", 1)
        await trio.sleep(TTL_S - 1)
        assert await cluster.ask(1) in (0, 1)
        ended = await cluster.end_of(1)
        assert TTL_S <= ended - started < TTL_S + 1
        assert not await cluster.value_is_there(b"k")
        assert await cluster.ask(1) == -1


async def test_a_kept_lease_lives(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with cluster_of(tmp_path) as cluster:
        await cluster.grant(1)
        for _ in range(10):
            await trio.sleep(TTL_S - 1)
            assert await cluster.ask(1, renew=True) == TTL_S
        started = trio.current_time()
        assert await cluster.end_of(1) - started >= TTL_S
        assert await cluster.ask(1, renew=True) == 0


async def test_a_new_leader_gives_every_lease_its_full_time(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Hazard 38: the old one may have renewed it just before."""
    async with cluster_of(tmp_path) as cluster:
        await cluster.grant(1)
        await cluster.put(b"k", 1)
        await trio.sleep(TTL_S - 0.5)
        assert await cluster.ask(1, renew=True) == TTL_S
        renewed = trio.current_time()
        await cluster.lose_leader()
        assert await cluster.value_is_there(b"k")
        ended = await cluster.end_of(1)
        assert ended - renewed >= TTL_S


async def test_a_leader_that_is_cut_off_renews_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Hazard 38: it counts its own time and cannot know that another one leads."""
    async with cluster_of(tmp_path) as cluster:
        await cluster.grant(1, 60)
        old = await cluster.nodes.leader()
        cluster.nodes.network.isolate(old.raft.node_id)
        assert old.leads
        with contextlib.suppress(errors.Status):
            assert await cluster.ask(1, renew=True, node=old) is None


async def test_a_leader_that_is_cut_off_revokes_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    """Hazard 38: what it proposes names its term and never comes to be in a later one."""
    async with cluster_of(tmp_path) as cluster:
        await cluster.grant(1)
        old = await cluster.lose_leader()
        for _ in range(5):
            await trio.sleep(TTL_S - 1)
            assert await cluster.ask(1, renew=True) == TTL_S
        cluster.nodes.network.isolated.discard(old.raft.node_id)
        await trio.sleep(TTL_S - 1)
        assert await cluster.ask(1, renew=True) == TTL_S


async def test_many_leases_end_in_batches(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with cluster_of(tmp_path) as cluster:
        async with trio.open_nursery() as nursery:
            for lease_id in range(1, 1201):
                nursery.start_soon(cluster.grant, lease_id, 60)
        await trio.sleep(70)
        assert await cluster.granted_ids() == []


async def test_a_follower_says_that_it_does_not_lead(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with cluster_of(tmp_path) as cluster:
        await cluster.grant(1)
        leader = await cluster.nodes.leader()
        for node in cluster.nodes.all:
            if node is not leader:
                assert await cluster.ask(1, renew=True, node=node) is None
