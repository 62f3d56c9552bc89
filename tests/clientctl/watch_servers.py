"""Servers in memory with the streams Watch and LeaseKeepAlive, that fail as they are told to."""

import random
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
from google.protobuf.descriptor import MethodDescriptor

from proto import errors
from proto.errors import Status
from proto.kv_pb2 import Event, KeyValue
from proto.rpc_pb2 import (
    LeaseKeepAliveResponse,
    ResponseHeader,
    WatchCreateRequest,
    WatchRequest,
    WatchResponse,
)
from proto.stream import InMemoryStream, StreamEnded, in_memory_pair


@dataclass
class History:
    """All that has happened, the same for each server: one revision after the other, starting with 2."""

    events: list[Event] = field(default_factory=list)
    revision: int = 1
    compacted: int = 0
    grown: trio.Event = field(default_factory=trio.Event)

    def add(self, *keys: str) -> None:
        """One revision that sets these keys."""
        self.revision += 1
        for key in keys:
            pair = KeyValue(key=key.encode(), mod_revision=self.revision, value=b"%d" % self.revision)
            self.events.append(Event(kv=pair))
        self.grown.set()
        self.grown = trio.Event()

    def between(self, start: int, end: int, request: WatchCreateRequest) -> list[Event]:
        """What `request` wants to see of the revisions from `start` to `end`."""
        return [
            event for event in self.events if start <= event.kv.mod_revision <= end and wants(request, event)
        ]


def wants(request: WatchCreateRequest, event: Event) -> bool:
    key, end = event.kv.key, request.range_end
    return key == request.key or (bool(end) and request.key <= key and (key < end or end == b"\0"))


