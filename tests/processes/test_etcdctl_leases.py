"""Debian's stock etcdctl watches, keeps leases, locks and compares hashes, at each node."""

import json
import re

import pytest

from tests.processes.cluster import LocalCluster, needs
from tests.processes.test_etcdctl import Etcdctl

pytestmark = [pytest.mark.processes, needs("etcdctl"), pytest.mark.xdist_group("etcdctl")]

END_OF_WATCH = ("--", "sh", "-c", "kill $PPID")
"""What etcdctl is to execute for an event: its own end."""


@pytest.fixture(params=["n1", "n2", "n3"])
def node(cluster: LocalCluster, request: pytest.FixtureRequest) -> Etcdctl:
    return Etcdctl(cluster, request.param, request.function.__name__)


async def revision_of(node: Etcdctl, key: str) -> int:
    document = json.loads(await node("get", key, "-w", "json"))
    revision: int = document["kvs"][0]["mod_revision"]
    return revision


async def test_watch_the_past(node: Etcdctl) -> None:
    await node("put", "~k", "one")
    revision = await revision_of(node, "~k")
    ended = await node.run("watch", f"{node.prefix}k", "--rev", str(revision), *END_OF_WATCH)
    assert ended.stdout == f"PUT\n{node.prefix}k\none\n"
    await node("put", "~k", "two")
    ended = await node.run(
        *("watch", node.prefix, "--prefix", "--prev-kv", "--rev", str(revision + 1)), *END_OF_WATCH
    )
    assert ended.stdout.startswith("PUT\n")
    assert f"{node.prefix}k\none\n{node.prefix}k\ntwo\n" in ended.stdout


async def test_the_life_of_a_lease(node: Etcdctl) -> None:
    granted = re.fullmatch(r"lease ([0-9a-f]+) granted with TTL\(60s\)\n", await node("lease", "grant", "60"))
    assert granted is not None
    lease = granted[1]
    await node("put", "~k", "v", "--lease", lease)
    asked = await node("lease", "timetolive", lease, "--keys")
    assert re.fullmatch(
        rf"lease {lease} granted with TTL\(60s\), remaining\((60|5\d)s\), attached keys\(\[~k\]\)\n", asked
    )
    assert lease in (await node("lease", "list")).splitlines()
    kept = await node("lease", "keep-alive", "--once", lease)
    assert kept == f"lease {lease} keepalived with TTL(60)\n"
    assert await node("lease", "revoke", lease) == f"lease {lease} revoked\n"
    assert await node("get", "~k") == ""
    assert await node("lease", "timetolive", lease) == f"lease {lease} already expired\n"
    ended = await node.run("lease", "revoke", lease)
    assert (ended.status, "etcdserver: requested lease not found" in ended.stderr) == (1, True), ended


async def test_lock_around_a_command(node: Etcdctl) -> None:
    assert await node("lock", "~name", "echo", "held") == "held\n"
    assert await node("lock", "~name", "echo", "again") == "again\n"


async def test_nodes_agree_on_their_hashes(node: Etcdctl) -> None:
    await node("put", "~k", "v")
    revision = str(await revision_of(node, "~k"))
    (found,) = json.loads(await node("endpoint", "hashkv", "--rev", revision, "-w", "json"))
    assert found["HashKV"]["hash"] > 0
    assert "Finished defragmenting" in await node("defrag")
    assert await node("alarm", "list") == ""
