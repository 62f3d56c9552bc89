"""The gateway's HTTP, as an ASGI application: which request goes where, and how errors look.

A request's body is read to its end before anything is done. Replies of a stream are one JSON object per line.
"""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import trio
from google.protobuf.message import Message

from proto import errors
from proto.errors import Status
from proxyd import config
from proxyd.gateway.calls import HttpCall, call_stream, call_unary, status_of
from proxyd.gateway.encoding import parse, render
from proxyd.gateway.health import HealthPage
from proxyd.gateway.routes import Route

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

HTTP_STATUSES: Final = {
    errors.CANCELLED: 499,
    errors.UNKNOWN: 500,
    errors.INVALID_ARGUMENT: 400,
    errors.DEADLINE_EXCEEDED: 504,
    errors.NOT_FOUND: 404,
    errors.ALREADY_EXISTS: 409,
    errors.PERMISSION_DENIED: 403,
    errors.RESOURCE_EXHAUSTED: 429,
    errors.FAILED_PRECONDITION: 400,
    errors.ABORTED: 409,
    errors.OUT_OF_RANGE: 400,
    errors.UNIMPLEMENTED: 501,
    errors.INTERNAL: 500,
    errors.UNAVAILABLE: 503,
    errors.DATA_LOSS: 500,
    errors.UNAUTHENTICATED: 401,
}
_METADATA_PREFIX: Final = "grpc-metadata-"
_VERSION: Final = {"etcdserver": config.ETCD_VERSION, "etcdcluster": config.ETCD_VERSION}


class _ClientLeft(Exception):
    pass


class Gateway:
    """An ASGI application. `under_way` counts requests."""

    def __init__(self, routes: Mapping[str, Route], health: HealthPage) -> None:
        self._routes = routes
        self._health = health
        self.under_way = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _lifespan(receive, send)
        elif scope["type"] == "http":
            exchange = _Exchange(scope, receive, send)
            self.under_way += 1
            try:
                await self._answer(exchange)
            except _ClientLeft:
                return  # there is nobody to answer
            finally:
                self.under_way -= 1
        else:
            await send({"type": "websocket.close"})

    async def _answer(self, exchange: "_Exchange") -> None:
        try:
            if self.under_way > config.MAX_GATEWAY_REQUESTS:
                raise Status(*errors.TOO_MANY_REQUESTS)
            if exchange.method == "GET" and exchange.path == "/version":
                await exchange.respond(200, json.dumps(_VERSION))
            elif exchange.method == "GET" and exchange.path == "/health":
                await exchange.respond(*await self._health.page(exchange.query))
            else:
                await self._call(exchange)
        except _ClientLeft:
            raise
        except Exception as error:
            await exchange.fail(status_of(error))

    async def _call(self, exchange: "_Exchange") -> None:
        route = self._routes.get(exchange.path)
        if route is None:
            raise Status(errors.NOT_FOUND, "Not Found")
        if exchange.method != "POST":
            raise Status(errors.UNIMPLEMENTED, "Method Not Allowed")
        requests = parse(await exchange.body(), route.request)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(exchange.watch_for_leaving, nursery.cancel_scope)
            if route.method.client_streaming or route.method.server_streaming:
                await call_stream(route, requests, exchange.peer, exchange.metadata, exchange.send_results)
                await exchange.end_stream()
            else:
                call = HttpCall(exchange.peer, exchange.metadata)
                await exchange.respond(200, render(await call_unary(route, requests[0], call)))
            nursery.cancel_scope.cancel()


class _Exchange:
    """One HTTP request and its response."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.query: bytes = scope["query_string"]
        host, port = (scope.get("client") or ("", 0))[:2]
        self.peer = f"http:{host}:{port}"
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        self.metadata = {
            name.removeprefix(_METADATA_PREFIX): value
            for name, value in headers.items()
            if name.startswith(_METADATA_PREFIX)
        }
        self._receive = receive
        self._send = send
        self._streams = False

    async def body(self) -> bytes:
        """All of it. Raises Status when it is too long, or too long in coming (hazard 93)."""
        with trio.move_on_after(config.GATEWAY_IDLE_S):
            return await self._read()
        raise Status(errors.DEADLINE_EXCEEDED, "the request did not arrive in time")

    async def _read(self) -> bytes:
        parts: list[bytes] = []
        size_bytes = 0
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise _ClientLeft
            parts.append(message.get("body", b""))
            size_bytes += len(parts[-1])
            if size_bytes > config.GATEWAY_BODY_BYTES:
                raise Status(*errors.REQUEST_TOO_LARGE)
            more = message.get("more_body", False)
        return b"".join(parts)

    async def watch_for_leaving(self, scope: trio.CancelScope) -> None:
        """A client that leaves takes its call with it."""
        while (await self._receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    async def respond(self, status: int, text: str) -> None:
        await self._start(status)
        await self._send({"type": "http.response.body", "body": text.encode()})

    async def send_results(self, replies: Sequence[Message]) -> None:
        if not self._streams:
            await self._start(200)
            self._streams = True
        lines = "".join(f'{{"result":{render(reply)}}}\n' for reply in replies)
        await self._send({"type": "http.response.body", "body": lines.encode(), "more_body": True})

    async def end_stream(self) -> None:
        if not self._streams:
            await self._start(200)
        await self._send({"type": "http.response.body", "body": b""})

    async def fail(self, status: Status) -> None:
        """`error` and `code` are what clients of etcd's older gateway read, `code` and `message` of the newer
        one."""
        http_status = HTTP_STATUSES[status.code]
        if self._streams:
            error = {
                "code": status.code,
                "grpc_code": status.code,
                "http_code": http_status,
                "message": status.text,
            }
            line = json.dumps({"error": error}) + "\n"
            await self._send({"type": "http.response.body", "body": line.encode()})
        else:
            error = {"error": status.text, "code": status.code, "message": status.text}
            await self.respond(http_status, json.dumps(error))

    async def _start(self, status: int) -> None:
        headers = [(b"content-type", b"application/json")]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})


async def _lifespan(receive: Receive, send: Send) -> None:
    while True:
        event = (await receive())["type"]
        await send({"type": f"{event}.complete"})
        if event == "lifespan.shutdown":
            return
