"""A program on PyPI's aetcd, run by `test_python_aetcd.py` in a process of its own, given the endpoint.

It must not import our `proto`: both define `etcdserverpb`, and protobuf refuses the second.
"""

import asyncio
import sys

import aetcd

BOUND_S = 60


async def use(client: aetcd.Client, prefix: bytes) -> None:
    await client.put(prefix + b"a", b"1")
    found = await client.get(prefix + b"a")
    assert (found.value, found.version) == (b"1", 1), found
    assert await client.get(prefix + b"absent") is None
    watching = await client.watch(prefix + b"watched")
    await client.put(prefix + b"watched", b"2")
    async for event in watching:
        assert (event.kind, event.kv.value) == (aetcd.rtypes.EventKind.PUT, b"2"), event
        break
    await watching.cancel()
    lease = await client.lease(60)
    await client.put(prefix + b"leased", b"3", lease=lease)
    await lease.refresh()
    await lease.revoke()
    assert await client.get(prefix + b"leased") is None
    succeeded, _ = await client.transaction(
        compare=[client.transactions.value(prefix + b"a") == b"1"],
        success=[client.transactions.put(prefix + b"b", b"4")],
        failure=[],
    )
    assert succeeded
    assert (await client.get(prefix + b"b")).value == b"4"
    async with client.lock(prefix + b"lock", ttl=60):
        assert len(await client.get_prefix(prefix)) >= 3
    await client.delete_prefix(prefix)
    assert await client.get(prefix + b"a") is None


async def main() -> None:
    host, port = sys.argv[1].split(":")
    async with aetcd.Client(host=host, port=int(port), timeout=30) as client, asyncio.timeout(BOUND_S):
        await use(client, b"/python-aetcd/%d/" % int(port))
    sys.stdout.write("done\n")


if __name__ == "__main__":
    asyncio.run(main())
