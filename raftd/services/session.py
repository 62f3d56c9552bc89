"""The session stream on a node: batches of numbered commands and reads in, whatever has finished out.

Two sides share one stream: the handler takes batches and hands them to the node; one sender task writes a
message of all results that gathered while it wrote the last one. On a node that does not lead, or stops
leading, commands are answered with `not_leader` and forgotten: their sender repeats them, under the same
numbers, at the leader.
"""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial

import trio

from proto import errors, rpc_pb2, session_pb2
from proto.call import Call
from proto.errors import Status
from proto.service import Service
from proto.stream import MessageStream, StreamEnded
from raftd import config
from raftd.kv import StateMachine
from raftd.kv.command import Result, encode_command
from raftd.node import Node
from raftd.proposals import Refusal, Submission, refusal_status
from raftd.reads import Read
from raftd.services.header import Headers
from raftd.services.requests import check_command, completed, parse, range_read, txn_read
from raftd.services.writes import Writes
from raftd.store import ClusterIdentity

Kind = session_pb2.Command.Kind
Outcome = session_pb2.Result.Outcome


class SessionStreams:
    """Handlers of raftd.session.Session."""

    def __init__(
        self,
        node: Node,
        writes: Writes,
        state_machine: StateMachine,
        headers: Headers,
        cluster: ClusterIdentity,
    ) -> None:
        self.node = node
        self.writes = writes
        self.state_machine = state_machine
        self.headers = headers
        self.client_urls = {member.id: member.client_urls for member in cluster.members}

    def service(self) -> Service:
        return Service(session_pb2.DESCRIPTOR.services_by_name["Session"], {"Stream": self.stream})

    async def stream(self, call: Call) -> None:
        await SessionStream(self, call).serve()


@dataclass(slots=True)
class _Part:
    """Commands of one session that go into the log together. `sequences` are the client's numbers, those of
    the last commands.
    """

    commands: list[bytes] = field(default_factory=list)
    sequences: list[int] = field(default_factory=list)
    size_bytes: int = 0

    def has_room_for(self, command: bytes) -> bool:
        return not self.commands or (
            len(self.commands) < config.MAX_ENTRY_COMMANDS
            and self.size_bytes + len(command) <= config.MAX_ENTRY_BYTES
        )

    def add(self, command: bytes) -> None:
        self.commands.append(command)
        self.size_bytes += len(command)


def _check(session: int, command: session_pb2.Command) -> None:
    """Raises Status for a command that must not go into the log."""
    if (command.kind == Kind.REGISTER) != (session == 0):
        raise Status(errors.INVALID_ARGUMENT, "session 0 is for commands that register a session, only")
    check_command(command.kind, command.request)


