"""A state machine over its tables, driven as a node drives it: check, then encode, apply or read."""

from collections.abc import Sequence

from google.protobuf.message import Message

from proto import rpc_pb2
from proto.errors import Status
from raftd.core.messages import Entry, EntryKind
from raftd.kv import TABLES, StateMachine
from raftd.kv.check import check_delete_range, check_lease_grant, check_put, check_txn, is_read_only
from raftd.kv.command import Kind, Outcome, Result, encode_command, encode_payload
from raftd.kv.limits import LIMITS, Limits
from tests.memory_transaction import MemoryTransaction

Command = tuple[int, int, int, bytes]
"""Kind, session, sequence, request."""


class Replica:
    def __init__(self, limits: Limits = LIMITS) -> None:
        self.machine = StateMachine(limits)
        self.transaction = MemoryTransaction(TABLES)
        self.log: list[Entry] = []
        self.time_ms = 0

    def apply(self, *commands: Command) -> list[Result]:
        """One entry with these commands, at the cluster time `self.time_ms`."""
        payload = encode_payload(self.time_ms, [encode_command(*command) for command in commands])
        return self.apply_entry(Entry(len(self.log) + 2, 1, EntryKind.COMMANDS, payload))

    def apply_entry(self, entry: Entry) -> list[Result]:
        self.log.append(entry)
        return list(self.machine.apply(self.transaction, entry).results)

    def compaction_pending(self) -> bool:
        return self.machine.compaction_pending(self.transaction)

    def step_compaction(self) -> None:
        """What a leader proposes while it is due."""
        self.apply((Kind.COMPACT_STEP, 0, 0, b""))

    def tables(self) -> dict[str, dict[bytes, bytes]]:
        return self.transaction.snapshot()

    def register(self) -> int:
        (result,) = self.apply((Kind.REGISTER, 0, 1, b""))
        assert result.code == 0
        return len(self.log) + 1 << 16

    def call(self, request: Message) -> Message:
        """What a client without a session gets, but for the header's node fields. Raises Status."""
        match request:
            case rpc_pb2.RangeRequest():
                return self.machine.range(self.transaction, request)
            case rpc_pb2.PutRequest():
                check_put(request)
                return rpc_pb2.PutResponse.FromString(self._execute(Kind.PUT, request))
            case rpc_pb2.DeleteRangeRequest():
                check_delete_range(request)
                return rpc_pb2.DeleteRangeResponse.FromString(self._execute(Kind.DELETE_RANGE, request))
            case rpc_pb2.TxnRequest():
                check_txn(request)
                if not is_read_only(request):
                    return rpc_pb2.TxnResponse.FromString(self._execute(Kind.TXN, request))
                return self._read_txn(request)
            case rpc_pb2.CompactionRequest():
                return rpc_pb2.CompactionResponse.FromString(self._execute(Kind.COMPACT, request))
            case rpc_pb2.LeaseGrantRequest():
                check_lease_grant(request)
                return rpc_pb2.LeaseGrantResponse.FromString(self._execute(Kind.LEASE_GRANT, request))
            case rpc_pb2.LeaseRevokeRequest():
                return rpc_pb2.LeaseRevokeResponse.FromString(self._execute(Kind.LEASE_REVOKE, request))
            case rpc_pb2.LeaseTimeToLiveRequest():
                return self.machine.lease_time_to_live(self.transaction, request)
            case rpc_pb2.LeaseLeasesRequest():
                return self.machine.lease_leases(self.transaction)
            case rpc_pb2.HashKVRequest():
                return self.machine.hash_kv(self.transaction, request)
        raise AssertionError(request)

    def _read_txn(self, request: rpc_pb2.TxnRequest) -> rpc_pb2.TxnResponse:
        """Read, and also executed as a command: both must say the same and change nothing."""
        try:
            answer: rpc_pb2.TxnResponse | Status = self.machine.read_txn(self.transaction, request)
        except Status as status:
            answer = status
        before = self.machine.current_revision(self.transaction)
        (result,) = self.apply((Kind.TXN, 0, 0, request.SerializeToString()))
        assert self.machine.current_revision(self.transaction) == before
        if isinstance(answer, Status):
            assert (result.code, result.text) == (answer.code, answer.text)
            raise answer
        assert rpc_pb2.TxnResponse.FromString(result.body) == answer
        return answer

    def _execute(self, kind: Kind, request: Message) -> bytes:
        (result,) = self.apply((kind, 0, 0, request.SerializeToString()))
        assert result.outcome is Outcome.DECIDED
        if result.code:
            assert not result.body
            raise Status(result.code, result.text)
        return result.body


def put(key: bytes, value: bytes = b"") -> bytes:
    return rpc_pb2.PutRequest(key=key, value=value).SerializeToString()


def replay(log: Sequence[Entry], limits: Limits = LIMITS) -> Replica:
    """Another replica that applies the same log."""
    other = Replica(limits)
    for entry in log:
        other.apply_entry(entry)
    return other
