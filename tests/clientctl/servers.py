"""Servers in memory that a `Client` can dial: nodes of one cluster that execute with raftd's real state
machine.

A verified fake: what these nodes answer to a request is what raftd's `StateMachine` answers.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import trio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message

from proto import errors, rpc_pb2
from proto.errors import Status
from proto.session_pb2 import Command, ReadResult, Reply, Request, Result
from proto.stream import InMemoryStream, StreamEnded, in_memory_pair
from raftd.core.messages import Entry, EntryKind
from raftd.kv import TABLES, StateMachine
from raftd.kv.command import encode_command, encode_payload
from tests.memory_transaction import MemoryTransaction

CLUSTER_ID, TERM = 0xC1, 7


@dataclass
class Store:
    """The replicated state: one log, executed at once."""

    machine: StateMachine = field(default_factory=StateMachine)
    transaction: MemoryTransaction = field(default_factory=lambda: MemoryTransaction(TABLES))
    index: int = 1

    def execute(self, session: int, first_outstanding: int, command: Command) -> Result:
        commands = [encode_command(command.kind, session, command.sequence, command.request)]
        if session:
            commands.append(encode_command(Command.ACKNOWLEDGE, session, first_outstanding, b""))
        self.index += 1
        entry = Entry(self.index, TERM, EntryKind.COMMANDS, encode_payload(0, commands))
        result = self.machine.apply(self.transaction, entry).results[0]
        return Result(
            session=session,
            sequence=command.sequence,
            code=result.code,
            text=result.text,
            body=result.body,
            outcome=Result.Outcome.ValueType(result.outcome),
        )

    def read(self, request: rpc_pb2.RangeRequest | rpc_pb2.TxnRequest) -> Message:
        if isinstance(request, rpc_pb2.TxnRequest):
            return self.machine.read_txn(self.transaction, request)
        return self.machine.range(self.transaction, request)


@dataclass
class Node:
    """One server. `sessions` false makes it an etcd; `leads` false sends commands away to `leader_urls`."""

    store: Store
    member_id: int = 1
    up: bool = True
    leads: bool = True
    sessions: bool = True
    silent: bool = False
    # The code that reads are refused with.
    refuses_reads: int = errors.OK
    leader_urls: tuple[str, ...] = ()
    dialled: int = 0
    writes: int = 0
    reads: int = 0
    streams: list[InMemoryStream] = field(default_factory=list)
    latency_s: Callable[[], float] | None = None

    async def pause(self) -> None:
        if self.latency_s is not None:
            await trio.sleep(self.latency_s())

    def break_streams(self) -> None:
        for stream in self.streams:
            stream.close(Status(errors.UNAVAILABLE, "Socket closed"))
        self.streams.clear()

    def kill(self) -> None:
        self.up = False
        self.break_streams()

    # The session stream

    async def serve(self, stream: InMemoryStream) -> None:
        try:
            while True:
                for request in await stream.receive_all():
                    await self.pause()
                    reply = self.answer(request)
                    await self.pause()
                    if not self.silent:
                        await stream.send(reply)
        except (StreamEnded, Status):
            pass

    def answer(self, request: Request) -> Reply:
        reply = Reply()
        for read in request.reads:
            self.reads += 1
            kind = rpc_pb2.TxnRequest if read.txn else rpc_pb2.RangeRequest
            try:
                if self.refuses_reads:
                    raise Status(self.refuses_reads, "refused")
                body = self.complete(self.store.read(kind.FromString(read.request)))
                reply.read_results.add(id=read.id, body=body)
            except Status as status:
                reply.read_results.append(ReadResult(id=read.id, code=status.code, text=status.text))
        for batch in request.batches:
            if not self.leads:
                reply.not_leader.client_urls[:] = self.leader_urls
                reply.not_leader.leader = 1 if self.leader_urls else 0
                continue
            for command in batch.commands:
                self.writes += 1
                result = self.store.execute(batch.session, batch.first_outstanding, command)
                if batch.session and result.body:
                    result.body += self.header().SerializeToString()
                reply.results.append(result)
        return reply

    def header(self) -> rpc_pb2.PutResponse:
        header = rpc_pb2.ResponseHeader(cluster_id=CLUSTER_ID, member_id=self.member_id, raft_term=TERM)
        return rpc_pb2.PutResponse(header=header)

    def complete(self, message: Message) -> bytes:
        return message.SerializeToString() + self.header().SerializeToString()

    # Unary calls

    def unary(self, method: str, request: Any) -> Message:
        match method:
            case "Range":
                if self.refuses_reads:
                    raise Status(self.refuses_reads, "refused")
                self.reads += 1
                return rpc_pb2.RangeResponse.FromString(self.complete(self.store.read(request)))
            case "Put":
                return self.write(Command.PUT, request, rpc_pb2.PutResponse())
            case "DeleteRange":
                return self.write(Command.DELETE_RANGE, request, rpc_pb2.DeleteRangeResponse())
            case "Txn":
                return self.write(Command.TXN, request, rpc_pb2.TxnResponse())
            case "Status":
                header = self.header().header
                return rpc_pb2.StatusResponse(
                    header=header, version="3.5.0", dbSize=20480, leader=1, raftIndex=self.store.index
                )
            case "MemberList":
                member = rpc_pb2.Member(ID=1, name="n1", clientURLs=["http://n1:1"])
                return rpc_pb2.MemberListResponse(header=self.header().header, members=[member])
        raise Status(errors.UNIMPLEMENTED, f"unknown method {method}")

    def write(self, kind: Command.Kind.ValueType, request: Message, reply: Message) -> Message:
        self.writes += 1
        result = self.store.execute(0, 0, Command(kind=kind, request=request.SerializeToString()))
        if result.code:
            raise Status(result.code, result.text)
        reply.ParseFromString(result.body + self.header().SerializeToString())
        return reply


class Network:
    """Addresses and the nodes behind them; `dial` is a client's `Dial`."""

    def __init__(self, nodes: Mapping[str, Node]) -> None:
        self.nodes = nodes

    @asynccontextmanager
    async def dial(self, address: str) -> AsyncIterator["_Link"]:
        node = self.nodes.get(address)
        if node is not None:
            node.dialled += 1
        failure: Status | None = None
        async with trio.open_nursery() as nursery:
            try:
                yield _Link(address, node, nursery)
            except Status as status:
                failure = status
            nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure


