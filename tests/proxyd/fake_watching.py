"""The Watch service of a fake node: the events of its cluster up to the revision that the node has reached.

Answers what raftd answers: `created` first, all events of a revision in one message, progress only when every
watch of the stream has been shown all there is.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import trio

from proto import errors
from proto.errors import Status
from proto.kv_pb2 import Event, KeyValue
from proto.rpc_pb2 import ResponseHeader, WatchCreateRequest, WatchRequest, WatchResponse
from proto.stream import InMemoryStream, MessageStream, StreamEnded


class FakeHistory:
    """All events of a cluster, in order. `compacted`: what is below is gone."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.compacted = 0
        self._live: dict[bytes, KeyValue] = {}

    def put(self, revision: int, key: bytes, value: bytes) -> None:
        previous = self._live.get(key)
        created = previous.create_revision if previous else revision
        kv = KeyValue(key=key, value=value, mod_revision=revision, create_revision=created)
        self._live[key] = kv
        self.events.append(Event(type=Event.PUT, kv=kv, prev_kv=previous))

    def delete(self, revision: int, keys: Sequence[bytes]) -> None:
        for key in keys:
            kv = KeyValue(key=key, mod_revision=revision)
            self.events.append(Event(type=Event.DELETE, kv=kv, prev_kv=self._live.pop(key)))

    def between(self, watch: "FakeWatch", last: int) -> list[Event]:
        found = []
        for event in self.events:
            if watch.next_revision <= event.kv.mod_revision <= last and watch.holds(event.kv.key):
                found.append(event if watch.prev_kv else Event(type=event.type, kv=event.kv))
        return found


class Node(Protocol):
    """What the service must know of its node."""

    @property
    def cluster(self) -> "Cluster": ...

    def header(self) -> ResponseHeader: ...


class Cluster(Protocol):
    history: FakeHistory


@dataclass(eq=False)
class FakeWatch:
    id: int
    key: bytes
    range_end: bytes
    next_revision: int
    prev_kv: bool

    def holds(self, key: bytes) -> bool:
        if not self.range_end:
            return key == self.key
        return key >= self.key and (self.range_end == b"\0" or key < self.range_end)


class FakeWatching:
    """`streams` holds the open ones, `creates` every create request ever. `frozen` shows no events; with
    `holds_creates` these requests wait, and only these."""

    def __init__(self, node: Node) -> None:
        self.streams: list[FakeWatchStream] = []
        self.creates: list[WatchCreateRequest] = []
        self.progress_requests = 0
        self.frozen = self.holds_creates = False
        self._node = node

    async def serve(self, stream: MessageStream) -> None:
        serving = FakeWatchStream(self, self._node, stream)
        self.streams.append(serving)
        try:
            await serving.serve()
        except (StreamEnded, Status):
            pass
        finally:
            self.streams.remove(serving)

    def release_creates(self) -> None:
        self.holds_creates = False
        for stream in self.streams:
            stream.take_held()

    def changed(self) -> None:
        for stream in self.streams:
            stream.work.set()

    def break_streams(self) -> None:
        for stream in self.streams:
            assert isinstance(stream.stream, InMemoryStream), "only in-memory connections can be broken"
            stream.stream.close(Status(errors.UNAVAILABLE, "connection reset"))
            stream.work.set()


class FakeWatchStream:
    def __init__(self, watching: FakeWatching, node: Node, stream: MessageStream) -> None:
        self.watches: dict[int, FakeWatch] = {}
        self.work = trio.Event()
        self.stream = stream
        self._watching = watching
        self._node = node
        self._to_say: list[WatchResponse] = []
        self._held: list[WatchCreateRequest] = []
        self._next_id = 0
        self._asked = False

    async def serve(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._write)
            try:
                while True:
                    for request in await self.stream.receive_all():
                        self._take(request)
                        self.work.set()
            except (StreamEnded, Status):
                nursery.cancel_scope.cancel()

    def _take(self, request: WatchRequest) -> None:
        if request.HasField("create_request"):
            self._create(request.create_request)
        elif request.HasField("cancel_request"):
            watch_id = request.cancel_request.watch_id
            if self.watches.pop(watch_id, None) is not None:
                self._say(WatchResponse(watch_id=watch_id, canceled=True))
        else:
            self._watching.progress_requests += 1
            self._asked = True

    def take_held(self) -> None:
        held, self._held = self._held, []
        for create in held:
            self._create(create)
        self.work.set()

    def _create(self, create: WatchCreateRequest) -> None:
        if self._watching.holds_creates:
            self._held.append(create)
            return
        self._watching.creates.append(create)
        watch_id = create.watch_id or self._next_id
        self._next_id += not create.watch_id
        start = create.start_revision or self._node.header().revision + 1
        self.watches[watch_id] = FakeWatch(watch_id, create.key, create.range_end, start, create.prev_kv)
        self._say(WatchResponse(watch_id=watch_id, created=True))

    def _say(self, response: WatchResponse) -> None:
        response.header.CopyFrom(self._node.header())
        self._to_say.append(response)

    def _look(self) -> None:
        """What there is to tell now."""
        if self._watching.frozen:
            return
        history, revision = self._node.cluster.history, self._node.header().revision
        for watch in list(self.watches.values()):
            if watch.next_revision < history.compacted:
                del self.watches[watch.id]
                self._say(WatchResponse(watch_id=watch.id, canceled=True, compact_revision=history.compacted))
            elif watch.next_revision <= revision:
                if events := history.between(watch, revision):
                    self._say(WatchResponse(watch_id=watch.id, events=events))
                watch.next_revision = revision + 1
        if self._asked:
            self._asked = False
            self._say(WatchResponse(watch_id=-1))

    async def _write(self) -> None:
        try:
            while True:
                self.work = trio.Event()
                self._look()
                to_say, self._to_say = self._to_say, []
                for response in to_say:
                    await self.stream.send(response)
                if not to_say:
                    await self.work.wait()
        except (StreamEnded, Status):
            return
