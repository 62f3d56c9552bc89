"""Reads go to the followers, and `clientctl endpoint status -w json` shows it."""

import json

import pytest

from clientctl.client import Client
from tests.processes.cluster import BOUND_S, LocalCluster, run_python

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("etcdctl")]

GETS = 300


async def reads_served(cluster: LocalCluster) -> dict[str, int]:
    endpoints = ",".join(cluster.address(name) for name in cluster.names)
    ended = await run_python("clientctl", "--endpoints", endpoints, "endpoint", "status", "-w", "json")
    assert (ended.status, ended.stderr) == (0, "")
    answers = json.loads(ended.stdout)
    return {
        name: answer["Counters"]["reads_served"] for name, answer in zip(cluster.names, answers, strict=True)
    }


async def test_followers_serve_nine_gets_of_ten(cluster: LocalCluster) -> None:
    leader = await cluster.leader()
    before = await reads_served(cluster)
    async with Client([cluster.address("p1")], timeout=BOUND_S) as client:
        await client.put(b"read", b"often")
        for _ in range(GETS):
            assert (await client.get(b"read")).kvs[0].value == b"often"
    after = await reads_served(cluster)
    served = {name: after[name] - before[name] for name in cluster.names}
    assert sum(served.values()) >= GETS
    assert served[leader] <= 0.1 * sum(served.values())
    assert all(count for name, count in served.items() if name != leader), "one follower did all the work"


async def test_gets_go_on_while_a_follower_dies(cluster: LocalCluster) -> None:
    leader = await cluster.leader()
    victim = next(name for name in cluster.names if name != leader)
    async with Client([cluster.address("p1")], timeout=BOUND_S) as client:
        await client.put(b"read", b"always")
        for number in range(GETS):
            if number == GETS // 3:
                await cluster.kill(victim)
            assert (await client.get(b"read")).kvs[0].value == b"always"
    await cluster.restart(victim)
    await cluster.until_serving()