class _Link:
    def __init__(self, address: str, node: Node | None, nursery: trio.Nursery) -> None:
        self._address, self._node, self._nursery = address, node, nursery

    async def unary(
        self,
        method: MethodDescriptor,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Any:
        await trio.lowlevel.checkpoint()
        node = self._connected()
        if node.silent:
            await trio.sleep(timeout or 0)
            raise Status(errors.DEADLINE_EXCEEDED, "Deadline Exceeded")
        return node.unary(method.name, request)

    @asynccontextmanager
    async def stream(
        self, method: MethodDescriptor, request: Any = None, *, metadata: Mapping[str, str] | None = None
    ) -> AsyncIterator[InMemoryStream]:
        ours, theirs = in_memory_pair()
        try:
            node = self._connected()
            if node.sessions:
                node.streams.append(theirs)
                self._nursery.start_soon(node.serve, theirs)
            else:
                theirs.close(Status(errors.UNIMPLEMENTED, "unknown service raftd.session.Session"))
        except Status as status:
            theirs.close(status)
        yield ours
        ours.close()

    def _connected(self) -> Node:
        if self._node is None or not self._node.up:
            text = f"failed to connect to all addresses; last error: {self._address} refused"
            raise Status(errors.UNAVAILABLE, text, errors.NOT_DONE_OUTCOME)
        return self._node
