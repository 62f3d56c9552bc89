"""etcd's Watch service for clients of the proxy: the protocol of one stream, around the hub.

One task takes requests, one writes what waits in the outbox; a watch that has to catch up has a task of its
own. Messages are handled as bytes, because one event may go to very many streams.
"""

from collections import deque
from collections.abc import Sequence
from contextlib import suppress

import trio
from google.protobuf.message import DecodeError

from proto import errors, rpc_pb2
from proto.bridge import Call, Service
from proto.errors import Status
from proto.limits import REQUEST_BYTES_MAX
from proto.rpc_pb2 import ResponseHeader, WatchCreateRequest, WatchRequest
from proto.stream import MessageStream, StreamEnded
from proxyd import config
from proxyd.patience import check_leader_wanted
from proxyd.table import LeaderTable
from proxyd.watch.catch_up import catch_up
from proxyd.watch.events import INVALID_WATCH_ID, control_response, events_responses
from proxyd.watch.feed import ClientWatch, Feed, KeyRange
from proxyd.watch.hub import Hub

# In etcd's words where etcd has some.
EMPTY_RANGE_TEXT = "mvcc: watcher range is empty"
DUPLICATE_ID_TEXT = "mvcc: duplicate watch ID provided on the WatchStream"
TOO_MANY_TEXT = "proxyd: too many watches"
STALLED_TEXT = f"proxyd: the client took no events for {config.WATCH_STALLED_S:.0f} s"


