"""A line of keys under one name: who came first holds it, the others wait for those before them to go.

Locks and elections are such lines. Made of what every client could send, a transaction, a range and a watch,
only within this process, and laid out in the keys as etcd's own Go clients do, so that both can stand in one
line.
"""

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

from proto import kv_pb2, rpc_pb2, session_pb2
from proto.call import Call
from raftd import config
from raftd.kv import StateMachine
from raftd.services.requests import range_read
from raftd.services.unary import Unary
from raftd.watch.feed import Feed
from raftd.watch.hub import Outbox, Watcher
from raftd.watch.ranges import key_range

Kind = session_pb2.Command.Kind
_Range = rpc_pb2.RangeRequest

DEFAULT_TTL_S: Final = 60
"""Of the lease that a caller without one gets; as in etcd."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where one caller stands. It is lost when the key is deleted, be it by the end of the lease."""

    key: bytes
    revision: int
    """The key's create revision: the lower one is further in front."""
    header: rpc_pb2.ResponseHeader
    value: bytes
    lease: int


def keys_of(name: bytes) -> tuple[bytes, bytes]:
    """The prefix of all keys of a line, and the end of its range."""
    return name + b"/", name + b"0"


class Lines:
    """All calls raise Status."""

    def __init__(self, unary: Unary, state_machine: StateMachine, feed: Feed) -> None:
        self.unary = unary
        self._state_machine = state_machine
        self._feed = feed

    async def lease(self, lease: int, call: Call) -> int:
        """The caller's lease, or a new one that nobody renews."""
        if lease:
            return lease
        grant = rpc_pb2.LeaseGrantRequest(TTL=DEFAULT_TTL_S).SerializeToString()
        reply = await self.unary.write(Kind.LEASE_GRANT, grant, call.deadline)
        return rpc_pb2.LeaseGrantResponse.FromString(reply).ID

    async def enter(self, name: bytes, lease: int, value: bytes, call: Call) -> Place:
        """To the end of the line; who stands in it already keeps the place and the value."""
        key = keys_of(name)[0] + b"%x" % lease
        reply = await self.execute(
            rpc_pb2.TxnRequest(
                compare=[rpc_pb2.Compare(target=rpc_pb2.Compare.CREATE, key=key, create_revision=0)],
                success=[
                    rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=key, value=value, lease=lease))
                ],
                failure=[rpc_pb2.RequestOp(request_range=_Range(key=key))],
            ),
            call.deadline,
        )
        if reply.succeeded:
            return Place(key, reply.header.revision, reply.header, value, lease)
        found = reply.responses[0].response_range.kvs[0]
        return Place(key, found.create_revision, reply.header, found.value, lease)

    async def wait_for_turn(self, name: bytes, place: Place, call: Call) -> None:
        """Until nobody stands before the place. Whoever is cancelled meanwhile leaves the line."""
        prefix, end = keys_of(name)
        try:
            while True:
                before = await self.range(
                    _Range(
                        key=prefix,
                        range_end=end,
                        sort_order=_Range.DESCEND,
                        sort_target=_Range.CREATE,
                        limit=1,
                        max_create_revision=place.revision - 1,
                    ),
                    call.deadline,
                )
                if not before.kvs:
                    return
                async with self.watching(before.kvs[0].key, b"", before.header.revision + 1) as events:
                    gone = False
                    while not gone:
                        reply = await events.receive()
                        gone = reply.canceled or any(event.type == event.DELETE for event in reply.events)
        except trio.Cancelled:
            with trio.move_on_after(config.LEAVE_LINE_S, shield=True):
                await self.leave(place.key, place.revision, math.inf)
            raise

    async def leave(self, key: bytes, revision: int, deadline: float) -> rpc_pb2.ResponseHeader:
        """Nothing happens when the place is lost already."""
        reply = await self.execute(
            rpc_pb2.TxnRequest(
                compare=[_is_there(key, revision)],
                success=[
                    rpc_pb2.RequestOp(request_delete_range=rpc_pb2.DeleteRangeRequest(key=key)),
                ],
            ),
            deadline,
        )
        return reply.header

    async def change(self, key: bytes, revision: int, lease: int, value: bytes, deadline: float) -> bool:
        """A new value at the same place; False when the place is lost."""
        put = rpc_pb2.PutRequest(key=key, value=value, lease=lease)
        reply = await self.execute(
            rpc_pb2.TxnRequest(
                compare=[_is_there(key, revision)], success=[rpc_pb2.RequestOp(request_put=put)]
            ),
            deadline,
        )
        return reply.succeeded

    async def first(
        self, name: bytes, deadline: float
    ) -> tuple[rpc_pb2.ResponseHeader, kv_pb2.KeyValue | None]:
        """Who holds it."""
        prefix, end = keys_of(name)
        found = await self.range(
            _Range(
                key=prefix,
                range_end=end,
                sort_order=_Range.ASCEND,
                sort_target=_Range.CREATE,
                limit=1,
            ),
            deadline,
        )
        return found.header, found.kvs[0] if found.kvs else None

    async def execute(self, request: rpc_pb2.TxnRequest, deadline: float) -> rpc_pb2.TxnResponse:
        reply = await self.unary.write(Kind.TXN, request.SerializeToString(), deadline)
        return rpc_pb2.TxnResponse.FromString(reply)

    async def range(self, request: rpc_pb2.RangeRequest, deadline: float) -> rpc_pb2.RangeResponse:
        reply = await self.unary.read(range_read(self._state_machine, request), deadline)
        return rpc_pb2.RangeResponse.FromString(reply)

    @asynccontextmanager
    async def watching(self, key: bytes, range_end: bytes, start_revision: int) -> "AsyncIterator[Events]":
        """A watch within this process."""
        events = Events(self._feed)
        watcher = Watcher(events.outbox, 0, key_range(key, range_end), start_revision)
        self._feed.hub.add(watcher)
        try:
            yield events
        finally:
            self._feed.hub.leave(events.outbox)


class Events:
    """What one watch sees, for one task."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._filled = trio.Event()
        self.outbox = Outbox(lambda: self._filled.set())

    async def receive(self) -> rpc_pb2.WatchResponse:
        """The next reply, whatever it says; after one with `canceled` there are no more."""
        while not len(self.outbox):
            self._feed.room_made()
            self._filled = trio.Event()
            await self._filled.wait()
        return rpc_pb2.WatchResponse.FromString(self.outbox.take())


def _is_there(key: bytes, revision: int) -> rpc_pb2.Compare:
    return rpc_pb2.Compare(target=rpc_pb2.Compare.CREATE, key=key, create_revision=revision)
