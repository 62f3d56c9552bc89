"""The JSON gateway: etcd's paths, encoding and errors; streams line by line."""

import base64
import json
from collections.abc import Mapping
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from proto import errors
from proto.bridge import AddressInUse
from proto.rpc_pb2 import PutRequest, TxnRequest, WatchRequest
from proxyd import config
from proxyd.gateway.encoding import parse, render
from proxyd.gateway.server import serve_gateway
from tests.proxyd.conftest import Setting


def b64(text: bytes) -> str:
    return base64.b64encode(text).decode()


class Exchange:
    """One HTTP request to the application, and what it sends."""

    def __init__(self, setting: Setting, method: str, path: str, body: bytes, query: bytes = b"") -> None:
        self.status = 0
        self.text = ""
        self.over = False
        self.scope = trio.CancelScope()
        self._gone = trio.Event()
        self._incoming: list[Mapping[str, Any]] = [{"type": "http.request", "body": body, "more_body": False}]
        scope = {"type": "http", "method": method, "path": path, "query_string": query, "headers": []}
        self.running = setting.start(setting.proxy.gateway(), scope, self._receive, self._send)

    async def _receive(self) -> Mapping[str, Any]:
        if not self._incoming:
            await self._gone.wait()
            return {"type": "http.disconnect"}
        return self._incoming.pop(0)

    async def _send(self, message: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        if message["type"] == "http.response.start":
            self.status = message["status"]
        else:
            self.text += message["body"].decode()
            self.over = not message.get("more_body", False)

    def leave(self) -> None:
        self._gone.set()

    async def reply(self) -> Any:
        await self.running.wait()
        assert self.over
        return json.loads(self.text)

    @property
    def lines(self) -> list[Any]:
        return [json.loads(line) for line in self.text.splitlines()]


def post(setting: Setting, path: str, body: Any) -> Exchange:
    encoded = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Exchange(setting, "POST", path, encoded)


def get(setting: Setting, path: str, query: bytes = b"") -> Exchange:
    return Exchange(setting, "GET", path, b"", query)


async def test_a_put_goes_the_way_of_all_puts(autojump_clock: MockClock, setting: Setting) -> None:
    exchange = post(setting, "/v3/kv/put", {"key": b64(b"k"), "value": b64(b"v")})
    reply = await exchange.reply()
    assert exchange.status == 200
    assert reply == {
        "header": {
            "cluster_id": str(setting.cluster.cluster_id),
            "member_id": "1",
            "revision": "2",
            "raft_term": "1",
        }
    }
    (_, _, request) = setting.cluster.executed[0]
    assert request == PutRequest(key=b"k", value=b"v").SerializeToString()


def test_encoding_of_requests() -> None:
    """Names as in the .proto or in camel case, numbers as strings or numbers, enums by name or number."""
    body = {
        "compare": [
            {"result": "EQUAL", "target": "CREATE", "key": b64(b"\xff\xfe"), "create_revision": "0"},
            {"result": 1, "target": 2, "key": b64(b"k"), "modRevision": 7},
        ],
        "success": [{"requestPut": {"key": b64(b"k"), "lease": "9223372036854775807", "unknown": [1]}}],
        "failure": [{"request_txn": {"success": [{"request_range": {"key": b64(b"k")[:-1]}}]}}],
    }
    (txn,) = parse(json.dumps(body).encode(), TxnRequest)
    assert isinstance(txn, TxnRequest)
    assert txn.compare[0].key == b"\xff\xfe"
    assert txn.compare[0].WhichOneof("target_union") == "create_revision"
    assert (txn.compare[1].result, txn.compare[1].target, txn.compare[1].mod_revision) == (1, 2, 7)
    assert txn.success[0].request_put.lease == 2**63 - 1
    assert txn.failure[0].request_txn.success[0].request_range.key == b"k"


def test_encoding_of_replies() -> None:
    txn = TxnRequest()
    compare = txn.compare.add(result="GREATER", target="LEASE", key=b"\xff\xfb", lease=5)
    assert json.loads(render(txn)) == {
        "compare": [{"result": "GREATER", "target": "LEASE", "key": "//s=", "lease": "5"}]
    }
    compare.Clear()
    assert json.loads(render(txn)) == {"compare": [{}]}


@pytest.mark.parametrize(
    "body",
    [
        b'{"key":',
        b"[]",
        b'"k"',
        b'{"key": "a"} x',
        b'{"key": "%%%%"}',
        b'{"key": "YQ==="}',
        b'{"key": "Y"}',
        b'{"key": "YQ\\u0000=="}',
        b'{"key": 5}',
        b'{"key": ["YQ=="]}',
        b'{"lease": "many"}',
        b'{"lease": 1.5}',
        b'{"lease": "9223372036854775808"}',
        b'{"prev_kv": "yes"}',
        b"\xff\xfe",
        b"[" * 100_000,
    ],
)
async def test_malformed_requests(autojump_clock: MockClock, setting: Setting, body: bytes) -> None:
    exchange = post(setting, "/v3/kv/put", body)
    reply = await exchange.reply()
    assert exchange.status == 400
    assert reply["code"] == errors.INVALID_ARGUMENT
    assert reply["error"] == reply["message"]
    assert setting.cluster.executed == []


async def test_an_empty_body_is_an_empty_request(autojump_clock: MockClock, setting: Setting) -> None:
    for body in (b"", b" \n", b"{}", b"null"):
        reply = await post(setting, "/v3/cluster/member/list", body).reply()
        assert [member["ID"] for member in reply["members"]] == ["1", "2", "3"]


async def test_a_request_that_is_too_large(autojump_clock: MockClock, setting: Setting) -> None:
    exchange = post(setting, "/v3/kv/put", b" " * (config.GATEWAY_BODY_BYTES + 1))
    reply = await exchange.reply()
    assert (exchange.status, reply["code"], reply["message"]) == (400, *errors.REQUEST_TOO_LARGE)


@pytest.mark.parametrize(
    ("method", "path", "status", "code", "text"),
    [
        ("POST", "/v3/kv/nonsense", 404, 5, "Not Found"),
        ("POST", "/", 404, 5, "Not Found"),
        ("GET", "/v3/kv/range", 501, 12, "Method Not Allowed"),
        (
            "POST",
            "/v3/maintenance/snapshot",
            501,
            12,
            "/etcdserverpb.Maintenance/Snapshot is not implemented",
        ),
    ],
)
async def test_what_is_not_there(
    autojump_clock: MockClock, setting: Setting, method: str, path: str, status: int, code: int, text: str
) -> None:
    exchange = Exchange(setting, method, path, b"{}")
    assert await exchange.reply() == {"error": text, "code": code, "message": text}
    assert exchange.status == status


async def test_without_a_leader(autojump_clock: MockClock, setting: Setting) -> None:
    for node in setting.cluster.nodes.values():
        node.kill()
    exchange = post(setting, "/v3/kv/range", {"key": b64(b"k")})
    reply = await exchange.reply()
    assert (exchange.status, reply["code"], reply["message"]) == (503, *errors.NO_LEADER)
    health = get(setting, "/health")
    assert await health.reply() == {"health": "false", "reason": "RAFT NO LEADER"}
    assert health.status == 503


async def test_health_and_version(autojump_clock: MockClock, setting: Setting) -> None:
    setting.cluster.nodes[1].unary_replies["Alarm"] = lambda request: b""
    for query in (b"", b"serializable=true"):
        health = get(setting, "/health", query)
        assert await health.reply() == {"health": "true", "reason": ""}
        assert health.status == 200
    setting.cluster.nodes[1].unary_replies["Alarm"] = lambda request: b"\x12\x04\x08\x01\x10\x01"
    health = get(setting, "/health")
    assert await health.reply() == {"health": "false", "reason": "ALARM NOSPACE"}
    assert health.status == 503
    assert (await get(setting, "/health", b"exclude=NOSPACE").reply())["health"] == "true"
    version = await get(setting, "/version").reply()
    assert all(part.isdecimal() for part in version["etcdserver"].split("."))


async def test_a_watch_is_a_line_for_each_response(autojump_clock: MockClock, setting: Setting) -> None:
    watch = post(setting, "/v3/watch", {"create_request": {"key": b64(b"a")}})
    await setting.until(lambda: watch.lines)
    assert watch.lines[0]["result"]["created"] is True
    setting.cluster.write(b"a", b"1")
    revision = setting.cluster.erase(b"a")
    await setting.until(lambda: f'"{revision}"' in watch.text)
    events = [event for line in watch.lines[1:] for event in line["result"]["events"]]
    assert [event.get("type", "PUT") for event in events] == ["PUT", "DELETE"]
    assert events[0]["kv"]["value"] == b64(b"1")
    assert events[1]["kv"] == {"key": b64(b"a"), "mod_revision": str(revision)}
    watch.leave()
    await watch.running.wait()
    assert setting.proxy.hub.watches == 0


async def test_several_requests_on_one_stream(autojump_clock: MockClock, setting: Setting) -> None:
    """One after the other in the body, as etcd's gateway takes them."""
    body = b"".join(
        json.dumps({"create_request": {"key": b64(key)}}).encode() + b"\n" for key in (b"a", b"b")
    )
    assert len(parse(body, WatchRequest)) == 2
    watch = post(setting, "/v3/watch", body)
    await setting.until(lambda: len(watch.lines) == 2)
    assert [line["result"].get("watch_id", "0") for line in watch.lines] == ["0", "1"]
    watch.leave()
    await watch.running.wait()


async def test_keepalive_answers_and_ends(autojump_clock: MockClock, setting: Setting) -> None:
    setting.cluster.leases = {7: 10}
    for lease, ttl in ((7, "10"), (8, None)):
        exchange = post(setting, "/v3/lease/keepalive", {"ID": str(lease)})
        await exchange.running.wait()
        (line,) = exchange.lines
        assert line["result"]["ID"] == str(lease)
        assert line["result"].get("TTL") == ttl
        assert exchange.over


async def test_errors_of_streams(autojump_clock: MockClock, setting: Setting) -> None:
    for node in setting.cluster.nodes.values():
        node.kill()
    exchange = post(setting, "/v3/lease/keepalive", {"ID": "7"})
    reply = await exchange.reply()
    assert (exchange.status, reply["code"], reply["message"]) == (503, *errors.NO_LEADER)


async def test_too_many_requests(
    autojump_clock: MockClock, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hazard 93."""
    monkeypatch.setattr(config, "MAX_GATEWAY_REQUESTS", 0)
    exchange = post(setting, "/v3/kv/range", {"key": b64(b"k")})
    reply = await exchange.reply()
    assert (exchange.status, reply["code"], reply["message"]) == (429, *errors.TOO_MANY_REQUESTS)


async def test_a_mistake_of_ours_is_logged_and_told(
    autojump_clock: MockClock, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(*arguments: object) -> bytes:
        raise ZeroDivisionError

    monkeypatch.setattr(setting.proxy.kv, "put", fail)
    exchange = post(setting, "/v3/kv/put", {"key": b64(b"k")})
    reply = await exchange.reply()
    assert (exchange.status, reply["code"]) == (500, errors.UNKNOWN)
    assert setting.logged("unexpected error in a handler")


async def test_over_a_socket() -> None:
    """Hypercorn in a nursery of ours: it serves, keeps the connection, and ends when it is asked to."""

    async def application(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"2")]})
            await send({"type": "http.response.body", "body": b"ok"})
        else:
            for name in ("startup", "shutdown"):
                await receive()
                await send({"type": f"lifespan.{name}.complete"})

    gateway: Any = application
    stop = trio.Event()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            port = await nursery.start(serve_gateway, gateway, "127.0.0.1:0", stop.wait, 1.0)
            with pytest.raises(AddressInUse):
                await serve_gateway(gateway, f"127.0.0.1:{port}", stop.wait, 1.0)
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            async with stream:
                for _ in range(2):
                    await stream.send_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
                    received = b""
                    while not received.endswith(b"ok"):
                        received += await stream.receive_some()
                    assert received.startswith(b"HTTP/1.1 200")
            stop.set()
