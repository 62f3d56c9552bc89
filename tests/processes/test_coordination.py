"""The library's watches, locks and leases on a real cluster whose nodes are killed (hazards 40, 41)."""

from collections.abc import Sequence

import pytest
import trio

from clientctl.client import Client
from clientctl.errors import KeyValueError, LeaseLost
from clientctl.watch import Watch
from tests.processes.cluster import BOUND_S, LocalCluster

pytestmark = pytest.mark.processes

ROUNDS = 3
PUTS_PER_ROUND = 60


async def follow(watch: Watch, seen: list[tuple[int, bytes]]) -> None:
    async for event in watch:
        seen.append((event.kv.mod_revision, event.kv.value))
        if event.kv.value == b"end":
            break


async def put(client: Client, value: bytes) -> None:
    """Perhaps more than once: a write may be unknown, and the history says whether it was done."""
    while True:
        try:
            await client.put("watched", value)
        except KeyValueError:
            continue
        return


async def history(client: Client, since: int) -> list[tuple[int, bytes]]:
    """Each version of the key, read one by one."""
    versions = []
    last = (await client.get("watched")).kvs[0].mod_revision
    while last >= since:
        pair = (await client.get("watched", revision=last)).kvs[0]
        versions.append((pair.mod_revision, pair.value))
        before = await client.get("watched", revision=pair.mod_revision - 1)
        last = before.kvs[0].mod_revision if before.kvs else 0
    return versions[::-1]


@pytest.mark.parametrize("through", ["nodes", "proxy"])
async def test_watches_over_the_death_of_nodes(cluster: LocalCluster, through: str) -> None:
    """The leader dies, then the first endpoint, which serves the watches; the events are the history."""
    nodes = [cluster.address(name) for name in cluster.names]
    endpoints: Sequence[str] = nodes if through == "nodes" else [cluster.address("p1")]
    seen: list[list[tuple[int, bytes]]] = [[], []]
    with trio.fail_after(BOUND_S):
        async with Client(endpoints) as writer, Client(endpoints) as client:
            since = (await writer.put("watched", "first")).header.revision
            async with (
                client.watch("watched", start_revision=since) as one,
                client.watch("watch", prefix=True, start_revision=since, fragment=True) as other,
                trio.open_nursery() as nursery,
            ):
                nursery.start_soon(follow, one, seen[0])
                nursery.start_soon(follow, other, seen[1])
                for number in range(ROUNDS):
                    victim = cluster.names[0] if number % 2 else await cluster.leader()
                    for put_number in range(PUTS_PER_ROUND):
                        if put_number == PUTS_PER_ROUND // 3:
                            await cluster.kill(victim)
                        await put(writer, b"%d/%d" % (number, put_number))
                    await cluster.restart(victim)
                await put(writer, b"end")
            written = await history(writer, since)
    for events in seen:
        assert events == written[: len(events)]
        assert {value for _, value in written[len(events) :]} <= {b"end"}


async def test_a_lock_outlives_the_leader_and_is_held_by_one(cluster: LocalCluster) -> None:
    inside: list[int] = []
    tokens: list[int] = []
    nodes = [cluster.address(name) for name in cluster.names]

    async def contend(number: int) -> None:
        async with Client(nodes) as client:
            for _ in range(3):
                async with client.lock("contended", ttl=30) as lock:
                    inside.append(number)
                    tokens.append(lock.revision)
                    assert inside == [number]
                    if len(tokens) == 4:
                        leader = await cluster.leader()
                        await cluster.kill(leader)
                        await client.get("anything", timeout=BOUND_S)
                        await cluster.restart(leader)
                    assert not lock.lease.lost
                    assert inside == [number]
                    inside.remove(number)

    with trio.fail_after(BOUND_S):
        async with trio.open_nursery() as nursery:
            for number in range(3):
                nursery.start_soon(contend, number)
    assert len(tokens) == 9
    assert tokens == sorted(set(tokens))


@pytest.mark.parametrize("name", ["n1", "n2", "n3", "p1"])
async def test_everything_of_leases_through_each_process(cluster: LocalCluster, name: str) -> None:
    async def outlive(client: Client) -> None:
        async with client.lease(60) as lease:
            await client.put("leased", "v", lease=lease.id)
            left = await client.lease_time_to_live(lease.id, keys=True)
            assert (left.grantedTTL, list(left.keys)) == (60, [b"leased"])
            assert (await client.lease_keep_alive(lease.id)).TTL == 60
            assert lease.id in [one.ID for one in (await client.leases()).leases]
            async with client.watch("leased") as watch:
                await client.lease_revoke(lease.id)
                assert (await watch.__anext__()).type == 1
            assert (await client.lease_keep_alive(lease.id)).TTL == 0
            await client.put("leased", "v", ttl=60)
            await client.delete("leased")
            raise LeaseLost(5, "done")

    with trio.fail_after(BOUND_S):
        async with Client([cluster.address(name)]) as client:
            with pytest.raises(LeaseLost, match="done"):
                await outlive(client)


async def test_an_election_changes_hands(cluster: LocalCluster) -> None:
    async with Client([cluster.address("p1")]) as client, Client([cluster.address("n1")]) as elsewhere:
        with elsewhere.election("office").observe() as observation:
            for value in (b"first", b"second"):
                async with client.election("office").campaign(value) as leadership:
                    assert (await observation.__anext__()).value == value
                    await leadership.proclaim(value + b" again")
                    assert (await observation.__anext__()).value == value + b" again"
        assert await elsewhere.election("office").leader() is None
