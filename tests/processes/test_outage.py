"""What a client sees while nodes are down: delays, clear words, and nothing lost."""

from pathlib import Path

import pytest
import trio

from clientctl.client import Client
from clientctl.errors import KeyValueError, NotDone
from tests.processes.cluster import BOUND_S, run_python, running_cluster

pytestmark = pytest.mark.processes


async def test_one_node_left_of_three(tmp_path: Path) -> None:
    """Writes fail at the deadline with a clear status, serializable reads go on."""
    async with running_cluster(tmp_path) as cluster:
        async with Client([cluster.address("p1")], timeout=BOUND_S) as client:
            await client.put(b"k", b"before")
            # So that the survivor, whichever it is, has applied it.
            for name in cluster.names:
                async with Client([cluster.address(name)], timeout=BOUND_S) as at_node:
                    await at_node.get(b"k")
            survivor, *others = cluster.names
            await cluster.kill(*others)
            for server in ("p1", survivor):
                async with Client([cluster.address(server)]) as client_here:
                    with pytest.raises(KeyValueError) as failed, trio.fail_after(BOUND_S):
                        await client_here.put(b"k", b"during", timeout=1.0)
                    assert failed.value.text
                    with pytest.raises(NotDone):
                        await client_here.get(b"k", timeout=1.0)
                    reply = await client_here.get(b"k", consistency="serializable", timeout=BOUND_S)
                    assert [pair.value for pair in reply.kvs] == [b"before"]
            await cluster.restart(*others)
            await client.put(b"k", b"after")
            reply = await client.get(b"k")
            assert [pair.value for pair in reply.kvs] == [b"after"]


async def test_all_nodes_down(tmp_path: Path) -> None:
    """A put that waits is done when the nodes come back; one that does not wait fails with a clear status."""
    async with running_cluster(tmp_path) as cluster:
        await cluster.kill(*cluster.names)
        endpoint = ("--endpoints", cluster.address("p1"))
        for verb in (("put", "k", "v"), ("get", "k")):
            ended = await run_python("clientctl", *endpoint, "--timeout", "1s", *verb)
            assert ended.status in (3, 4)
            assert "Error: " in ended.stderr
        async with Client([cluster.address("p1")], timeout=BOUND_S) as client, trio.open_nursery() as nursery:
            nursery.start_soon(client.put, b"waits", b"and is done")
            await cluster.restart(*cluster.names)
        async with Client([cluster.address("p1")], timeout=BOUND_S) as client:
            assert (await client.get(b"waits")).kvs[0].value == b"and is done"


async def test_a_proxy_starts_before_its_nodes(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        await cluster.kill(*cluster.names, "p1")
        await cluster.restart("p1", wait=False)
        async with Client([cluster.address("p1")], timeout=BOUND_S) as client, trio.open_nursery() as nursery:
            nursery.start_soon(client.put, b"k", b"v")
            await cluster.restart(*cluster.names)
