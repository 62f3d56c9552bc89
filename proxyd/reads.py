"""Which node answers a read, and what happens when it does not.

Linearizable reads go round over the healthy followers, so that the leader's time is left for writes; any node
makes them safe by ReadIndex (thesis §6.4). Serializable reads of one client connection stay on one node, and
every serializable read carries the highest revision its connection has seen, so that none goes back in time
(hazard 40). A node that fails, falls silent or answers UNAVAILABLE is replaced by another until the deadline.

There is no task per read: `Reads.start` takes a callback, and `Reads.run` looks after those that wait.
"""

import random
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import trio
from google.protobuf.message import DecodeError

from proto import errors, rpc_pb2
from proto.limits import REQUEST_BYTES_MAX
from proto.session_pb2 import ReadResult
from proxyd import config
from proxyd.node_link import NodeLink
from proxyd.patience import why_in_vain
from proxyd.table import Leader, LeaderTable, NodeView


@dataclass(slots=True, eq=False)
class Connection:
    """What reads of one client connection have to remember: their node, and the highest revision they saw."""

    node: int = 0
    revision: int = 0


def _nobody(result: ReadResult) -> None:
    raise AssertionError(f"a read without `finish` was answered: code {result.code}")


@dataclass(slots=True, eq=False)
class Read:
    """`request` is a serialized RangeRequest or, with `txn`, a read-only TxnRequest. `finish` is called
    once, without waiting, unless the read was `withdrawn` before. `deadline` is on Trio's clock and
    finite."""

    request: bytes
    txn: bool
    serializable: bool
    min_revision: int
    deadline: float
    connection: Connection
    finish: Callable[[ReadResult], None] = _nobody
    withdrawn: bool = False
    refused_by: set[int] = field(default_factory=set)


class Connections:
    """The connections of unary callers by peer address, a bounded number of them."""

    def __init__(self) -> None:
        self._by_peer: OrderedDict[str, Connection] = OrderedDict()

    def of(self, peer: str) -> Connection:
        connection = self._by_peer.get(peer)
        if connection is None:
            connection = self._by_peer[peer] = Connection()
            if len(self._by_peer) > config.MAX_CONNECTIONS_REMEMBERED:
                self._by_peer.popitem(last=False)
        else:
            self._by_peer.move_to_end(peer)
        return connection


