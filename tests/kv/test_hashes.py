"""HashKV, against values that etcd 3.4 gave for the same history, and against itself during a compaction."""

import pytest

from proto import rpc_pb2
from proto.errors import COMPACTED, FUTURE_REVISION, Status
from raftd.kv.limits import Limits
from tests.kv.replica import Replica, replay


def filled() -> Replica:
    replica = Replica(Limits(compaction_step_rows=1))
    replica.call(rpc_pb2.LeaseGrantRequest(ID=-7, TTL=1000))
    for number in range(12):
        key = b"abc"[number % 3 : number % 3 + 1]
        replica.call(rpc_pb2.PutRequest(key=key, value=b"%d" % number, lease=-7 * (number % 2)))
    replica.call(rpc_pb2.DeleteRangeRequest(key=b"b"))
    return replica


def hash_kv(replica: Replica, revision: int) -> int:
    response = replica.call(rpc_pb2.HashKVRequest(revision=revision))
    assert isinstance(response, rpc_pb2.HashKVResponse)
    assert response.header.revision == replica.machine.current_revision(replica.transaction)
    assert response.compact_revision == replica.machine.compacted_revision(replica.transaction)
    assert response.hash_revision == (revision or response.header.revision)
    return response.hash


def compact(replica: Replica, revision: int) -> None:
    replica.call(rpc_pb2.CompactionRequest(revision=revision))


def test_the_sums_of_etcd() -> None:
    """What etcd 3.4.23 answers for this history; -1 is no error there, and the sum of nothing."""
    replica = filled()
    sums = {revision: hash_kv(replica, revision) for revision in (2, 7, 14, 0)}
    assert sums == {2: 1750265556, 7: 731356876, 14: 1256078535, 0: 1256078535}
    response = replica.call(rpc_pb2.HashKVRequest(revision=-1))
    assert isinstance(response, rpc_pb2.HashKVResponse)
    assert response.hash == 1084519789
    compact(replica, 9)
    assert (hash_kv(replica, 10), hash_kv(replica, 14)) == (2552133664, 1473392570)
    compact(replica, 14)
    assert hash_kv(replica, 0) == 2946333167
    replica.call(rpc_pb2.DeleteRangeRequest(key=b"a", range_end=b"z"))
    assert hash_kv(replica, 0) == 2705370113
    compact(replica, 15)
    assert hash_kv(replica, 0) == 1084519789


@pytest.mark.parametrize("compacted", range(1, 15))
def test_the_sum_does_not_see_how_far_a_compaction_is(compacted: int) -> None:
    """Hazard 31: two replicas at different steps must agree; so must one that lags in its log."""
    replica = filled()
    compact(replica, compacted)
    sums: dict[int, int] = {}
    while True:
        for revision in range(compacted + 1, 15):
            assert hash_kv(replica, revision) == sums.setdefault(revision, hash_kv(replica, revision))
        if not replica.compaction_pending():
            break
        replica.step_compaction()


@pytest.mark.parametrize(
    ("revision", "error"), [(9, COMPACTED), (1, COMPACTED), (15, FUTURE_REVISION), (1 << 62, FUTURE_REVISION)]
)
def test_a_revision_that_has_no_sum(revision: int, error: tuple[int, str]) -> None:
    replica = filled()
    compact(replica, 9)
    with pytest.raises(Status) as refused:
        hash_kv(replica, revision)
    assert (refused.value.code, refused.value.text) == error


def test_replicas_of_one_log_have_equal_sums_over_their_tables() -> None:
    replica = filled()
    other = replay(replica.log, Limits(compaction_step_rows=1))
    before = replica.machine.hash(replica.transaction)
    assert before == other.machine.hash(other.transaction)
    assert before.header.revision == 14
    replica.call(rpc_pb2.LeaseGrantRequest(ID=1, TTL=1000))
    assert replica.machine.hash(replica.transaction).hash != before.hash
