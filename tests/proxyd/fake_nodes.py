"""Fake raftd nodes that speak LeaderTable and Session on in-memory streams, and fail as they are told.

One `FakeCluster` stands for the replicated state: its sessions execute each number once, as the real ones do.
Time is Trio's (autojump) clock.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import trio
from google.protobuf.descriptor import MethodDescriptor

from proto import errors, session_pb2, table_pb2
from proto.election_pb2 import LeaderResponse
from proto.errors import Status
from proto.rpc_pb2 import (
    LeaseKeepAliveResponse,
    Member,
    MemberListResponse,
    PutResponse,
    RangeResponse,
    ResponseHeader,
    StatusResponse,
)
from proto.service import Service
from proto.session_pb2 import Batch, Command, Read, Registered, Reply, Request, Result
from proto.stream import InMemoryStream, MessageStream, StreamEnded, in_memory_pair
from proto.table_pb2 import TableMember, TableUpdate
from tests.proxyd.fake_watching import FakeHistory, FakeWatching

HEARTBEAT_S = 0.1
ELECTION_TIMEOUT_MS = 300


class FakeNode:
    """Knobs: `muted` sends no updates; `deaf` answers nothing on session streams; `forgets_replies`
    executes but does not answer; `refuses_reads` answers them UNAVAILABLE; `watch_error` refuses the
    table's watchers."""

    def __init__(self, cluster: "FakeCluster", member_id: int) -> None:
        self.cluster = cluster
        self.member_id = member_id
        self.address = f"127.0.0.1:{2370 + member_id}"
        self.up = True
        self.term = 0
        self.leader = 0
        self.behind = 0
        self.revision: int | None = None
        self.muted = self.deaf = self.forgets_replies = self.refuses_reads = self.leaving = False
        self.watch_error: Status | None = None
        self.dials = 0
        self.watch_metadata: list[Mapping[str, str]] = []
        self.reads: list[Read] = []
        self.batches: list[Batch] = []
        self.unary_calls: list[str] = []
        self.unary_replies: dict[str, Callable[[bytes], bytes]] = {}
        self.keep_alives: list[int] = []
        self.lost = trio.Event()
        self._watchers: list[MessageStream] = []
        self._streams: list[MessageStream] = []
        self.watching = FakeWatching(self)

    def update(self) -> TableUpdate:
        return TableUpdate(
            cluster_id=self.cluster.cluster_id,
            member_id=self.member_id,
            term=self.term,
            leader=self.leader,
            commit_index=self.cluster.commit_index,
            applied_index=self.cluster.commit_index - self.behind,
            leaving=self.leaving,
            revision=self.cluster.revision if self.revision is None else self.revision,
            election_timeout_ms=ELECTION_TIMEOUT_MS,
        )

    def tell(self) -> None:
        """Push the present view to all watchers, as a node does on every change."""
        for watcher in self._watchers:
            if not self.muted and not watcher.offer(self.update()):
                raise AssertionError("the proxy does not read its watch")

    def kill(self) -> None:
        self.up = False
        self.lost.set()
        for stream in self._watchers:
            _reset(stream)
        self._watchers = []
        self.break_sessions()
        self.watching.break_streams()

    def break_sessions(self) -> None:
        """The session streams break, the node lives on."""
        for stream in self._streams:
            _reset(stream)
        self._streams = []

    def services(self) -> list[Service]:
        """The same node for the real bridge."""
        return [
            Service(
                table_pb2.DESCRIPTOR.services_by_name["LeaderTable"],
                {"Watch": lambda request, call: self.serve_watch(call)},
            ),
            Service(session_pb2.DESCRIPTOR.services_by_name["Session"], {"Stream": self.serve_session}),
        ]

    async def serve_watch(self, stream: MessageStream) -> None:
        self.watch_metadata.append(stream.metadata)
        if self.watch_error is not None:
            raise self.watch_error
        first = self.update()
        first.members.extend(self.cluster.members())
        if not self.muted:
            stream.offer(first)
        self._watchers.append(stream)
        while stream in self._watchers:
            await trio.sleep(HEARTBEAT_S)
            if not self.muted and stream in self._watchers:
                try:
                    stream.offer(self.update())
                except (StreamEnded, Status):
                    self._watchers.remove(stream)

    async def serve_session(self, stream: MessageStream) -> None:
        self._streams.append(stream)
        try:
            while True:
                for request in await stream.receive_all():
                    if not self.deaf:
                        await self._answer(stream, request)
        except (StreamEnded, Status):
            if stream in self._streams:
                self._streams.remove(stream)

    async def _answer(self, stream: MessageStream, request: Request) -> None:
        reply = Reply()
        for read in request.reads:
            self.reads.append(read)
            if self.refuses_reads:
                reply.read_results.add(id=read.id, code=errors.UNAVAILABLE, text="etcdserver: leader changed")
            else:
                body = RangeResponse(header=self.header()).SerializeToString()
                reply.read_results.add(id=read.id, body=body)
        for batch in request.batches:
            self.batches.append(batch)
            if self.leader != self.member_id:
                reply.not_leader.leader, reply.not_leader.term = self.leader, self.term
                continue
            for command in batch.commands:
                result = self.cluster.execute(batch.session, command)
                if result.code == errors.OK and batch.session:
                    result.body = PutResponse(header=self.header()).SerializeToString()
                if not self.forgets_replies:
                    reply.results.append(result)
        if reply.ByteSize():
            await stream.send(reply)

    def handler(self, method: str) -> Callable[[MessageStream], Awaitable[None]]:
        """What serves streams of this method."""
        return {
            "raftd.table.LeaderTable.Watch": self.serve_watch,
            "raftd.session.Session.Stream": self.serve_session,
            "etcdserverpb.Watch.Watch": self.watching.serve,
            "etcdserverpb.Lease.LeaseKeepAlive": self.serve_keep_alives,
            "v3electionpb.Election.Observe": self.serve_observe,
        }[method]

    def header(self) -> ResponseHeader:
        revision = self.cluster.revision if self.revision is None else self.revision
        return ResponseHeader(
            cluster_id=self.cluster.cluster_id,
            member_id=self.member_id,
            revision=revision,
            raft_term=self.term,
        )

    async def serve_keep_alives(self, stream: MessageStream) -> None:
        """Leases that are not in the cluster's `leases` have a TTL of 0."""
        self._streams.append(stream)
        while True:
            for request in await stream.receive_all():
                self.keep_alives.append(request.ID)
                if not self.deaf:
                    ttl = self.cluster.leases.get(request.ID, 0)
                    await stream.send(LeaseKeepAliveResponse(header=self.header(), ID=request.ID, TTL=ttl))

    async def serve_observe(self, stream: MessageStream) -> None:
        """What the cluster's `observed` holds, and then nothing."""
        self._streams.append(stream)
        for response in self.cluster.observed:
            await stream.send(response)
        await trio.sleep_forever()

    async def unary(self, name: str, request: bytes) -> bytes:
        self.unary_calls.append(name)
        if name in self.unary_replies:
            return self.unary_replies[name](request)
        if self.deaf:
            await self.lost.wait()
            raise Status(errors.UNAVAILABLE, "connection reset")
        if name == "Status":
            return StatusResponse(
                header=self.header(), version="3.5.0", leader=self.leader
            ).SerializeToString()
        members = [Member(ID=node.member_id) for node in self.cluster.nodes.values()]
        return MemberListResponse(header=self.header(), members=members).SerializeToString()


