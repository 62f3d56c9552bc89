"""A model of the replicated side of sessions: one log, executed in order, exactly once.

`Cluster` is what all nodes agree on; `Upstream` is one stream to it whose sendings may linger, be lost or be
executed long after the stream broke, as entries of a deposed leader may.
"""

from dataclasses import dataclass, field

from proto import errors
from proto.rpc_pb2 import PutResponse, ResponseHeader
from proto.session_pb2 import Batch, Command, Read, ReadResult, Registered, Reply, Request, Result


@dataclass
class StoredSession:
    """One session in the replicated state."""

    first_outstanding: int = 0
    results: dict[int, Result] = field(default_factory=dict)


@dataclass
class Cluster:
    """The state machine: which requests ran, in order, and the sessions."""

    executed: list[bytes] = field(default_factory=list)
    sessions: dict[int, StoredSession] = field(default_factory=dict)
    next_session: int = 1 << 16

    def apply(self, session: int, first_outstanding: int, command: Command) -> Result:
        """Execute one command of the log."""
        if command.kind == Command.REGISTER:
            self.next_session += 1
            self.sessions[self.next_session] = StoredSession()
            body = Registered(session=self.next_session).SerializeToString()
            return Result(sequence=command.sequence, body=body)
        found = self.sessions.get(session)
        if found is None:
            return self._without_effect(session, command, Result.SESSION_EXPIRED, "session expired")
        found.first_outstanding = max(found.first_outstanding, first_outstanding)
        for number in [number for number in found.results if number < found.first_outstanding]:
            del found.results[number]
        if command.sequence < found.first_outstanding:
            return self._without_effect(session, command, Result.UNKNOWN, "already acknowledged")
        if command.sequence not in found.results:
            self.executed.append(command.request)
            body = PutResponse(header=ResponseHeader(revision=len(self.executed))).SerializeToString()
            found.results[command.sequence] = Result(session=session, sequence=command.sequence, body=body)
        return found.results[command.sequence]

    def read(self, read: Read) -> ReadResult:
        """Answer a read with what was executed so far, as text."""
        return ReadResult(id=read.id, body=b",".join(self.executed))

    def serve(self, request: Request) -> Reply:
        """What a leader that is never disturbed answers at once."""
        results = [
            self.apply(batch.session, batch.first_outstanding, command)
            for batch in request.batches
            for command in batch.commands
        ]
        return Reply(results=results, read_results=[self.read(read) for read in request.reads])

    @staticmethod
    def _without_effect(
        session: int, command: Command, outcome: Result.Outcome.ValueType, text: str
    ) -> Result:
        return Result(
            session=session,
            sequence=command.sequence,
            code=errors.FAILED_PRECONDITION,
            text=text,
            outcome=outcome,
        )


@dataclass
class Upstream:
    """One stream to the cluster. `waiting` is what was sent and not yet executed."""

    cluster: Cluster
    waiting: list[tuple[Batch, Command]] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)

    def send(self, request: Request) -> None:
        """Take a message."""
        for batch in request.batches:
            self.waiting += [(batch, command) for command in batch.commands]
        self.reads += request.reads

    def execute(self, position: int) -> Result:
        """Execute one of the waiting commands; its result may or may not reach the client."""
        batch, command = self.waiting.pop(position)
        return self.cluster.apply(batch.session, batch.first_outstanding, command)
