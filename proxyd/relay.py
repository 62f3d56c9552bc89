"""Session streams of our own clients, relayed: their batches go to the leader, their reads to followers.

The sessions and their numbers are the clients' own, so a client may go on at another proxy after this one.
While its stream stands proxyd keeps its pending commands and sends them to each new leader; the client never
sees `not_leader`. When the stream ends, what was pending is dropped here: the client repeats it wherever it
turns to.
"""

from collections import deque
from contextlib import suppress

import trio
from google.protobuf.message import DecodeError

from clientctl.config import COMMAND_BYTES_OVERHEAD
from clientctl.pending import PendingCommand
from clientctl.pipeline import Pipeline
from proto import errors, rpc_pb2, session_pb2
from proto.bridge import Call, Service
from proto.errors import Status
from proto.limits import REQUEST_BYTES_MAX
from proto.session_pb2 import Batch, Command, ReadResult, Reply, Request, Result
from proto.stream import MessageStream, StreamEnded
from proxyd import config
from proxyd.patience import waiting_deadline, why_in_vain
from proxyd.reads import Connection, Read, Reads, is_serializable
from proxyd.table import LeaderTable


class Relay:
    """Handler of raftd.session.Session."""

    def __init__(self, table: LeaderTable, pipeline: Pipeline, reads: Reads) -> None:
        self.table = table
        self.pipeline = pipeline
        self.reads = reads
        self.relayed = 0
        self._streams: set[RelayedStream] = set()
        self._draining = False

    def service(self) -> Service:
        return Service(session_pb2.DESCRIPTOR.services_by_name["Session"], {"Stream": self.stream})

    async def stream(self, call: Call) -> None:
        if self._draining:
            raise Status(*errors.STOPPED, outcome=errors.NOT_DONE_OUTCOME)
        stream = RelayedStream(self, call)
        self._streams.add(stream)
        try:
            await stream.serve()
        finally:
            self._streams.discard(stream)

    async def drain(self) -> None:
        """Take nothing new; return when all that was taken is answered and the streams have ended."""
        self._draining = True
        async with trio.open_nursery() as nursery:
            for stream in self._streams:
                nursery.start_soon(stream.drain)


