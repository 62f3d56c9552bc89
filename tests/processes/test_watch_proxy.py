"""Watches through the proxy while nodes are killed: every event once and in order (hazards 40, 41)."""

from pathlib import Path

import pytest
import trio

from proto import rpc_pb2
from proto.bridge import connect
from proto.rpc_pb2 import WatchCreateRequest, WatchRequest, WatchResponse
from tests.processes.cluster import BOUND_S, LocalCluster, running_cluster
from tests.processes.load import Load

pytestmark = pytest.mark.processes

ROUNDS = 20
ACKNOWLEDGED_PER_WRITER = 60
WATCH = rpc_pb2.DESCRIPTOR.services_by_name["Watch"].methods_by_name["Watch"]
KEY, RANGE_END = b"round-", b"round."

Seen = list[tuple[int, bytes]]


class Watcher:
    """`seen`: revision and key of each event; `headers`: the revisions of all responses."""

    def __init__(self, address: str, start_revision: int = 0) -> None:
        self.seen: Seen = []
        self.headers: list[int] = []
        self.first_revision = 0
        self._address = address
        self._create = WatchCreateRequest(key=KEY, range_end=RANGE_END, start_revision=start_revision)
        self._received = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with connect(self._address) as channel, channel.stream(WATCH) as stream:
            await stream.send(WatchRequest(create_request=self._create))
            while True:
                responses: list[WatchResponse] = await stream.receive_all()
                for response in responses:
                    assert not response.canceled, response
                    if response.created:
                        self.first_revision = response.header.revision + 1
                        task_status.started()
                    self.headers.append(response.header.revision)
                    self.seen += [(event.kv.mod_revision, event.kv.key) for event in response.events]
                received, self._received = self._received, trio.Event()
                received.set()

    async def until(self, revision: int) -> None:
        with trio.fail_after(BOUND_S):
            while not self.seen or self.seen[-1][0] < revision:
                await self._received.wait()


async def history(cluster: LocalCluster, first_revision: int, last: int) -> Seen:
    """What a node tells, asked for all of it at once."""
    watcher = Watcher(cluster.address("n1"), first_revision)
    async with trio.open_nursery() as nursery:
        await nursery.start(watcher.run)
        await watcher.until(last)
        nursery.cancel_scope.cancel()
    return watcher.seen


async def victims_of(cluster: LocalCluster, number: int) -> list[str]:
    """The leader, then one follower, then the other: the proxy watches at one of these. Then everybody."""
    leader = await cluster.leader()
    first, second = (name for name in cluster.names if name != leader)
    return [[leader], [first], [second], cluster.names][number % 4]


async def test_watches_over_kills_of_leader_and_followers(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster, trio.open_nursery() as nursery:
        watchers = [Watcher(cluster.address("p1")) for _ in range(3)]
        for watcher in watchers:
            await nursery.start(watcher.run)
        first_revision = watchers[0].first_revision
        for number in range(ROUNDS):
            load = Load(cluster.address("p1"), f"round-{number}")
            victims = await victims_of(cluster, number)
            async with load.running():
                await load.until(5 + 7 * number % 30)
                await cluster.kill(*victims)
                if len(victims) > 1:
                    await cluster.restart(*victims)
                # Begins in the past, in the midst of it all.
                late = Watcher(cluster.address("p1"), first_revision)
                await nursery.start(late.run)
                watchers.append(late)
                await load.until(ACKNOWLEDGED_PER_WRITER)
            if len(victims) == 1:
                await cluster.restart(*victims)
        last = await last_revision(cluster)
        truth = await history(cluster, first_revision, last)
        assert len(truth) >= ROUNDS * 8 * ACKNOWLEDGED_PER_WRITER
        for watcher in watchers:
            await watcher.until(last)
            assert watcher.seen == truth
            assert watcher.headers == sorted(watcher.headers)
        nursery.cancel_scope.cancel()


async def last_revision(cluster: LocalCluster) -> int:
    """Of the keys that are watched."""
    request = rpc_pb2.RangeRequest(
        key=KEY,
        range_end=RANGE_END,
        limit=1,
        sort_target=rpc_pb2.RangeRequest.MOD,
        sort_order=rpc_pb2.RangeRequest.DESCEND,
    )
    method = rpc_pb2.DESCRIPTOR.services_by_name["KV"].methods_by_name["Range"]
    async with connect(cluster.address("p1")) as channel:
        reply = await channel.unary(method, request, timeout=BOUND_S)
    revision: int = reply.kvs[0].mod_revision
    return revision