@dataclass
class WatchServer:
    """One server. `lag`: it has not heard of so many of the last revisions."""

    history: History
    chance: random.Random = field(default_factory=lambda: random.Random(1))
    lag: int = 0
    up: bool = True
    # Ends each stream after so many messages, at random up to this; 0: never.
    patience: int = 0
    # Sends an old answer again now and then, as no server should.
    repeats: bool = False
    # Ends every call with this.
    refusal: Status | None = None
    streams: list[InMemoryStream] = field(default_factory=list)
    opened: int = 0
    created: list[WatchCreateRequest] = field(default_factory=list)
    cancelled: list[int] = field(default_factory=list)
    metadata: Mapping[str, str] = field(default_factory=dict)
    renew: Callable[[int], int | None] = lambda lease: 9
    renewals: int = 0

    @property
    def revision(self) -> int:
        return max(1, self.history.revision - self.lag)

    def break_streams(self) -> None:
        for stream in self.streams:
            stream.close(Status(errors.UNAVAILABLE, "Socket closed"))
        self.streams.clear()

    def kill(self) -> None:
        self.up = False
        self.break_streams()

    def header(self) -> ResponseHeader:
        return ResponseHeader(cluster_id=1, member_id=1, revision=self.revision, raft_term=1)

    async def serve(self, method: str, stream: InMemoryStream) -> None:
        self.opened += 1
        self.streams.append(stream)
        if self.refusal is not None:
            stream.close(self.refusal)
            return
        try:
            if method == "LeaseKeepAlive":
                await self._renew(stream)
            else:
                await self._watch(stream)
        except (StreamEnded, Status):
            pass

    async def _renew(self, stream: InMemoryStream) -> None:
        while True:
            for request in await stream.receive_all():
                self.renewals += 1
                ttl = self.renew(request.ID)
                if ttl is not None:
                    await stream.send(LeaseKeepAliveResponse(header=self.header(), ID=request.ID, TTL=ttl))

    async def _watch(self, stream: InMemoryStream) -> None:
        left = self.chance.randint(1, self.patience) if self.patience else 1 << 60
        scopes: dict[int, trio.CancelScope] = {}

        async def say(response: WatchResponse) -> None:
            nonlocal left
            left -= 1
            if left <= 0:
                stream.close(Status(errors.UNAVAILABLE, "Socket closed"))
            await stream.send(response)

        async def feed(request: WatchCreateRequest) -> None:
            with trio.CancelScope() as scope:
                scopes[request.watch_id] = scope
                try:
                    await self._feed(request, say)
                except (StreamEnded, Status):
                    return

        async with trio.open_nursery() as nursery:
            try:
                while True:
                    for request in await stream.receive_all():
                        await self._answer(request, say, scopes, nursery, feed)
            except (StreamEnded, Status):
                nursery.cancel_scope.cancel()

    async def _answer(
        self, request: WatchRequest, say: Any, scopes: dict[int, Any], nursery: trio.Nursery, feed: Any
    ) -> None:
        if request.HasField("create_request"):
            create = request.create_request
            self.created.append(create)
            if create.range_end > b"\0" and create.range_end <= create.key:
                reason = "mvcc: watcher range is empty"
                await say(
                    WatchResponse(
                        header=self.header(), watch_id=-1, created=True, canceled=True, cancel_reason=reason
                    )
                )
                return
            nursery.start_soon(feed, create)
        elif request.HasField("cancel_request"):
            watch_id = request.cancel_request.watch_id
            self.cancelled.append(watch_id)
            if scope := scopes.pop(watch_id, None):
                scope.cancel()
                await say(WatchResponse(header=self.header(), watch_id=watch_id, canceled=True))
        else:
            await say(WatchResponse(header=self.header(), watch_id=-1))

    async def _feed(self, request: WatchCreateRequest, say: Any) -> None:
        header, watch_id = self.header(), request.watch_id
        await say(WatchResponse(header=header, watch_id=watch_id, created=True))
        position = request.start_revision or header.revision + 1
        if request.start_revision and request.start_revision < self.history.compacted:
            await say(
                WatchResponse(
                    header=header, watch_id=watch_id, canceled=True, compact_revision=self.history.compacted
                )
            )
            return
        while True:
            if self.revision < position:
                await self.history.grown.wait()
                continue
            end = self.chance.randint(position, self.revision)
            start = max(2, position - 3) if self.repeats and self.chance.random() < 0.3 else position
            events = self.history.between(start, end, request)
            position = end + 1
            while request.fragment and len(events) > 1 and self.chance.random() < 0.7:
                await say(
                    WatchResponse(header=self.header(), watch_id=watch_id, events=events[:1], fragment=True)
                )
                events = events[1:]
            if events:
                await say(WatchResponse(header=self.header(), watch_id=watch_id, events=events))
            elif request.progress_notify:
                # No further than this watch has come.
                await say(WatchResponse(header=ResponseHeader(revision=end), watch_id=watch_id))


class WatchNetwork:
    """Addresses and the servers behind them; `dial` is a client's `Dial`."""

    def __init__(self, *servers: WatchServer) -> None:
        self.servers = {f"n{number}:1": server for number, server in enumerate(servers, 1)}

    @asynccontextmanager
    async def dial(self, address: str) -> AsyncIterator["_Link"]:
        async with trio.open_nursery() as nursery:
            yield _Link(address, self.servers[address], nursery)
            nursery.cancel_scope.cancel()


class _Link:
    def __init__(self, address: str, server: WatchServer, nursery: trio.Nursery) -> None:
        self._address, self._server, self._nursery = address, server, nursery

    async def unary(self, method: MethodDescriptor, request: Any, **_: Any) -> Any:
        raise Status(errors.UNIMPLEMENTED, f"unknown method {method.name}")

    @asynccontextmanager
    async def stream(
        self, method: MethodDescriptor, request: Any = None, *, metadata: Mapping[str, str] | None = None
    ) -> AsyncIterator[InMemoryStream]:
        ours, theirs = in_memory_pair()
        self._server.metadata = metadata or {}
        if self._server.up:
            self._nursery.start_soon(self._server.serve, method.name, theirs)
        else:
            text = f"failed to connect to all addresses; last error: {self._address} refused"
            theirs.close(Status(errors.UNAVAILABLE, text, errors.NOT_DONE_OUTCOME))
        yield ours
        ours.close()