class RelayedStream:
    """One client's stream. Invariant: an operation is in `_commands` or `_reads` until its result is
    gathered."""

    def __init__(self, relay: Relay, stream: MessageStream) -> None:
        self._relay = relay
        self._table, self._pipeline, self._router = relay.table, relay.pipeline, relay.reads
        self._stream = stream
        self._connection = Connection()
        self._commands: dict[int, _RelayedCommand] = {}
        self._reads: dict[int, Read] = {}
        self._reply = Reply()
        self._reply_bytes = 0
        self._full: deque[tuple[Reply, int]] = deque()
        self._gathered_bytes = 0
        self._gathered = trio.Event()
        self._eased = trio.Event()
        self._receiving = trio.CancelScope()
        self._ended = trio.Event()

    async def serve(self) -> None:
        """Until the client ends its side."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_gathered)
                with self._receiving:
                    await self._receive()
                if self._receiving.cancelled_caught:
                    await self._finish_pending()
                nursery.cancel_scope.cancel()
        finally:
            self._drop_all()
            self._ended.set()

    async def drain(self) -> None:
        """Receive no more, and end once all that was received is answered."""
        self._receiving.cancel()
        await self._ended.wait()

    async def _receive(self) -> None:
        with suppress(StreamEnded):
            while True:
                for request in await self._stream.receive_all():
                    await self._wait_until_eased()
                    self._take(request)

    async def _finish_pending(self) -> None:
        while self._commands or self._reads or self._gathered_bytes:
            self._eased = trio.Event()
            await self._eased.wait()

    async def _wait_until_eased(self) -> None:
        """Back-pressure on this client alone: while too much of it is under way its stream is not read."""
        while (
            len(self._commands) + len(self._reads) >= config.MAX_STREAM_PENDING
            or self._gathered_bytes > config.MAX_GATHERED_BYTES
        ):
            self._eased = trio.Event()
            await self._eased.wait()

    def _drop_all(self) -> None:
        for relayed in list(self._commands.values()):
            relayed.drop(self._pipeline)
        for read in self._reads.values():
            self._router.withdraw(read)

    # In.

    def _take(self, request: Request) -> None:
        for read in request.reads:
            self._take_read(read)
        for batch in request.batches:
            for command in batch.commands:
                self._take_command(batch, command)

    def _take_command(self, batch: Batch, command: Command) -> None:
        if len(command.request) > REQUEST_BYTES_MAX:
            self._refuse(batch.session, command.sequence, errors.REQUEST_TOO_LARGE)
            return
        relayed = _RelayedCommand(self, batch.session, command.sequence)
        deadline = self._deadline(command.remaining_ms)
        operation = self._pipeline.take(
            batch.session, batch.first_outstanding, command, deadline, relayed.finish
        )
        if operation is None:
            self._refuse(batch.session, relayed.sequence, errors.TOO_MANY_REQUESTS)
            return
        self._relay.relayed += 1
        relayed.operation = operation
        self._commands[id(relayed)] = relayed

    def _refuse(self, session: int, sequence: int, error: errors.Error) -> None:
        code, text = error
        outcome = Result.NOT_DONE
        self._add_result(Result(session=session, sequence=sequence, code=code, text=text, outcome=outcome))

    def _take_read(self, request: session_pb2.Read) -> None:
        request_id = request.id

        def finish(result: ReadResult) -> None:
            self._reads.pop(request_id, None)
            result.id = request_id
            self._reply.read_results.append(result)
            self._gather(len(result.body) + COMMAND_BYTES_OVERHEAD)

        read = Read(
            request=request.request,
            txn=request.txn,
            serializable=_serializable(request),
            min_revision=request.min_revision,
            deadline=self._deadline(request.remaining_ms),
            connection=self._connection,
            finish=finish,
        )
        self._reads[request_id] = read
        self._router.start(read)

    def _deadline(self, remaining_ms: int) -> float:
        deadline = trio.current_time() + remaining_ms / 1000 if remaining_ms else float("inf")
        return waiting_deadline(self._table, deadline)

    # Out.

    def command_finished(self, relayed: "_RelayedCommand", result: Result) -> None:
        del self._commands[id(relayed)]
        if result.outcome == Result.NOT_DONE and (result.code, result.text) == errors.TIMEOUT:
            result.code, result.text = why_in_vain(self._table)
        self._add_result(result)

    def _add_result(self, result: Result) -> None:
        self._reply.results.append(result)
        self._gather(len(result.body) + COMMAND_BYTES_OVERHEAD)

    def _gather(self, size: int) -> None:
        """What was just added goes out with the next message; a full message makes room for another."""
        self._reply_bytes += size
        self._gathered_bytes += size
        if self._reply_bytes > config.MAX_REPLY_BYTES:
            self._full.append((self._reply, self._reply_bytes))
            self._reply, self._reply_bytes = Reply(), 0
        self._gathered.set()

    async def _send_gathered(self) -> None:
        while True:
            await self._gathered.wait()
            self._gathered = trio.Event()
            self._full.append((self._reply, self._reply_bytes))
            self._reply, self._reply_bytes = Reply(), 0
            while self._full:
                reply, size = self._full.popleft()
                await self._stream.send(reply)
                self._gathered_bytes -= size
            self._eased.set()


class _RelayedCommand:
    """A client's command in the shared pipeline."""

    __slots__ = ("_stream", "operation", "sequence", "session")

    def __init__(self, stream: RelayedStream, session: int, sequence: int) -> None:
        self._stream = stream
        self.session = session
        self.sequence = sequence
        self.operation: PendingCommand | None = None

    def finish(self, result: Result) -> None:
        self._stream.command_finished(self, result)

    def drop(self, pipeline: Pipeline) -> None:
        if self.operation is not None:
            pipeline.drop(self.operation, self.finish)


def _serializable(request: session_pb2.Read) -> bool:
    """Malformed requests are for raftd to refuse."""
    try:
        if request.txn:
            return is_serializable(rpc_pb2.TxnRequest.FromString(request.request))
        return rpc_pb2.RangeRequest.FromString(request.request).serializable
    except DecodeError:
        return False