class SessionStream:
    """One stream. `_epoch` counts how often its pending commands were given back with `not_leader`: what an
    earlier epoch's commands come to is no longer said here, because their sender has taken them
    elsewhere.
    """

    def __init__(self, service: SessionStreams, stream: MessageStream) -> None:
        self._service = service
        self._node = service.node
        self._stream = stream
        self._reply = session_pb2.Reply()
        self._reply_bytes = 0
        self._full: deque[tuple[session_pb2.Reply, int]] = deque()
        self._gathered_bytes = 0
        self._gathered = trio.Event()
        self._room = trio.Event()
        self._epoch = 0
        self._pending = 0
        self._reads: set[Read] = set()
        self._acknowledged: dict[int, int] = {}

    async def serve(self) -> None:
        """Until the client ends its side; what is still pending then goes unanswered."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_gathered)
                nursery.start_soon(self._watch_leadership)
                try:
                    while True:
                        for request in await self._stream.receive_all():
                            await self._take(request)
                except StreamEnded:
                    nursery.cancel_scope.cancel()
        finally:
            for read in self._reads:
                read.abandoned = True

    # In.

    async def _take(self, request: session_pb2.Request) -> None:
        """Hands on what came, part by part: a client that sends more than it takes back waits, and one
        message of very many commands does not hold up this node's other work.
        """
        for read in request.reads:
            await self._wait_for_room()
            self._take_read(read)
        for batch in request.batches:
            for start in range(0, len(batch.commands) or 1, config.MAX_ENTRY_COMMANDS):
                if start:
                    await trio.lowlevel.checkpoint()
                await self._wait_for_room()
                if self._node.leads:
                    self._take_commands(batch, batch.commands[start : start + config.MAX_ENTRY_COMMANDS])
                else:
                    self._give_back()

    async def _wait_for_room(self) -> None:
        while self._gathered_bytes > config.MAX_GATHERED_BYTES or len(self._reads) >= config.MAX_STREAM_READS:
            await self._room.wait()

    def _take_commands(self, batch: session_pb2.Batch, commands: Sequence[session_pb2.Command]) -> None:
        """Submits those that make sense, in as many parts as the bounds of an entry demand."""
        part = _Part()
        if batch.first_outstanding > self._acknowledged.get(batch.session, 0):
            if len(self._acknowledged) >= config.MAX_STREAM_SESSIONS:
                self._acknowledged.clear()
            self._acknowledged[batch.session] = batch.first_outstanding
            part.add(encode_command(Kind.ACKNOWLEDGE, batch.session, batch.first_outstanding, b""))
        for command in commands:
            try:
                _check(batch.session, command)
            except Status as refused:
                self._add_result(
                    session_pb2.Result(
                        session=batch.session,
                        sequence=command.sequence,
                        code=refused.code,
                        text=refused.text,
                    )
                )
                continue
            request = completed(command.kind, command.request)
            encoded = encode_command(command.kind, batch.session, command.sequence, request)
            if not part.has_room_for(encoded):
                self._submit(batch.session, part)
                part = _Part()
            part.add(encoded)
            part.sequences.append(command.sequence)
        if part.commands:
            self._submit(batch.session, part)

    def _submit(self, session: int, part: "_Part") -> None:
        self._pending += 1
        done = partial(self._finish, self._epoch, session, part.sequences)
        self._node.submit(Submission(part.commands, part.size_bytes, done))

    def _take_read(self, request: session_pb2.Read) -> None:
        state_machine = self._service.state_machine
        try:
            if request.txn:
                read = txn_read(state_machine, parse(rpc_pb2.TxnRequest, request.request))
            else:
                read = range_read(state_machine, parse(rpc_pb2.RangeRequest, request.request))
        except Status as refused:
            self._add_read_result(request.id, refused)
            return
        caller_s = request.remaining_ms / 1000 if request.remaining_ms else math.inf
        read.deadline = self._service.writes.deadline(trio.current_time() + caller_s)
        read.min_revision = request.min_revision
        read.done = partial(self._finish_read, request.id, read)
        self._reads.add(read)
        self._node.read(read)

    # Out.

    def _finish(
        self, epoch: int, session: int, sequences: Sequence[int], answer: Sequence[Result] | Refusal
    ) -> None:
        if epoch != self._epoch:
            return
        self._pending -= 1
        if answer is Refusal.OVERLOADED:
            self._acknowledged.pop(session, None)
            refused = refusal_status(answer)
            for sequence in sequences:
                self._add_result(
                    session_pb2.Result(
                        session=session,
                        sequence=sequence,
                        code=refused.code,
                        text=refused.text,
                        outcome=Outcome.NOT_DONE,
                    )
                )
        elif isinstance(answer, Refusal):
            self._give_back()
        else:
            acknowledges = len(answer) - len(sequences)
            for sequence, result in zip(sequences, answer[acknowledges:], strict=True):
                self._add_decided(session, sequence, result)

    def _add_decided(self, session: int, sequence: int, result: Result) -> None:
        body = self._service.headers.complete(result.body) if session and not result.code else result.body
        self._add_result(
            session_pb2.Result(
                session=session,
                sequence=sequence,
                code=result.code,
                text=result.text,
                body=body,
                outcome=Outcome.ValueType(result.outcome),
            )
        )

    def _add_result(self, result: session_pb2.Result) -> None:
        self._reply.results.append(result)
        self._gather(len(result.body) + len(result.text))

    def _finish_read(self, read_id: int, read: Read, answer: bytes | Status) -> None:
        self._reads.remove(read)
        self._add_read_result(read_id, answer)

    def _add_read_result(self, read_id: int, answer: bytes | Status) -> None:
        if isinstance(answer, Status):
            self._reply.read_results.add(id=read_id, code=answer.code, text=answer.text)
            self._gather(len(answer.text))
        else:
            body = self._service.headers.complete(answer)
            self._reply.read_results.add(id=read_id, body=body)
            self._gather(len(body))

    def _give_back(self) -> None:
        """This node does not decide what is pending on this stream: its sender is to ask the leader."""
        self._epoch += 1
        self._pending = 0
        self._acknowledged.clear()
        leader = self._node.soft_state.leader
        self._reply.not_leader.leader = leader or 0
        self._reply.not_leader.term = self._node.soft_state.term
        self._reply.not_leader.client_urls[:] = self._service.client_urls.get(leader, ()) if leader else ()
        self._gather(0)

    def _gather(self, added_bytes: int) -> None:
        """What was just added to the reply will go out with the next message; a full one makes room for
        another.
        """
        self._reply_bytes += config.RESULT_OVERHEAD_BYTES + added_bytes
        self._gathered_bytes += config.RESULT_OVERHEAD_BYTES + added_bytes
        if self._reply_bytes > config.MAX_REPLY_BYTES:
            self._put_by()
        self._gathered.set()

    def _put_by(self) -> None:
        self._full.append((self._reply, self._reply_bytes))
        self._reply, self._reply_bytes = session_pb2.Reply(), 0

    async def _send_gathered(self) -> None:
        while True:
            await self._gathered.wait()
            self._gathered = trio.Event()
            while self._full or self._reply_bytes:
                if not self._full:
                    self._put_by()
                reply, size_bytes = self._full.popleft()
                await self._stream.send(reply)
                self._gathered_bytes -= size_bytes
                room, self._room = self._room, trio.Event()
                room.set()

    async def _watch_leadership(self) -> None:
        while True:
            changed = self._node.soft_state_changed
            if self._pending and not self._node.leads:
                self._give_back()
            await changed.wait()
