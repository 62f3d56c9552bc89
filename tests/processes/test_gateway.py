"""The JSON gateway of a real proxyd: curl, etcd3gw, and what Patroni asks for."""

import base64
import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio

from bench import process
from tests.processes.cluster import BOUND_S, LocalCluster, needs, run, run_python

pytestmark = [pytest.mark.processes, needs("curl"), pytest.mark.xdist_group("etcdctl")]


def b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@asynccontextmanager
async def gateway(cluster: LocalCluster, directory: Path) -> AsyncIterator[str]:
    """The gateway's address, of a proxyd of its own."""
    log = directory / "proxyd.log"
    nodes = ",".join(cluster.address(name) for name in cluster.names)
    flags = ["--endpoints", nodes, "--listen-addr", "127.0.0.1:0", "--listen-http-addr", "127.0.0.1:0"]
    child = process.start([sys.executable, "-m", "proxyd", *flags], log)
    try:
        with trio.fail_after(BOUND_S):
            while "leader changed" not in (text := log.read_text()) or "serving JSON" not in text:
                assert child.poll() is None, text
                await trio.sleep(0.02)
        (line,) = [line for line in text.splitlines() if "serving JSON" in line]
        yield json.loads(line)["clients"].removeprefix("http://")
    finally:
        assert await process.stop(child, BOUND_S) == 0, log.read_text()


async def curl(address: str, path: str, body: Any = None) -> tuple[int, str]:
    """HTTP status and body."""
    data = [] if body is None else ["--data", body if isinstance(body, str) else json.dumps(body)]
    ended = await run("curl", "-sS", "-w", "\n%{http_code}", f"http://{address}{path}", *data)
    text, _, status = ended.stdout.rpartition("\n")
    return int(status), text


async def lines(address: str, path: str, body: Any, count: int) -> list[Any]:
    """The first results of a stream."""
    argv = ["curl", "-sS", "--no-buffer", f"http://{address}{path}", "--data", json.dumps(body)]
    text = ""
    async with trio.open_nursery() as nursery:
        child = await nursery.start(partial(trio.run_process, argv, stdout=subprocess.PIPE, check=False))
        with trio.fail_after(BOUND_S):
            while text.count("\n") < count:
                received = await child.stdout.receive_some()
                assert received, text
                text += received.decode()
        nursery.cancel_scope.cancel()
    return [json.loads(line)["result"] for line in text.splitlines()[:count]]


async def test_curl(cluster: LocalCluster, tmp_path: Path) -> None:
    async with gateway(cluster, tmp_path) as address:
        status, text = await curl(address, "/v3/kv/put", {"key": b64("curl"), "value": b64("1")})
        assert status == 200
        revision = int(json.loads(text)["header"]["revision"])
        status, text = await curl(address, "/v3/kv/range", {"key": b64("curl")})
        (kv,) = json.loads(text)["kvs"]
        assert kv == {
            "key": b64("curl"),
            "value": b64("1"),
            "create_revision": str(revision),
            "mod_revision": str(revision),
            "version": "1",
        }
        watch = {"create_request": {"key": b64("curl"), "start_revision": str(revision)}}
        created, events = await lines(address, "/v3/watch", watch, 2)
        assert created["created"] is True
        assert events["events"] == [{"kv": kv}]
        for body in ('{"key":', '{"key": "not base64"}'):
            status, text = await curl(address, "/v3/kv/range", body)
            assert (status, json.loads(text)["code"]) == (400, 3)
        status, text = await curl(address, "/v3/lease/revoke", {"ID": "1"})
        assert (status, json.loads(text)["error"]) == (404, "etcdserver: requested lease not found")
        assert await curl(address, "/health") == (200, '{"health": "true", "reason": ""}')


async def test_etcd3gw(cluster: LocalCluster, tmp_path: Path) -> None:
    async with gateway(cluster, tmp_path) as address:
        ended = await run_python("tests.processes.stock_etcd3gw", address)
        assert (ended.status, ended.stdout) == (0, "done\n"), ended


async def test_what_patroni_asks_for(cluster: LocalCluster, tmp_path: Path) -> None:
    """In the shape in which Patroni's etcd3 mode sends it."""
    async with gateway(cluster, tmp_path) as address:
        status, text = await curl(address, "/version")
        assert [int(part) for part in json.loads(text)["etcdserver"].split(".")] >= [3, 3]
        _, text = await curl(address, "/v3/cluster/member/list", {})
        assert all(member["clientURLs"] for member in json.loads(text)["members"])
        _, text = await curl(address, "/v3/lease/grant", {"TTL": 30})
        lease = json.loads(text)["ID"]
        _, text = await curl(address, "/v3/lease/keepalive", {"ID": lease})
        assert json.loads(text)["result"]["TTL"] == "30"
        key, prefix = b64("/service/demo/leader"), b64("/service/demo/")
        put = {"request_put": {"key": key, "value": b64("n1"), "lease": lease}}
        absent = {"target": "CREATE", "create_revision": "0", "key": key}
        held = {"target": "VALUE", "value": b64("n1"), "key": key}
        nested = {"request_txn": {"compare": [held], "success": [put], "failure": []}}
        acquire = {"compare": [absent], "success": [put], "failure": [nested]}
        _, text = await curl(address, "/v3/kv/txn", acquire)
        assert json.loads(text)["succeeded"] is True
        _, text = await curl(address, "/v3/kv/txn", acquire)
        reply = json.loads(text)
        assert "succeeded" not in reply
        assert reply["responses"][0]["response_txn"]["succeeded"] is True
        watch = {
            "create_request": {
                "key": prefix,
                "range_end": b64("/service/demo0"),
                "start_revision": reply["header"]["revision"],
                "filters": ["NOPUT"],
            }
        }
        await curl(address, "/v3/kv/deleterange", {"key": key})
        _created, deletion = await lines(address, "/v3/watch", watch, 2)
        (event,) = deletion["events"]
        assert event["type"] == "DELETE"
        status, text = await curl(address, "/v3/auth/authenticate", {"name": "a", "password": "b"})
        assert (status, json.loads(text)["code"]) == (404, 5)