def _reset(stream: MessageStream) -> None:
    assert isinstance(stream, InMemoryStream), "only in-memory connections can be broken"
    stream.close(Status(errors.UNAVAILABLE, "connection reset"))


class FakeCluster:
    """`nodes` by member id; `executed` lists every execution of a command, in order. `refusal` decides a
    command's result without executing it."""

    def __init__(self, count: int = 3) -> None:
        self.cluster_id = 0xC1
        self.commit_index = 5_000
        self.revision = 1
        self.nodes = {member_id: FakeNode(self, member_id) for member_id in range(1, count + 1)}
        self.executed: list[tuple[int, int, bytes]] = []
        self.sessions: dict[int, dict[int, Result]] = {}
        self.refusal: Callable[[int, Command], Result | None] = lambda session, command: None
        self.history = FakeHistory()
        self.leases: dict[int, int] = {}
        self.observed: list[LeaderResponse] = []
        self.dialled: list[str] = []
        self.nursery: trio.Nursery
        self._last_session = 0

    @property
    def addresses(self) -> list[str]:
        return [node.address for node in self.nodes.values()]

    def members(self) -> list[TableMember]:
        return [
            TableMember(id=node.member_id, name=f"n{node.member_id}", client_urls=[f"http://{node.address}"])
            for node in self.nodes.values()
        ]

    def write(self, key: bytes, value: bytes = b"v") -> int:
        """A put by somebody else; returns its revision."""
        self.revision += 1
        self.history.put(self.revision, key, value)
        self._tell_watchers()
        return self.revision

    def erase(self, *keys: bytes) -> int:
        """Deletes keys in one revision."""
        self.revision += 1
        self.history.delete(self.revision, keys)
        self._tell_watchers()
        return self.revision

    def _tell_watchers(self) -> None:
        for node in self.nodes.values():
            node.watching.changed()

    def elect(self, member_id: int, term: int, *, told: tuple[int, ...] | None = None) -> None:
        """The nodes `told` (all by default) hear of a new leader."""
        for node in self.nodes.values():
            if told is None or node.member_id in told:
                node.term, node.leader = term, member_id
                node.tell()

    def execute(self, session: int, command: Command) -> Result:
        """Each (session, sequence) once; a duplicate gets the stored result."""
        if (refused := self.refusal(session, command)) is not None:
            refused.session, refused.sequence = session, command.sequence
            return refused
        if command.kind == Command.REGISTER:
            self._last_session += 1
            self.sessions[self._last_session] = {}
            body = Registered(session=self._last_session).SerializeToString()
            return Result(session=session, sequence=command.sequence, body=body)
        results = self.sessions.get(session)
        if results is None:
            return Result(session=session, sequence=command.sequence, outcome=Result.SESSION_EXPIRED)
        if command.sequence not in results:
            self.revision += 1
            self.executed.append((session, command.sequence, command.request))
            results[command.sequence] = Result(session=session, sequence=command.sequence)
        result = Result()
        result.CopyFrom(results[command.sequence])
        return result

    @asynccontextmanager
    async def dial(self, address: str) -> AsyncIterator["FakeChannel"]:
        await trio.lowlevel.checkpoint()
        self.dialled.append(address)
        node = next((node for node in self.nodes.values() if node.address == address), None)
        if node is not None:
            node.dials += 1
        yield FakeChannel(self, node)


