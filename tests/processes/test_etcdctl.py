"""Debian's stock etcdctl works against the proxy and against each node."""

import json

import pytest

from tests.processes.cluster import Ended, LocalCluster, needs, run

pytestmark = [pytest.mark.processes, needs("etcdctl"), pytest.mark.xdist_group("etcdctl")]

everywhere = pytest.mark.parametrize("server", ["p1", "n1", "n2", "n3"])


class Etcdctl:
    """etcdctl against one server of the cluster, each test below a prefix of its own."""

    def __init__(self, cluster: LocalCluster, server: str, prefix: str) -> None:
        self._address = cluster.address(server)
        self.prefix = f"{prefix}-{server}/"

    async def run(self, *arguments: str, stdin: str = "") -> Ended:
        argv = ["etcdctl", "--endpoints", self._address, *arguments]
        return await run(*argv, stdin=stdin.encode(), environ={"ETCDCTL_API": "3"})

    async def __call__(self, *arguments: str, stdin: str = "") -> str:
        """Its output, after it has succeeded in silence on stderr; "~" stands for the prefix."""
        ended = await self.run(*(word.replace("~", self.prefix) for word in arguments), stdin=stdin)
        assert (ended.status, ended.stderr) == (0, ""), ended
        return ended.stdout.replace(self.prefix, "~")


@pytest.fixture
def etcdctl(cluster: LocalCluster, server: str, request: pytest.FixtureRequest) -> Etcdctl:
    return Etcdctl(cluster, server, request.function.__name__)


@everywhere
async def test_put_and_get(etcdctl: Etcdctl) -> None:
    assert await etcdctl("put", "~k", "one") == "OK\n"
    assert await etcdctl("put", "~k", stdin="from stdin") == "OK\n"
    assert await etcdctl("get", "~k") == "~k\nfrom stdin\n"
    assert await etcdctl("put", "~k", "three", "--prev-kv") == "OK\n~k\nfrom stdin\n"
    assert await etcdctl("put", "~k", "--ignore-value") == "OK\n"
    assert await etcdctl("get", "~k", "--print-value-only") == "three\n"
    assert await etcdctl("get", "~absent") == ""


@everywhere
async def test_get_with_its_flags(etcdctl: Etcdctl) -> None:
    for key, value in (("a", "3"), ("b", "2"), ("c", "1")):
        await etcdctl("put", f"~{key}", value)
    assert await etcdctl("get", "~a", "~c") == "~a\n3\n~b\n2\n"
    assert await etcdctl("get", "~", "--prefix", "--keys-only") == "~a\n\n~b\n\n~c\n\n"
    assert await etcdctl("get", "~", "--prefix", "--limit", "2", "--print-value-only") == "3\n2\n"
    assert await etcdctl("get", "~b", "--from-key", "--limit", "1") == "~b\n2\n"
    assert (
        await etcdctl("get", "~", "--prefix", "--order", "DESCEND", "--sort-by", "KEY", "--print-value-only")
        == "1\n2\n3\n"
    )
    assert await etcdctl("get", "~", "--prefix", "--sort-by", "VALUE", "--print-value-only") == "1\n2\n3\n"
    assert await etcdctl("get", "~a", "--consistency", "s") == "~a\n3\n"


@everywhere
async def test_get_at_a_revision(etcdctl: Etcdctl) -> None:
    await etcdctl("put", "~k", "old")
    document = json.loads(await etcdctl("get", "~k", "-w", "json"))
    revision = document["header"]["revision"]
    assert document["kvs"][0]["mod_revision"] == revision
    assert document["header"]["cluster_id"]
    assert document["header"]["member_id"]
    await etcdctl("put", "~k", "new")
    assert await etcdctl("get", "~k", "--rev", str(revision), "--print-value-only") == "old\n"
    ended = await etcdctl.run("get", "k", "--rev", str(revision + 1_000_000))
    assert ended.status == 1
    assert "etcdserver: mvcc: required revision is a future revision" in ended.stderr


