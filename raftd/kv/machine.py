"""The state machine: what every node does with a committed entry, and how its state is read.

`apply` is deterministic: equal logs make equal tables, on every node, whatever its clock, memory or hash seed
(hazard 33). It may fail for three reasons only: `NewerFormat` (the node stops), an error of the transaction
itself (the node fences), an assertion (a bug). A client's mistake is a `Result` with etcd's code and text.
`raftd.node` calls `apply` on the writer thread, and the reading functions on any thread with a read
transaction.
"""

from collections.abc import Iterator, Sequence
from typing import Final

from proto import rpc_pb2
from raftd.core.messages import Entry, EntryKind
from raftd.kv.check import check_range, check_txn, is_read_only
from raftd.kv.command import Applied, Result, decode_command, decode_payload
from raftd.kv.compaction import compaction_pending
from raftd.kv.execution import Execution
from raftd.kv.hashes import hash_kv, hash_tables
from raftd.kv.keyspace import HISTORY, KEYS
from raftd.kv.leases import LEASE_KEYS, LEASES, Lease, LeaseChange, all_leases
from raftd.kv.lessor import execute_leases, execute_time_to_live
from raftd.kv.limits import LIMITS, Limits
from raftd.kv.mvcc import REVISIONS, View
from raftd.kv.ranges import execute_range
from raftd.kv.session import RESULTS, SESSION_AGES, SESSIONS
from raftd.kv.state import STATE, State
from raftd.kv.transaction import Reader, Transaction
from raftd.kv.txn import execute_txn

TABLES: Final = (
    *(KEYS, HISTORY, REVISIONS),
    *(LEASES, LEASE_KEYS),
    *(SESSIONS, SESSION_AGES, RESULTS),
    STATE,
)
"""Every table of the state machine, to be opened by the store."""


class StateMachine:
    """Has no state of its own: everything is in the transaction's tables."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self._limits = limits

    def apply(self, transaction: Transaction, entry: Entry) -> Applied:
        """Execute the entry's commands, in order. Raises NewerFormat, and then the transaction must not be
        committed."""
        state = State.load(transaction)
        first_revision = state.revision + 1
        results: list[Result] = []
        lease_changes: Sequence[LeaseChange] = ()
        if entry.kind is EntryKind.COMMANDS:
            cluster_time_ms, encoded = decode_payload(entry.payload)
            commands = [decode_command(data) for data in encoded]
            state.cluster_time_ms = max(state.cluster_time_ms, cluster_time_ms)
            execution = Execution(transaction, state, self._limits, entry)
            results = execution.run(commands)
            lease_changes = execution.lease_changes
            state.save(transaction)
        return Applied(
            results,
            first_revision,
            state.revision,
            state.compacted_revision,
            compaction_pending(state),
            lease_changes,
        )

    def range(self, reader: Reader, request: rpc_pb2.RangeRequest) -> rpc_pb2.RangeResponse:
        """Serve a Range from the reader's snapshot; `header` has the revision only. Raises Status."""
        check_range(request)
        return execute_range(View(reader, State.load(reader)), request)

    def read_txn(self, reader: Reader, request: rpc_pb2.TxnRequest) -> rpc_pb2.TxnResponse:
        """Serve a read-only Txn from the reader's snapshot; `header` has the revision only. Raises Status."""
        assert is_read_only(request)
        check_txn(request, self._limits)
        return execute_txn(View(reader, State.load(reader)), request)

    def lease_time_to_live(
        self, reader: Reader, request: rpc_pb2.LeaseTimeToLiveRequest
    ) -> rpc_pb2.LeaseTimeToLiveResponse:
        """All but the time left, `TTL`, which is the leader's to say; a lease that is not there has -1 in
        it. `header` has the revision only."""
        return execute_time_to_live(View(reader, State.load(reader)), request)

    def lease_leases(self, reader: Reader) -> rpc_pb2.LeaseLeasesResponse:
        """The ids of all leases; `header` has the revision only."""
        return execute_leases(View(reader, State.load(reader)))

    def leases(self, reader: Reader) -> Iterator[Lease]:
        """What a leader counts down: it begins with these, and follows `Applied.lease_changes`."""
        return all_leases(reader)

    def hash_kv(self, reader: Reader, request: rpc_pb2.HashKVRequest) -> rpc_pb2.HashKVResponse:
        """etcd's HashKV, with `header.revision`. It reads the whole history. Raises Status."""
        found = hash_kv(reader, request.revision)
        response = rpc_pb2.HashKVResponse(
            hash=found.hash, compact_revision=found.compacted_revision, hash_revision=found.hash_revision
        )
        response.header.revision = found.revision
        return response

    def hash(self, reader: Reader) -> rpc_pb2.HashResponse:
        """A sum over every row of every table, with `header.revision`: equal on all nodes at one log index,
        and never equal to an etcd's, which sums its file."""
        response = rpc_pb2.HashResponse(hash=hash_tables(reader, TABLES))
        response.header.revision = State.load(reader).revision
        return response

    def compacted_revision(self, reader: Reader) -> int:
        """-1: never compacted."""
        return State.load(reader).compacted_revision

    def compaction_pending(self, reader: Reader) -> bool:
        """Old versions wait for their removal: the leader proposes COMPACT_STEP until this is False."""
        return compaction_pending(State.load(reader))

    def current_revision(self, reader: Reader) -> int:
        return State.load(reader).revision

    def cluster_time_ms(self, reader: Reader) -> int:
        """The cluster time reached by the log: a new leader counts on from here."""
        return State.load(reader).cluster_time_ms