class WatchStream:
    """One client's stream and its watches. Each of these is in one of three states: on a feed, on its way
    there (`scope` is set), or paused because the client reads too slowly (in `_paused`).

    `_shown_revision`: no later message has an older one in its header (hazard 40).
    """

    def __init__(self, hub: Hub, table: LeaderTable, stream: MessageStream) -> None:
        self._hub = hub
        self._table = table
        self._stream = stream
        self._watches: dict[int, ClientWatch] = {}
        self._next_id = 0
        self._paused: dict[ClientWatch, None] = {}
        self._shown_revision = 0
        self._owes_progress = False
        self._owes_notifications = False
        self._outbox: deque[bytes] = deque()
        self._outbox_bytes = 0
        self._filled = trio.Event()
        self._room = trio.Event()
        self._nursery: trio.Nursery

    async def serve(self) -> None:
        """Until the client leaves. Raises Status."""
        check_leader_wanted(self._table, self._stream.metadata)
        self._hub.streams[self] = None
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._write)
                if self._stream.metadata.get("hasleader") == "true":
                    self._nursery.start_soon(self._end_without_leader)
                # The end of requests ends no watch, as in etcd; the client leaves by ending the call.
                with suppress(StreamEnded):
                    while True:
                        await self._take_all(await self._stream.receive_all())
        finally:
            self._hub.leave(self)
            self._hub.outbox_bytes -= self._outbox_bytes
            for watch in list(self._watches.values()):
                self._end(watch)

    async def _end_without_leader(self) -> None:
        while True:
            while self._table.leader is not None:
                await self._table.wait_change()
            with trio.move_on_after(3 * self._table.election_timeout_s):
                while self._table.leader is None:
                    await self._table.wait_change()
            if self._table.leader is None:
                raise Status(*errors.NO_LEADER)

    # In.

    async def _take_all(self, messages: Sequence[bytes]) -> None:
        now: int | None = None
        for message in messages:
            # Who asks more than it takes back waits.
            while not self.has_room:
                self._room = trio.Event()
                await self._room.wait()
            request = _parse(message)
            match request.WhichOneof("request_union"):
                case "create_request":
                    create = request.create_request
                    refusal = self._why_not(create)
                    if refusal is None and create.start_revision == 0 and now is None:
                        # For all that have arrived already, since a later present will do as well.
                        now = await self._hub.current_revision()
                    self._create(create, now or 0, refusal)
                case "cancel_request":
                    watch = self._watches.get(request.cancel_request.watch_id)
                    if watch is not None:  # etcd passes over an unknown id, and clients rely on it
                        self._cancel(watch)
                case "progress_request":
                    self._owes_progress = True
                    self._ask_if_synced()

    def _why_not(self, request: WatchCreateRequest) -> str | None:
        """In etcd's order, with etcd's texts."""
        if request.ByteSize() > REQUEST_BYTES_MAX:
            return errors.REQUEST_TOO_LARGE[1]  # it shares a stream to the node with all other watches
        if request.start_revision < 0:
            return errors.COMPACTED[1]
        key, range_end = _key_range(request)
        if range_end not in (b"", b"\0") and key >= range_end:
            return EMPTY_RANGE_TEXT
        if request.watch_id != 0 and request.watch_id in self._watches:
            return DUPLICATE_ID_TEXT
        if not self._hub.has_room((key, range_end)):
            return TOO_MANY_TEXT
        return None

    def _create(self, request: WatchCreateRequest, now: int, refusal: str | None) -> None:
        header = self._header(max(now, self._hub.known_revision if request.start_revision else 0))
        if refusal is not None:
            self._put(
                control_response(header, INVALID_WATCH_ID, created=True, canceled=True, cancel_reason=refusal)
            )
            return
        watch = ClientWatch(
            self,
            self._choose_id(request.watch_id),
            _key_range(request),
            # From now on: what the client has heard of is past, and what comes later it is shown.
            request.start_revision or self._shown_revision + 1,
            no_put=WatchCreateRequest.NOPUT in request.filters,
            no_delete=WatchCreateRequest.NODELETE in request.filters,
            prev_kv=request.prev_kv,
            fragment=request.fragment,
            progress_notify=request.progress_notify,
        )
        self._watches[watch.id] = watch
        self._hub.watches += 1
        self._put(control_response(header, watch.id, created=True))
        self._attach(watch)

    def _choose_id(self, wanted: int) -> int:
        if wanted != 0:
            return wanted
        while self._next_id in self._watches:
            self._next_id += 1
        self._next_id += 1
        return self._next_id - 1

    def _attach(self, watch: ClientWatch) -> None:
        feed = self._hub.attach(watch)
        if feed is not None:
            watch.scope = trio.CancelScope()
            self._nursery.start_soon(self._catch_up, watch, watch.scope, feed)

    async def _catch_up(self, watch: ClientWatch, scope: trio.CancelScope, feed: Feed) -> None:
        with scope:
            await catch_up(self._hub, watch, feed)
        if watch.scope is scope:
            watch.scope = None
            self._ask_if_synced()

    def _cancel(self, watch: ClientWatch, *, compact_revision: int = 0, reason: str = "") -> None:
        """Ends a watch and says so to the client."""
        self._end(watch)
        self._put(
            control_response(
                self._header(0),
                watch.id,
                canceled=True,
                compact_revision=compact_revision,
                cancel_reason=reason,
            )
        )
        self._ask_if_synced()

    def _end(self, watch: ClientWatch) -> None:
        del self._watches[watch.id]
        self._hub.watches -= 1
        self._paused.pop(watch, None)
        self._hub.detach(watch)
        if watch.scope is not None:
            watch.scope.cancel()

    # What the feeds see.

    @property
    def has_room(self) -> bool:
        if self._outbox_bytes >= config.WATCH_OUTBOX_BYTES:
            return False
        return not self._outbox or self._hub.outbox_bytes < config.WATCH_ALL_OUTBOXES_BYTES

    def put_events(self, watch: ClientWatch, encoded: Sequence[bytes], last: int) -> None:
        fragment_bytes = config.WATCH_FRAGMENT_BYTES if watch.fragment else None
        for message in events_responses(self._header(last), watch.id, encoded, fragment_bytes):
            self._put(message)

    def paused(self, watch: ClientWatch) -> None:
        self._paused[watch] = None

    def compacted(self, watch: ClientWatch, compact_revision: int) -> None:
        self._cancel(watch, compact_revision=compact_revision)

    # Progress.

    def _ask_if_synced(self) -> None:
        if self._owes_progress and self._is_synced:
            self._hub.ask_progress(self)

    @property
    def _is_synced(self) -> bool:
        return bool(self._watches) and all(watch.feed is not None for watch in self._watches.values())

    def notify_due(self) -> bool:
        self._owes_notifications = any(watch.progress_notify for watch in self._watches.values())
        return self._owes_notifications

    def progressed(self, revision: int) -> bool:
        if revision < self._shown_revision:
            return False  # the node that answered is behind what the client has seen
        synced = self._is_synced
        if synced and not all(watch.feed and watch.feed.confirmed for watch in self._watches.values()):
            return False  # asked before the node had been told of a watch
        if self._owes_progress and synced:
            self._owes_progress = False
            self._put(control_response(self._header(revision), INVALID_WATCH_ID))
        if self._owes_notifications:
            self._owes_notifications = False
            for watch in self._watches.values():
                if watch.progress_notify and watch.feed is not None:
                    if watch.is_quiet:
                        self._put(control_response(self._header(revision), watch.id))
                    watch.is_quiet = True
        return True

    # Out.

    def _header(self, revision: int) -> ResponseHeader:
        self._shown_revision = max(self._shown_revision, revision)
        leader = self._table.leader
        return ResponseHeader(
            cluster_id=self._table.cluster_id,
            member_id=leader.member_id if leader is not None else 0,
            revision=self._shown_revision,
            raft_term=self._table.term,
        )

    def _put(self, message: bytes) -> None:
        self._outbox.append(message)
        self._outbox_bytes += len(message)
        self._hub.outbox_bytes += len(message)
        self._filled.set()

    async def _write(self) -> None:
        with suppress(StreamEnded):
            while True:
                await self._filled.wait()
                self._filled = trio.Event()
                while self._outbox:
                    await self._send(self._outbox[0])
                    self._sent(len(self._outbox.popleft()))
        self._nursery.cancel_scope.cancel()  # the client has left

    def _sent(self, size_bytes: int) -> None:
        self._outbox_bytes -= size_bytes
        self._hub.outbox_bytes -= size_bytes
        if self._outbox_bytes <= config.WATCH_OUTBOX_BYTES // 2:
            self._room.set()
            self._resume_paused()

    async def _send(self, message: bytes) -> None:
        """A client that takes nothing loses its paused watches, and after as long again its stream."""
        await self._hub.turns.next()
        with trio.move_on_after(config.WATCH_STALLED_S):
            return await self._stream.send(message)
        for watch in list(self._paused):
            self._cancel(watch, reason=STALLED_TEXT)
        with trio.move_on_after(config.WATCH_STALLED_S):
            return await self._stream.send(message)
        raise Status(errors.RESOURCE_EXHAUSTED, STALLED_TEXT)

    def _resume_paused(self) -> None:
        paused, self._paused = self._paused, {}
        for watch in paused:
            self._attach(watch)
        if paused:
            self._ask_if_synced()


def _parse(message: bytes) -> WatchRequest:
    try:
        return WatchRequest.FromString(message)
    except DecodeError as error:
        raise Status(errors.INTERNAL, f"malformed WatchRequest: {error}") from error


def _key_range(request: WatchCreateRequest) -> KeyRange:
    return request.key or b"\0", request.range_end


class Watch:
    """Handler of etcdserverpb.Watch."""

    def __init__(self, hub: Hub, table: LeaderTable) -> None:
        self._hub = hub
        self._table = table

    def service(self) -> Service:
        return Service(rpc_pb2.DESCRIPTOR.services_by_name["Watch"], {"Watch": self.watch}, raw={"Watch"})

    async def watch(self, call: Call) -> None:
        await WatchStream(self._hub, self._table, call).serve()
