"""One entry's commands, executed in order: each changes the tables or is refused, and has a result.

`raftd.kv.machine` makes an `Execution` per entry. A client's mistake is a `Result` with etcd's code and text,
and has changed nothing.
"""

from collections.abc import Callable, Sequence
from typing import Final

from google.protobuf.message import DecodeError

from proto import rpc_pb2, session_pb2
from proto.errors import COMPACTED, FAILED_PRECONDITION, FUTURE_REVISION, INVALID_ARGUMENT, OK, Status
from raftd.core.messages import Entry
from raftd.kv.bodies import header_only
from raftd.kv.check import check_delete_range, check_lease_grant, check_put, check_txn
from raftd.kv.command import Command, Kind, Outcome, Result
from raftd.kv.compaction import begin_compaction, step_compaction
from raftd.kv.leases import LeaseChange
from raftd.kv.lessor import Lessor
from raftd.kv.limits import Limits
from raftd.kv.mvcc import Store
from raftd.kv.session import SESSION_UNKNOWN_TEXT, SessionTable
from raftd.kv.state import State
from raftd.kv.transaction import Transaction
from raftd.kv.txn import execute_txn
from raftd.kv.writes import check_put_alone, execute_delete_range, execute_put

MALFORMED_REQUEST_TEXT: Final = "raftd: the request is not a protobuf message of its kind"


class Execution:
    """What one entry sees and changes; `run` once, then `state` is to be saved."""

    def __init__(self, transaction: Transaction, state: State, limits: Limits, entry: Entry) -> None:
        self._transaction = transaction
        self._state = state
        self._limits = limits
        self._entry = entry
        self._store = Store(transaction, state)
        self._sessions = SessionTable(transaction, state, limits)
        self._lessor = Lessor(transaction, state, self._store, limits)
        self._position = 0

    @property
    def lease_changes(self) -> Sequence[LeaseChange]:
        return self._lessor.changes

    def run(self, commands: Sequence[Command]) -> list[Result]:
        self._sessions.expire()
        results = []
        for self._position, command in enumerate(commands):
            if command.kind == Kind.REGISTER:
                results.append(self._register(command))
            elif command.session == 0 and command.kind in _EXECUTORS:
                results.append(self._execute(command))
            else:
                results.append(self._in_session(command))
        self._sessions.flush()
        return results

    @property
    def _place(self) -> int:
        """Of the command in the log: unique, and growing."""
        return self._entry.index << 16 | self._position

    def _register(self, command: Command) -> Result:
        session_id = self._place
        self._sessions.register(session_id)
        body = session_pb2.Registered(session=session_id).SerializeToString()
        return Result(OK, "", body, Outcome.DECIDED, 0, command.sequence)

    def _in_session(self, command: Command) -> Result:
        sessions = self._sessions
        session = sessions.use(command.session)
        if session is None:
            return Result(
                FAILED_PRECONDITION,
                SESSION_UNKNOWN_TEXT,
                b"",
                Outcome.SESSION_EXPIRED,
                command.session,
                command.sequence,
            )
        if command.kind == Kind.ACKNOWLEDGE:
            sessions.acknowledge(session, command.sequence)
            return Result(OK, "", b"", Outcome.DECIDED, session.id, command.sequence)
        if command.kind == Kind.CLOSE:
            sessions.close(session)
            return Result(OK, "", b"", Outcome.DECIDED, session.id, command.sequence)
        result = sessions.answer_without_executing(session, command)
        if result is None:
            result = self._execute(command)
            sessions.record(session, result, self._state.revision)
        return result

    def _execute(self, command: Command) -> Result:
        code, text, body = OK, "", b""
        try:
            body = _EXECUTORS[command.kind](self, command.request)
        except Status as status:
            code, text = status.code, status.text
        except DecodeError:
            code, text = INVALID_ARGUMENT, MALFORMED_REQUEST_TEXT
        assert code == OK or not self._store.has_changes, f"{text}, after a write"
        self._store.end()
        return Result(code, text, body, Outcome.DECIDED, command.session, command.sequence)

    def _put(self, data: bytes) -> bytes:
        request = rpc_pb2.PutRequest.FromString(data)
        check_put(request, self._limits)
        if not (request.lease or request.prev_kv or request.ignore_value or request.ignore_lease):
            return header_only(self._store.put(request.key, request.value, 0))
        check_put_alone(self._store, request)
        response = rpc_pb2.PutResponse()
        execute_put(self._store, request, response)
        return response.SerializeToString()

    def _delete_range(self, data: bytes) -> bytes:
        request = rpc_pb2.DeleteRangeRequest.FromString(data)
        check_delete_range(request, self._limits)
        response = rpc_pb2.DeleteRangeResponse()
        execute_delete_range(self._store, request, response)
        return response.SerializeToString()

    def _txn(self, data: bytes) -> bytes:
        request = rpc_pb2.TxnRequest.FromString(data)
        check_txn(request, self._limits)
        return execute_txn(self._store, request).SerializeToString()

    def _lease_grant(self, data: bytes) -> bytes:
        request = rpc_pb2.LeaseGrantRequest.FromString(data)
        check_lease_grant(request, self._limits)
        return self._lessor.grant(request, self._place).SerializeToString()

    def _lease_revoke(self, data: bytes) -> bytes:
        self._lessor.revoke(rpc_pb2.LeaseRevokeRequest.FromString(data).ID)
        return header_only(self._store.revision)

    def _lease_expire(self, data: bytes) -> bytes:
        self._lessor.expire(session_pb2.LeaseExpiry.FromString(data), self._entry.term)
        return header_only(self._store.revision)

    def _compact(self, data: bytes) -> bytes:
        """The first step comes with it: a small compaction is done at once."""
        revision = rpc_pb2.CompactionRequest.FromString(data).revision
        if revision <= self._state.compacted_revision:
            raise Status(*COMPACTED)
        if revision > self._state.revision:
            raise Status(*FUTURE_REVISION)
        begin_compaction(self._state, revision)
        return self._compact_step(b"")

    def _compact_step(self, data: bytes) -> bytes:
        step_compaction(self._transaction, self._state, self._limits)
        return header_only(self._store.revision)


_EXECUTORS: Final[dict[int, Callable[[Execution, bytes], bytes]]] = {
    Kind.PUT: Execution._put,
    Kind.DELETE_RANGE: Execution._delete_range,
    Kind.TXN: Execution._txn,
    Kind.COMPACT: Execution._compact,
    Kind.LEASE_GRANT: Execution._lease_grant,
    Kind.LEASE_REVOKE: Execution._lease_revoke,
    Kind.LEASE_EXPIRE: Execution._lease_expire,
    Kind.COMPACT_STEP: Execution._compact_step,
}
