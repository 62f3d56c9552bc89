"""SIGTERM: leadership is handed over, what is in flight is drained, exit 0 within 5 s."""

import json
from pathlib import Path

import pytest
import trio

from tests.processes.cluster import LocalCluster, running_cluster
from tests.processes.load import Load

pytestmark = pytest.mark.processes

STOP_BOUND_S = 5.0
"""What is promised; systemd would kill later."""


def handed_over(cluster: LocalCluster, name: str) -> bool:
    """Whether the node followed another leader before it ended."""
    lines = [json.loads(line) for line in cluster.log(name).splitlines()]
    stopping = max(number for number, line in enumerate(lines) if line["event"] == "stopping")
    assert lines[stopping]["role"] == "leader"
    return any(line.get("role") == "follower" and line["leader"] for line in lines[stopping:])


async def test_a_leader_hands_over_and_ends_within_5_s(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        load = Load(cluster.address("p1"), "k")
        async with load.running():
            for number in range(1, 5):
                await load.until(30 * number)
                leader = await cluster.leader()
                with trio.fail_after(STOP_BOUND_S):
                    assert await cluster.terminate(leader) == 0
                assert handed_over(cluster, leader)
                await cluster.restart(leader)
        await load.check(cluster.address("p1"))
        assert load.refused == 0


async def test_a_proxy_drains_and_ends_within_5_s(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        load = Load(cluster.address("p1"), "k")
        async with load.running():
            await load.until(30)
            with trio.fail_after(STOP_BOUND_S):
                assert await cluster.terminate("p1") == 0
            await cluster.restart("p1", wait=False)
            await load.until(60)
        await load.check(cluster.address("p1"))