@everywhere
async def test_del(etcdctl: Etcdctl) -> None:
    for key in ("a", "b", "c"):
        await etcdctl("put", f"~{key}", key)
    assert await etcdctl("del", "~a", "--prev-kv") == "1\n~a\na\n"
    assert await etcdctl("del", "~a") == "0\n"
    assert await etcdctl("del", "~", "--prefix") == "2\n"
    assert await etcdctl("get", "~", "--prefix") == ""


@everywhere
async def test_txn(etcdctl: Etcdctl) -> None:
    await etcdctl("put", "~k", "1")
    key = f"{etcdctl.prefix}k"
    script = f'value("{key}") = "1"\n\nput {key} 2\nget {key}\n\nget {key}\n\n'
    assert await etcdctl("txn", stdin=script) == "SUCCESS\n\nOK\n\n~k\n2\n"
    assert await etcdctl("txn", stdin=script) == "FAILURE\n\n~k\n2\n"
    create = f'create("{key}/new") = "0"\n\nput {key}/new x\n\n\n'
    assert await etcdctl("txn", stdin=create) == "SUCCESS\n\nOK\n"
    assert (await etcdctl("txn", stdin=create)).startswith("FAILURE")


@everywhere
async def test_errors_are_those_of_etcd(etcdctl: Etcdctl) -> None:
    ended = await etcdctl.run("put", "", "v")
    assert (ended.status, "etcdserver: key is not provided" in ended.stderr) == (1, True), ended
    ended = await etcdctl.run("put", "never-written", "--ignore-value")
    assert (ended.status, "etcdserver: key not found" in ended.stderr) == (1, True), ended
    ended = await etcdctl.run("put", "k", "v", "--lease", "1234")
    assert (ended.status, "etcdserver: requested lease not found" in ended.stderr) == (1, True), ended


@everywhere
async def test_a_request_over_the_limit(etcdctl: Etcdctl) -> None:
    ended = await etcdctl.run("put", "large", stdin="x" * (1536 * 1024))
    assert ended.status == 1
    assert "etcdserver: request is too large" in ended.stderr
    await etcdctl("put", "~large", stdin="x" * (1024 * 1024))
    assert len(await etcdctl("get", "~large", "--print-value-only")) == 1024 * 1024 + 1


@everywhere
async def test_endpoint_status_and_health(etcdctl: Etcdctl, cluster: LocalCluster, server: str) -> None:
    table = await etcdctl("endpoint", "status", "-w", "table")
    assert "IS LEADER" in table
    assert cluster.address(server) in table
    status = json.loads(await etcdctl("endpoint", "status", "-w", "json"))[0]["Status"]
    assert status["leader"]
    assert status["version"] == "3.5.0"
    assert status["raftIndex"] >= status["raftAppliedIndex"] > 0
    ended = await etcdctl.run("endpoint", "health")
    assert ended.status == 0
    assert "is healthy: successfully committed proposal" in ended.stdout + ended.stderr


async def test_one_endpoint_calls_itself_leader(cluster: LocalCluster) -> None:
    endpoints = ",".join(cluster.address(name) for name in cluster.names)
    ended = await run(
        *("etcdctl", "--endpoints", endpoints, "endpoint", "status", "-w", "json"),
        environ={"ETCDCTL_API": "3"},
    )
    statuses = [answer["Status"] for answer in json.loads(ended.stdout)]
    assert len({status["leader"] for status in statuses}) == 1
    assert statuses[0]["leader"] in {status["header"]["member_id"] for status in statuses}


@everywhere
async def test_member_list(etcdctl: Etcdctl, cluster: LocalCluster) -> None:
    table = await etcdctl("member", "list", "-w", "table")
    members = json.loads(await etcdctl("member", "list", "-w", "json"))["members"]
    assert sorted(member["name"] for member in members) == cluster.names
    for member in members:
        record = cluster.record.node(member["name"])
        assert member["peerURLs"] == [record.peer_url]
        assert member["clientURLs"] == [record.client_url]
        assert record.client_url in table
        assert f"{member['ID']:x}" in table


@everywhere
async def test_what_is_not_there_yet_says_so(etcdctl: Etcdctl) -> None:
    ended = await etcdctl.run("user", "list")
    assert ended.status == 1
    assert "Unimplemented" in ended.stderr
