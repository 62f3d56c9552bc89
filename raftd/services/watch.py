"""etcd's Watch service on a node, leader or not: the stream protocol around the hub.

One task takes requests, one writes what the hub has put into the stream's outbox; the pace of all writers
together is that of `Turns`. Messages are handled as bytes, because one event goes to very many streams.
"""

import random

import trio

from proto import errors, rpc_pb2
from proto.call import Call
from proto.errors import Status
from proto.service import Service
from proto.stream import MessageStream, StreamEnded
from proto.turns import Turns
from raftd import config
from raftd.node import Node
from raftd.services.header import Headers
from raftd.services.requests import parse
from raftd.watch.feed import Feed
from raftd.watch.hub import Outbox, Watcher
from raftd.watch.messages import INVALID_WATCH_ID, control_response
from raftd.watch.ranges import key_range

_Create = rpc_pb2.WatchCreateRequest

EMPTY_RANGE_TEXT = "mvcc: watcher range is empty"
DUPLICATE_ID_TEXT = "mvcc: duplicate watch ID provided on the WatchStream"
TOO_MANY_TEXT = f"raftd: a stream carries at most {config.MAX_STREAM_WATCHES} watches"
STALLED_TEXT = f"raftd: the client took no events for {config.WATCH_STALLED_S:.0f} s"


class Watch:
    """Handlers of etcdserverpb.Watch."""

    def __init__(
        self, node: Node, feed: Feed, turns: Turns, headers: Headers, election_timeout_ms: int
    ) -> None:
        self.node = node
        self.feed = feed
        self.turns = turns
        self.headers = headers
        self.leaderless_s = 3 * election_timeout_ms / 1000
        """A stream that wants a leader is ended after so long without one, as in etcd."""

    def service(self) -> Service:
        return Service(rpc_pb2.DESCRIPTOR.services_by_name["Watch"], {"Watch": self.watch}, raw={"Watch"})

    async def watch(self, call: Call) -> None:
        await WatchStream(self, call).serve()


class WatchStream:
    """One stream and its watchers."""

    def __init__(self, service: Watch, stream: MessageStream) -> None:
        self._service = service
        self._hub = service.feed.hub
        self._stream = stream
        self._filled = trio.Event()
        self._room = trio.Event()
        self._outbox = Outbox(lambda: self._filled.set())
        self._next_id = 0

    async def serve(self) -> None:
        """Until the client leaves or ends its side. Raises Status."""
        wants_leader = self._stream.metadata.get("hasleader") == "true"
        if wants_leader and self._service.node.soft_state.leader is None:
            raise Status(*errors.NO_LEADER)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._write)
                if wants_leader:
                    nursery.start_soon(self._watch_for_a_leader)
                try:
                    while True:
                        for request in await self._stream.receive_all():
                            await self._take(parse(rpc_pb2.WatchRequest, request))
                except StreamEnded:
                    nursery.cancel_scope.cancel()
        finally:
            self._hub.leave(self._outbox)

    # In.

    async def _take(self, request: rpc_pb2.WatchRequest) -> None:
        # Who asks more than it takes back waits, and many requests hold up nobody.
        while self._outbox.size_bytes >= config.WATCH_OUTBOX_BYTES:
            await self._room.wait()
        await trio.lowlevel.checkpoint()
        match request.WhichOneof("request_union"):
            case "create_request":
                self._create(request.create_request)
            case "cancel_request":
                watcher = self._outbox.watchers.get(request.cancel_request.watch_id)
                if watcher is not None:  # etcd passes over an unknown id, and clients rely on it
                    self._hub.cancel(watcher)
            case "progress_request":
                self._hub.ask_progress(self._outbox)

    def _create(self, request: rpc_pb2.WatchCreateRequest) -> None:
        refusal = self._why_not(request)
        if refusal is not None:
            revision = max(self._outbox.shown_revision, self._service.node.revision)
            self._outbox.shown_revision = revision
            self._outbox.put(
                control_response(
                    revision, INVALID_WATCH_ID, created=True, canceled=True, cancel_reason=refusal
                )
            )
            return
        watch_id = request.watch_id
        if watch_id == 0:
            while self._next_id in self._outbox.watchers:
                self._next_id += 1
            watch_id = self._next_id
            self._next_id += 1
        self._hub.add(
            Watcher(
                self._outbox,
                watch_id,
                key_range(request.key, request.range_end),
                request.start_revision or self._service.node.revision + 1,
                no_put=_Create.NOPUT in request.filters,
                no_delete=_Create.NODELETE in request.filters,
                prev_kv=request.prev_kv,
                fragment=request.fragment,
                progress_notify=request.progress_notify,
            )
        )

    def _why_not(self, request: rpc_pb2.WatchCreateRequest) -> str | None:
        """In etcd's order, with etcd's texts."""
        if request.start_revision < 0:
            return errors.COMPACTED[1]
        start, end = key_range(request.key, request.range_end)
        if end is not None and start >= end:
            return EMPTY_RANGE_TEXT
        if request.watch_id != 0 and request.watch_id in self._outbox.watchers:
            return DUPLICATE_ID_TEXT
        if len(self._outbox.watchers) >= config.MAX_STREAM_WATCHES:
            return TOO_MANY_TEXT
        return None

    # Out.

    async def _write(self) -> None:
        progress_at = _next_progress_at()
        while True:
            while len(self._outbox):
                await self._service.turns.next()
                await self._send(self._outbox.take())
            self._make_room()
            with trio.move_on_at(progress_at) as waiting:
                await self._filled.wait()
            self._filled = trio.Event()
            if waiting.cancelled_caught:
                progress_at = _next_progress_at()
                self._hub.notify_progress(self._outbox)

    async def _send(self, body: bytes) -> None:
        message = self._service.headers.complete(body)
        if not self._stream.offer(message):
            with trio.move_on_after(config.WATCH_STALLED_S) as patience:
                await self._stream.send(message)
            if patience.cancelled_caught:
                raise Status(errors.RESOURCE_EXHAUSTED, STALLED_TEXT)
        if self._outbox.size_bytes < config.WATCH_OUTBOX_BYTES // 2:
            self._make_room()

    def _make_room(self) -> None:
        room, self._room = self._room, trio.Event()
        room.set()
        if any(watcher.group is None for watcher in self._outbox.watchers.values()):
            self._service.feed.room_made()

    async def _watch_for_a_leader(self) -> None:
        node = self._service.node
        while True:
            changed = node.soft_state_changed
            if node.soft_state.leader is not None:
                await changed.wait()
                continue
            with trio.move_on_after(self._service.leaderless_s):
                while node.soft_state.leader is None:
                    await node.soft_state_changed.wait()
            if node.soft_state.leader is None:
                raise Status(*errors.NO_LEADER)


def _next_progress_at() -> float:
    """With etcd's jitter, so that clients that came together are not all told together."""
    return trio.current_time() + config.WATCH_PROGRESS_S * random.uniform(1.0, 1.1)
