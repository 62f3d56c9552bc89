"""Random histories against a model of etcd made of dictionaries: every revision stays readable as it was."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from proto import kv_pb2
from proto.rpc_pb2 import (
    CompactionRequest,
    Compare,
    DeleteRangeRequest,
    DeleteRangeResponse,
    LeaseGrantRequest,
    LeaseRevokeRequest,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
    RequestOp,
    TxnRequest,
    TxnResponse,
)
from raftd.kv.events import read_events
from raftd.kv.keyspace import CHUNK_BYTES
from raftd.kv.limits import Limits
from tests.kv import model
from tests.kv.invariants import check_tables
from tests.kv.model import EtcdModel, Snapshot, Version
from tests.kv.replica import Replica

keys = st.sampled_from(
    [
        *(b"a", b"a\x00", b"a\x01", b"b", b"b\xff", b"c", b"\x00", b"\xff"),
        *(b"d" * CHUNK_BYTES, b"d" * (CHUNK_BYTES + 1), b"d" * 2 * CHUNK_BYTES + b"e"),
    ]
)
range_ends = st.one_of(st.just(b""), st.just(b"\x00"), keys)
leases = st.sampled_from([1, 2, -3])
values = st.binary(max_size=4)


def version_of(kv: kv_pb2.KeyValue) -> Version:
    return Version(kv.key, kv.value, kv.create_revision, kv.mod_revision, kv.version, kv.lease)


class HistoryOfAStore(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.replica = Replica(Limits(compaction_step_rows=2))
        self.model = EtcdModel()

    @rule(key=keys, value=values, lease=leases)
    def put(self, key: bytes, value: bytes, lease: int) -> None:
        if lease not in self.model.leases:
            lease = 0
        response = self.replica.call(PutRequest(key=key, value=value, prev_kv=True, lease=lease))
        assert isinstance(response, PutResponse)
        previous = None

        def change(snapshot: Snapshot, revision: int) -> bool:
            nonlocal previous
            previous = model.put(snapshot, revision, key, value, lease)
            return True

        self.model.write(change)
        assert response.header.revision == self.model.revision
        assert (version_of(response.prev_kv) if response.HasField("prev_kv") else None) == previous

    @rule(key=keys, range_end=range_ends)
    def delete(self, key: bytes, range_end: bytes) -> None:
        response = self.replica.call(DeleteRangeRequest(key=key, range_end=range_end, prev_kv=True))
        assert isinstance(response, DeleteRangeResponse)
        expected = self.model.select(key, range_end)
        self.model.write(lambda snapshot, _: bool(model.delete(snapshot, key, range_end)))
        assert response.deleted == len(expected)
        assert [version_of(kv) for kv in response.prev_kvs] == expected
        assert response.header.revision == self.model.revision

    @rule(data=st.data(), puts=st.lists(st.tuples(keys, values), unique_by=lambda put: put[0], max_size=3))
    def txn(self, data: st.DataObject, puts: list[tuple[bytes, bytes]]) -> None:
        """Puts, and a delete of a key that none of them names; all of one revision, or none."""
        compared = data.draw(keys)
        version = data.draw(st.integers(0, 3))
        gone = data.draw(keys.filter(lambda key: key not in {key for key, _ in puts}))
        operations = [RequestOp(request_put=PutRequest(key=key, value=value)) for key, value in puts]
        operations.append(RequestOp(request_delete_range=DeleteRangeRequest(key=gone)))
        compare = Compare(key=compared, target=Compare.VERSION, result=Compare.LESS, version=version)
        response = self.replica.call(TxnRequest(compare=[compare], success=operations))
        assert isinstance(response, TxnResponse)
        live = self.model.now.get(compared)
        succeeded = (live.version if live else 0) < version

        def change(snapshot: Snapshot, revision: int) -> bool:
            for key, value in puts:
                model.put(snapshot, revision, key, value)
            return bool(model.delete(snapshot, gone, b"")) or bool(puts)

        if succeeded:
            self.model.write(change)
        assert response.succeeded == succeeded
        assert response.header.revision == self.model.revision

    @rule(key=keys, range_end=range_ends, limit=st.integers(-1, 5), data=st.data())
    def range(self, key: bytes, range_end: bytes, limit: int, data: st.DataObject) -> None:
        revision = data.draw(st.just(0) | st.integers(max(self.model.compacted, 0), self.model.revision))
        request = RangeRequest(key=key, range_end=range_end, limit=limit, revision=revision)
        response = self.replica.call(request)
        assert isinstance(response, RangeResponse)
        expected = self.model.select(key, range_end, revision)
        assert [version_of(kv) for kv in response.kvs] == (expected[:limit] if limit > 0 else expected)
        assert response.count == len(expected)
        assert response.more == (0 < limit < len(expected))
        assert response.header.revision == self.model.revision

    @rule(lease=leases)
    def grant_or_revoke(self, lease: int) -> None:
        if lease not in self.model.leases:
            self.replica.call(LeaseGrantRequest(ID=lease, TTL=60))
            self.model.leases.add(lease)
        else:
            self.replica.call(LeaseRevokeRequest(ID=lease))
            self.model.leases.remove(lease)
            self.model.write(lambda snapshot, _: model.revoke(snapshot, lease))

    @rule(data=st.data())
    def compact(self, data: st.DataObject) -> None:
        if self.model.compacted < self.model.revision:
            self.model.compacted = data.draw(st.integers(self.model.compacted + 1, self.model.revision))
            self.replica.call(CompactionRequest(revision=self.model.compacted))

    @rule()
    def step_compaction(self) -> None:
        self.replica.step_compaction()

    @rule(data=st.data())
    def watch(self, data: st.DataObject) -> None:
        """The events are the differences between one snapshot and the next."""
        first = data.draw(st.integers(max(self.model.compacted, 1) + 1, self.model.revision + 1))
        seen = {
            revision: {event.kv.key: version_of(event.kv) for event in events}
            for revision, events in read_events(self.replica.transaction, first)
        }
        for revision in range(first, self.model.revision + 1):
            before, after = self.model.snapshots[revision - 1 : revision + 1]
            changed = {key: version for key, version in after.items() if before.get(key) != version}
            gone = {key: Version(key, b"", 0, revision, 0, 0) for key in before if key not in after}
            assert seen.pop(revision) == changed | gone
        assert seen == {}

    @invariant()
    def the_tables_hold_together(self) -> None:
        check_tables(self.replica.transaction)

    @invariant()
    def every_revision_reads_as_it_was(self) -> None:
        oldest = max(self.model.compacted, 1)
        for revision in {oldest, (oldest + self.model.revision) // 2, self.model.revision}:
            response = self.replica.call(RangeRequest(key=b"\x00", range_end=b"\x00", revision=revision))
            assert isinstance(response, RangeResponse)
            assert [version_of(kv) for kv in response.kvs] == self.model.select(b"\x00", b"\x00", revision)


HistoryOfAStore.TestCase.settings = settings(
    derandomize=True, deadline=None, max_examples=100, stateful_step_count=40
)
test_a_history_of_a_store = HistoryOfAStore.TestCase
