"""The state machine: what every node does with a committed entry, and how its state is read.

`apply` is deterministic: equal logs make equal tables, on every node, whatever its clock, memory or hash seed
(hazard 33). It may fail for three reasons only: `NewerFormat` (the node stops), an error of the transaction
itself (the node fences), an assertion (a bug). A client's mistake is a `Result` with etcd's code and text.
`raftd.node` calls `apply` on the writer thread, and the reading functions on any thread with a read
transaction.
"""

from collections.abc import Callable
from typing import Final

from google.protobuf.message import DecodeError

from proto import rpc_pb2, session_pb2
from proto.errors import FAILED_PRECONDITION, INVALID_ARGUMENT, OK, UNIMPLEMENTED, Status
from raftd.core.messages import Entry, EntryKind
from raftd.kv.bodies import header_only
from raftd.kv.check import check_delete_range, check_put, check_range, check_txn, is_read_only
from raftd.kv.command import Command, Kind, Outcome, Result, decode_command, decode_payload
from raftd.kv.keyspace import HISTORY, KEYS
from raftd.kv.limits import LIMITS, Limits
from raftd.kv.mvcc import REVISIONS, Store, View
from raftd.kv.ranges import execute_range
from raftd.kv.session import RESULTS, SESSION_AGES, SESSION_UNKNOWN_TEXT, SESSIONS, SessionTable
from raftd.kv.state import STATE, State
from raftd.kv.transaction import Reader, Transaction
from raftd.kv.txn import execute_txn
from raftd.kv.writes import check_put_alone, execute_delete_range, execute_put

TABLES: Final = (KEYS, HISTORY, REVISIONS, SESSIONS, SESSION_AGES, RESULTS, STATE)
"""Every table of the state machine, to be opened by the store."""

MALFORMED_REQUEST_TEXT: Final = "raftd: the request is not a protobuf message of its kind"
COMPACT_TEXT: Final = "raftd: compaction is not supported"


class StateMachine:
    """Has no state of its own: everything is in the transaction's tables."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._limits = limits
        self._executors: dict[int, Callable[[Store, bytes], bytes]] = {
            Kind.PUT: self._put,
            Kind.DELETE_RANGE: self._delete_range,
            Kind.TXN: self._txn,
            Kind.COMPACT: self._compact,
        }

    def apply(self, transaction: Transaction, entry: Entry) -> list[Result]:
        """Execute the entry's commands, in order; one result for each. Raises NewerFormat, and then the
        transaction must not be committed."""
        if entry.kind is not EntryKind.COMMANDS:
            return []
        cluster_time_ms, encoded = decode_payload(entry.payload)
        commands = [decode_command(data) for data in encoded]
        state = State.load(transaction)
        state.cluster_time_ms = max(state.cluster_time_ms, cluster_time_ms)
        store = Store(transaction, state)
        sessions = SessionTable(transaction, state, self._limits)
        sessions.expire()
        results = []
        for position, command in enumerate(commands):
            if command.kind == Kind.REGISTER:
                results.append(_register(sessions, command, entry.index << 16 | position))
            elif command.session == 0 and command.kind in self._executors:
                results.append(self._execute(store, command))
            else:
                results.append(self._in_session(store, sessions, state, command))
        sessions.flush()
        state.save(transaction)
        return results

    def range(self, reader: Reader, request: rpc_pb2.RangeRequest) -> rpc_pb2.RangeResponse:
        """Serve a Range from the reader's snapshot; `header` has the revision only. Raises Status."""
        check_range(request)
        return execute_range(View(reader, State.load(reader)), request)

    def read_txn(self, reader: Reader, request: rpc_pb2.TxnRequest) -> rpc_pb2.TxnResponse:
        """Serve a read-only Txn from the reader's snapshot; `header` has the revision only. Raises Status."""
        assert is_read_only(request)
        check_txn(request, self._limits)
        return execute_txn(View(reader, State.load(reader)), request)

    def current_revision(self, reader: Reader) -> int:
        return State.load(reader).revision

    def cluster_time_ms(self, reader: Reader) -> int:
        """The cluster time reached by the log: a new leader counts on from here."""
        return State.load(reader).cluster_time_ms

    def _in_session(self, store: Store, sessions: SessionTable, state: State, command: Command) -> Result:
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
            result = self._execute(store, command)
            sessions.record(session, result, state.revision)
        return result

    def _execute(self, store: Store, command: Command) -> Result:
        code, text, body = OK, "", b""
        try:
            body = self._executors[command.kind](store, command.request)
        except Status as status:
            code, text = status.code, status.text
        except DecodeError:
            code, text = INVALID_ARGUMENT, MALFORMED_REQUEST_TEXT
        assert code == OK or not store.has_changes, f"{text}, after a write"
        store.end()
        return Result(code, text, body, Outcome.DECIDED, command.session, command.sequence)

    def _put(self, store: Store, data: bytes) -> bytes:
        request = rpc_pb2.PutRequest.FromString(data)
        check_put(request, self._limits)
        if not (request.lease or request.prev_kv or request.ignore_value or request.ignore_lease):
            return header_only(store.put(request.key, request.value, 0))
        check_put_alone(store, request)
        response = rpc_pb2.PutResponse()
        execute_put(store, request, response)
        return response.SerializeToString()

    def _delete_range(self, store: Store, data: bytes) -> bytes:
        request = rpc_pb2.DeleteRangeRequest.FromString(data)
        check_delete_range(request, self._limits)
        response = rpc_pb2.DeleteRangeResponse()
        execute_delete_range(store, request, response)
        return response.SerializeToString()

    def _txn(self, store: Store, data: bytes) -> bytes:
        request = rpc_pb2.TxnRequest.FromString(data)
        check_txn(request, self._limits)
        return execute_txn(store, request).SerializeToString()

    def _compact(self, store: Store, data: bytes) -> bytes:
        """Compaction will raise `State.compacted_revision` here and then drop old rows, in chunks."""
        raise Status(UNIMPLEMENTED, COMPACT_TEXT)


def _register(sessions: SessionTable, command: Command, session_id: int) -> Result:
    sessions.register(session_id)
    body = session_pb2.Registered(session=session_id).SerializeToString()
    return Result(OK, "", body, Outcome.DECIDED, 0, command.sequence)
