"""A service with a method of every stream kind, for the tests of the bridge: our own wire formats, arbitrary
use.

Each handler does what its first message says: the key of a request, or the text of a chunk or batch.
"""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import trio
from google.protobuf.descriptor import MethodDescriptor

from proto import kv_pb2, peer_pb2, rpc_pb2
from proto.bridge import Call, Channel, Service, Stream, StreamEnded, connect, serve
from proto.errors import NOT_FOUND, Status

KV = rpc_pb2.DESCRIPTOR.services_by_name["KV"]
PEER = peer_pb2.DESCRIPTOR.services_by_name["Peer"]
UNARY = KV.methods_by_name["Put"]
SERVER_STREAM = KV.methods_by_name["RangeStream"]
CLIENT_STREAM = PEER.methods_by_name["InstallSnapshot"]
BIDIRECTIONAL = PEER.methods_by_name["Control"]
KINDS = {
    "unary": UNARY,
    "server stream": SERVER_STREAM,
    "client stream": CLIENT_STREAM,
    "bidirectional": BIDIRECTIONAL,
}

BOUND_S = 30
"""Nothing here takes so long; it turns a hang into a failure."""

REFUSAL = (NOT_FOUND, "etcdserver: requested lease not found")


class Bug(Exception):
    """What a handler raises that it should not."""


class Host:
    """The handlers, and what has happened in them so far."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.started = trio.Event()
        self.cancelled = trio.Event()
        self.failures: list[tuple[str, BaseException]] = []
        self.release = trio.Event()
        self.port = 0
        self.scope = trio.CancelScope()
        self.stopped = trio.Event()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def services(self) -> list[Service]:
        return [
            Service(KV, {"Put": self.put, "RangeStream": self.range_stream}),
            Service(PEER, {"InstallSnapshot": self.install, "Control": self.control}),
        ]

    async def act(self, wish: bytes, call: Call) -> None:
        self.calls.append(call)
        self.started.set()
        match wish:
            case b"refuse":
                call.set_trailing_metadata({"reason": "test"})
                raise Status(*REFUSAL, "not-done")
            case b"refuse in a nursery":
                async with trio.open_nursery():
                    raise Status(*REFUSAL, "not-done")
            case b"bug":
                raise Bug("on purpose")
            case b"hang":
                try:
                    await trio.sleep_forever()
                finally:
                    self.cancelled.set()
            case b"wait":
                await self.release.wait()

    async def put(self, request: rpc_pb2.PutRequest, call: Call) -> rpc_pb2.PutResponse:
        await self.act(request.key, call)
        call.set_trailing_metadata({"echo": call.metadata.get("say", "")})
        return rpc_pb2.PutResponse(prev_kv=kv_pb2.KeyValue(value=request.value))

    async def range_stream(self, request: rpc_pb2.RangeRequest, call: Call) -> None:
        await self.act(request.key, call)
        for count in range(request.limit):
            await call.send(counted(count))

    async def install(self, call: Call) -> peer_pb2.InstallSnapshotReply:
        received = 0
        try:
            while True:
                for chunk in await call.receive_all():
                    await self.act(chunk.data, call)
                    received += 1
        except StreamEnded:
            return peer_pb2.InstallSnapshotReply(term=received)

    async def control(self, call: Call) -> None:
        while True:
            for batch in await call.receive_all():
                await self.act(batch.messages[0].append_entries.entries[0].payload, call)
                await call.send(batch)


def batch(wish: bytes = b"", term: int = 0) -> peer_pb2.Batch:
    entry = peer_pb2.Entry(payload=wish)
    message = peer_pb2.Message(term=term, append_entries=peer_pb2.AppendEntries(entries=[entry]))
    return peer_pb2.Batch(messages=[message])


def counted(count: int) -> rpc_pb2.RangeStreamResponse:
    return rpc_pb2.RangeStreamResponse(range_response=rpc_pb2.RangeResponse(count=count))


@asynccontextmanager
async def hosting(grace_s: float = 1.0) -> AsyncIterator[Host]:
    """A server on a free port; `host.scope.cancel()` stops it early."""
    host = Host()
    with trio.fail_after(BOUND_S):
        async with trio.open_nursery() as nursery:

            async def run(task_status: Any) -> None:
                with host.scope:
                    await serve(
                        ["127.0.0.1:0"],
                        host.services(),
                        grace_s=grace_s,
                        log_failure=lambda path, error: host.failures.append((path, error)),
                        task_status=task_status,
                    )
                host.stopped.set()

            [host.port] = await nursery.start(run)
            yield host
            host.scope.cancel()
            await host.stopped.wait()


@asynccontextmanager
async def hosting_and_calling() -> AsyncIterator[tuple[Host, Channel]]:
    async with hosting() as host, connect(host.address, isolated=True) as channel:
        yield host, channel


async def received(stream: Stream) -> list[Any]:
    """All messages until the clean end of the stream. Raises `Status`."""
    messages = []
    try:
        while True:
            messages += await stream.receive_all()
    except StreamEnded:
        return messages


async def call(
    channel: Channel, method: MethodDescriptor, wish: bytes, *, timeout: float | None = None
) -> list[Any]:
    """One call of any kind that asks for `wish`; what came back."""
    if method is UNARY:
        return [await channel.unary(method, rpc_pb2.PutRequest(key=wish), timeout=timeout)]
    if method is SERVER_STREAM:
        request = rpc_pb2.RangeRequest(key=wish, limit=3)
        async with channel.stream(method, request, timeout=timeout) as stream:
            return await received(stream)
    one: Callable[[], Any] = (
        (lambda: peer_pb2.SnapshotChunk(data=wish)) if method is CLIENT_STREAM else (lambda: batch(wish))
    )
    async with channel.stream(method, timeout=timeout) as stream:
        await stream.send(one())
        stream.close_sending()
        return await received(stream)
