"""SIGKILL under load: every acknowledged put is there, and each was executed once (hazards 1 to 4, 30, 76,
87)."""

from pathlib import Path

import pytest

from tests.processes.cluster import LocalCluster, running_cluster
from tests.processes.load import Load

pytestmark = pytest.mark.processes

LEADER_ROUNDS = 14
ALL_ROUNDS = 7
ACKNOWLEDGED_PER_WRITER = 200


async def round_of(cluster: LocalCluster, number: int, *, everybody: bool) -> Load:
    """Kill early or late in the load, differently in each round; go on writing; bring back what died."""
    load = Load(cluster.address("p1"), f"round-{number}")
    victims = cluster.names if everybody else [await cluster.leader()]
    async with load.running():
        await load.until(5 + 17 * number % 150)
        await cluster.kill(*victims)
        if everybody:
            await cluster.restart(*victims)
        await load.until(ACKNOWLEDGED_PER_WRITER)
    if not everybody:
        await cluster.restart(*victims)
    await load.check(cluster.address("p1"))
    assert load.refused == 0, "the proxy carries a write over a change of leader"
    return load


async def check_every_node(cluster: LocalCluster, loads: list[Load]) -> None:
    """Each node alone holds all of it: first on its own disk, then after a start from that disk."""
    for name in cluster.names:
        for load in loads:
            await load.check(cluster.address(name))
    await cluster.kill(*cluster.names)
    await cluster.restart(*cluster.names)
    for name in cluster.names:
        for load in loads:
            await load.check(cluster.address(name))


async def test_leader_killed_under_load(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        loads = [await round_of(cluster, number, everybody=False) for number in range(LEADER_ROUNDS)]
        await check_every_node(cluster, loads)


async def test_all_nodes_killed_at_once_under_load(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        loads = [await round_of(cluster, number, everybody=True) for number in range(ALL_ROUNDS)]
        await check_every_node(cluster, loads)
