"""An acknowledgement means synced on a majority, shown by delaying the system call that syncs (hazards 4, 32,
78).

strace holds every fdatasync of a node back before the kernel sees it. LMDB calls it once per commit.
"""

import shutil
import statistics
from pathlib import Path

import pytest
import trio

from clientctl.client import Client
from proto import rpc_pb2
from proto.bridge import connect
from tests.processes.cluster import BOUND_S, LocalCluster, needs, running_cluster

pytestmark = [pytest.mark.processes, needs("strace")]

DELAY_S = 0.3
LONG_DELAY_S = 2.0
PUTS = 60

MOVE_LEADER = rpc_pb2.DESCRIPTOR.services_by_name["Maintenance"].methods_by_name["MoveLeader"]


async def delay_syncs(cluster: LocalCluster, name: str, delay_s: float) -> None:
    """Start the node anew with every sync delayed."""
    strace = shutil.which("strace")
    assert strace is not None
    prefix = (strace, "-D", "-f", "--seccomp-bpf", "-qq", "-o", str(trace_of(cluster, name)))
    inject = f"inject=fdatasync:delay_enter={int(delay_s * 1_000_000)}"
    await cluster.kill(name)
    await cluster.restart(name, prefix=(*prefix, "-e", "trace=fdatasync", "-e", inject))


def trace_of(cluster: LocalCluster, name: str) -> Path:
    return cluster.directory / f"{name}.strace"


def delayed_syncs(cluster: LocalCluster, name: str) -> int:
    return trace_of(cluster, name).read_text().count("DELAYED")


async def move_leader(cluster: LocalCluster, name: str) -> None:
    target = await cluster.status(name)
    assert target is not None
    async with connect(cluster.address(await cluster.leader())) as channel:
        request = rpc_pb2.MoveLeaderRequest(targetID=target.header.member_id)
        await channel.unary(MOVE_LEADER, request, timeout=BOUND_S)


async def timed_put(client: Client, key: str, took_s: list[float]) -> None:
    begin = trio.current_time()
    await client.put(key, b"v")
    took_s.append(trio.current_time() - begin)


async def put_alone_and_together(cluster: LocalCluster) -> list[float]:
    """How long each put took: a few one after the other, then many at once."""
    took_s: list[float] = []
    async with Client([cluster.address("p1")], timeout=BOUND_S) as client:
        for number in range(5):
            await timed_put(client, f"alone/{number}", took_s)
        async with trio.open_nursery() as nursery:
            for number in range(PUTS):
                nursery.start_soon(timed_put, client, f"together/{number}", took_s)
    return took_s


async def test_two_slow_followers_hold_every_put_back(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        followers = [name for name in cluster.names if name != leader]
        for name in followers:
            await delay_syncs(cluster, name, DELAY_S)
        took_s = await put_alone_and_together(cluster)
        assert min(took_s) >= DELAY_S
        for name in followers:
            assert delayed_syncs(cluster, name)


async def test_a_slow_leader_and_a_slow_follower_hold_every_put_back(tmp_path: Path) -> None:
    """The leader counts itself only after its own sync."""
    async with running_cluster(tmp_path) as cluster:
        first = await cluster.leader()
        slow = next(name for name in cluster.names if name != first)
        await delay_syncs(cluster, slow, DELAY_S)
        await move_leader(cluster, slow)
        await delay_syncs(cluster, first, DELAY_S)
        took_s = await put_alone_and_together(cluster)
        assert min(took_s) >= DELAY_S
        assert delayed_syncs(cluster, slow)
        assert delayed_syncs(cluster, first)


async def test_one_slow_follower_holds_nobody_back(tmp_path: Path) -> None:
    """Throughput follows the fast majority (hazard 78)."""
    async with running_cluster(tmp_path) as cluster:
        leader = await cluster.leader()
        slow = next(name for name in cluster.names if name != leader)
        await delay_syncs(cluster, slow, LONG_DELAY_S)
        took_s: list[float] = []
        async with Client([cluster.address("p1")], timeout=BOUND_S) as client:
            # Long enough that the slow node must have synced some of it.
            with trio.fail_after(BOUND_S):
                while delayed_syncs(cluster, slow) < 3:
                    await timed_put(client, f"k{len(took_s)}", took_s)
        assert statistics.median(took_s) < DELAY_S
        assert len(took_s) > LONG_DELAY_S / DELAY_S