class Reads:
    """Invariant: a read that was started is in `_waiting` or on exactly one link until it is finished."""

    def __init__(self, table: LeaderTable, links: Mapping[str, NodeLink]) -> None:
        self._table = table
        self._links = links
        self._waiting: set[Read] = set()
        self._arrived = trio.Event()
        self._turn = 0
        self._rotation: list[NodeView] = []
        self._rotation_version = -1
        self.by_leader = 0
        self.by_followers = 0
        self.moved = 0

    def __len__(self) -> int:
        """Reads that wait for a node."""
        return len(self._waiting)

    def start(self, read: Read) -> None:
        """Sends it to a node, or keeps it until there is one; too many are refused (hazard 95), and what is
        too large to share a stream with others."""
        if read.withdrawn:
            return
        if len(read.request) > REQUEST_BYTES_MAX:
            self._end(read, errors.REQUEST_TOO_LARGE)
        elif trio.current_time() >= read.deadline:
            self._end(read, why_in_vain(self._table))
        elif (view := self._choose(read)) is None:
            self._keep(read)
        elif not self._send(read, view):
            self._end(read, errors.TOO_MANY_REQUESTS)

    async def execute(self, read: Read) -> ReadResult:
        """`start` for a caller that waits; sets `finish`."""
        answered = trio.Event()
        results: list[ReadResult] = []

        def finish(result: ReadResult) -> None:
            results.append(result)
            answered.set()

        read.finish = finish
        self.start(read)
        try:
            await answered.wait()
        finally:
            self.withdraw(read)
        return results[0]

    def withdraw(self, read: Read) -> None:
        """Its caller has left, or has its answer."""
        read.withdrawn = True
        self._waiting.discard(read)

    async def run(self) -> None:
        """Tries what waits again when the table changes or some time has passed, until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._retry_on_change)
            while True:
                await self._arrived.wait()
                self._arrived = trio.Event()
                while self._waiting:
                    nearest = min(read.deadline for read in self._waiting)
                    pause_s = config.READ_RETRY_S * random.uniform(*config.REDIAL_JITTER)
                    await trio.sleep_until(min(nearest, trio.current_time() + pause_s))
                    self._retry()

    async def _retry_on_change(self) -> None:
        while True:
            await self._table.wait_change()
            self._retry()

    def _retry(self) -> None:
        waiting, self._waiting = self._waiting, set()
        for read in waiting:
            read.refused_by.clear()
            self.start(read)

    def _keep(self, read: Read) -> None:
        if len(self._waiting) >= config.MAX_WAITING_READS:
            self._end(read, errors.TOO_MANY_REQUESTS)
            return
        self._waiting.add(read)
        self._arrived.set()

    def _send(self, read: Read, view: NodeView) -> bool:
        member_id = view.member_id
        min_revision = read.min_revision
        if read.serializable:
            read.connection.node = member_id
            min_revision = max(min_revision, read.connection.revision)

        def answered(result: ReadResult) -> None:
            self._answered(read, member_id, result)

        return self._links[view.address].offer_read(
            read.request, read.deadline, answered, txn=read.txn, min_revision=min_revision
        )

    def _answered(self, read: Read, member_id: int, result: ReadResult) -> None:
        if read.withdrawn:
            return
        if result.code == errors.UNAVAILABLE and trio.current_time() < read.deadline:
            self.moved += 1
            read.refused_by.add(member_id)
            self.start(read)
            return
        if result.code == errors.OK:
            if self._table.leader is not None and member_id == self._table.leader.member_id:
                self.by_leader += 1
            else:
                self.by_followers += 1
            read.connection.revision = max(read.connection.revision, revision_of(result.body))
        read.finish(result)

    def _end(self, read: Read, error: errors.Error) -> None:
        code, text = error
        read.finish(ReadResult(code=code, text=text))

    # Choosing.

    def _choose(self, read: Read) -> NodeView | None:
        """The node for this read now; None when it has to wait."""
        leader = self._table.leader
        if leader is None and not read.serializable:
            return None
        if not read.serializable and not read.refused_by and (view := self._next_follower(leader)):
            return view
        usable = [
            view
            for view in self._table.live_nodes()
            if view.member_id not in read.refused_by and self._connected(view.address)
        ]
        now = trio.current_time()
        healthy = [view for view in usable if self._table.healthy(view, now)]
        if read.serializable:
            for view in healthy:
                if view.member_id == read.connection.node:
                    return view
        followers = [view for view in healthy if leader is None or view.member_id != leader.member_id]
        candidates = followers or healthy or usable
        if not candidates:
            return None
        self._turn += 1
        return candidates[self._turn % len(candidates)]

    def _next_follower(self, leader: Leader | None) -> NodeView | None:
        """The ordinary case, at the cost of a list index: who is healthy changes only when the table does."""
        if self._rotation_version != self._table.version:
            now = trio.current_time()
            self._rotation_version = self._table.version
            self._rotation = [
                view
                for view in self._table.live_nodes()
                if (leader is None or view.member_id != leader.member_id) and self._table.healthy(view, now)
            ]
        for _ in self._rotation:
            self._turn += 1
            view = self._rotation[self._turn % len(self._rotation)]
            if self._connected(view.address):
                return view
        return None

    def _connected(self, address: str) -> bool:
        link = self._links.get(address)
        return link is not None and link.connected


def is_read_only(request: rpc_pb2.TxnRequest) -> bool:
    """Whether the transaction changes nothing, whichever branch is taken."""
    return all(
        operation.WhichOneof("request") == "request_range"
        or (operation.HasField("request_txn") and is_read_only(operation.request_txn))
        for operations in (request.success, request.failure)
        for operation in operations
    )


def is_serializable(request: rpc_pb2.TxnRequest) -> bool:
    """etcd's rule: a transaction whose operations are all serializable ranges is served from a node's own
    state."""
    operations = [*request.success, *request.failure]
    return bool(operations) and all(operation.request_range.serializable for operation in operations)


def revision_of(reply: bytes) -> int:
    """The revision in the header of a serialized etcd reply of any type: the header is field 1 of all of
    them."""
    try:
        return rpc_pb2.CompactionResponse.FromString(reply).header.revision
    except DecodeError:
        return 0