class FakeChannel:
    def __init__(self, cluster: FakeCluster, node: FakeNode | None) -> None:
        self._cluster = cluster
        self._node = node

    async def unary(
        self,
        method: MethodDescriptor,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        raw: bool = False,
    ) -> Any:
        await trio.lowlevel.checkpoint()
        if self._node is None or not self._node.up:
            raise Status(errors.UNAVAILABLE, "failed to connect")
        return await self._node.unary(method.name, request)

    @asynccontextmanager
    async def stream(
        self,
        method: MethodDescriptor,
        request: Any = None,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> AsyncIterator[InMemoryStream]:
        """As the bridge does it, a failure to connect shows when the stream is used."""
        ours, theirs = in_memory_pair(metadata)
        if self._node is None or not self._node.up:
            theirs.close(Status(errors.UNAVAILABLE, "failed to connect"))
        else:
            serve = self._node.handler(method.full_name)
            self._cluster.nursery.start_soon(self._serve, serve, theirs)
        try:
            yield ours
        finally:
            ours.close()

    @staticmethod
    async def _serve(serve: Callable[[MessageStream], Awaitable[None]], stream: InMemoryStream) -> None:
        try:
            await serve(stream)
            stream.close()
        except StreamEnded:
            stream.close()
        except Status as error:
            stream.close(error)
