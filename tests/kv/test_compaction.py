"""Compaction: refused reads at once, old versions gone in bounded steps, nothing else different meanwhile."""

import pytest

from proto import rpc_pb2
from proto.errors import COMPACTED, FUTURE_REVISION, Status
from raftd.core.messages import Entry, EntryKind
from raftd.kv import TABLES, StateMachine
from raftd.kv.command import Kind, encode_command, encode_payload
from raftd.kv.keyspace import HISTORY
from raftd.kv.limits import Limits
from raftd.kv.mvcc import REVISIONS
from tests.kv.invariants import check_tables
from tests.kv.replica import Replica, replay
from tests.memory_transaction import MemoryTransaction

SMALL_STEPS = Limits(compaction_step_rows=2)


def filled(limits: Limits = SMALL_STEPS) -> Replica:
    """Revisions 2 to 21: puts of four keys in turn; 22 deletes a, 23 puts b, 24 puts a."""
    replica = Replica(limits)
    for number in range(20):
        put(replica, b"abcd"[number % 4 : number % 4 + 1], b"%d" % number)
    replica.call(rpc_pb2.DeleteRangeRequest(key=b"a"))
    put(replica, b"b", b"new")
    put(replica, b"a", b"again")
    return replica


def put(replica: Replica, key: bytes, value: bytes = b"") -> None:
    replica.call(rpc_pb2.PutRequest(key=key, value=value))


def compact(replica: Replica, revision: int) -> None:
    response = replica.call(rpc_pb2.CompactionRequest(revision=revision))
    assert isinstance(response, rpc_pb2.CompactionResponse)
    assert response.header.revision == replica.machine.current_revision(replica.transaction)


def finish(replica: Replica) -> int:
    steps = 0
    while replica.compaction_pending():
        replica.step_compaction()
        check_tables(replica.transaction)
        steps += 1
    return steps


def everything(replica: Replica, revision: int) -> list[tuple[bytes, bytes, int]]:
    response = replica.call(rpc_pb2.RangeRequest(key=b"\x00", range_end=b"\x00", revision=revision))
    assert isinstance(response, rpc_pb2.RangeResponse)
    return [(kv.key, kv.value, kv.mod_revision) for kv in response.kvs]


def versions(replica: Replica) -> int:
    return len(replica.tables()[REVISIONS])


@pytest.mark.parametrize(
    ("revision", "error"),
    [
        (10, COMPACTED),
        (9, COMPACTED),
        (0, COMPACTED),
        (-1, COMPACTED),
        (25, FUTURE_REVISION),
        ((1 << 63) - 1, FUTURE_REVISION),
    ],
)
def test_a_revision_that_cannot_be_compacted(revision: int, error: tuple[int, str]) -> None:
    replica = filled()
    compact(replica, 10)
    with pytest.raises(Status) as refused:
        compact(replica, revision)
    assert (refused.value.code, refused.value.text) == error
    assert replica.machine.compacted_revision(replica.transaction) == 10


def test_a_fresh_store_can_be_compacted_at_0() -> None:
    """As in etcd, whose "never" is -1."""
    replica = Replica()
    with pytest.raises(Status):
        compact(replica, -1)
    compact(replica, 0)
    compact(replica, 1)
    assert not replica.compaction_pending()


def test_reads_are_refused_at_once_and_versions_go_later() -> None:
    replica = filled()
    before = {revision: everything(replica, revision) for revision in range(2, 25)}
    compact(replica, 20)
    assert replica.compaction_pending()
    assert versions(replica) > 20
    with pytest.raises(Status) as refused:
        everything(replica, 19)
    assert (refused.value.code, refused.value.text) == COMPACTED
    while replica.compaction_pending():
        assert {revision: everything(replica, revision) for revision in range(20, 25)} == {
            revision: before[revision] for revision in range(20, 25)
        }
        replica.step_compaction()
        check_tables(replica.transaction)
    assert everything(replica, 20) == before[20]
    # What lives at 20, and what came after it: one version of each key, and four more.
    assert versions(replica) == 4 + 4


@pytest.mark.parametrize("revision", [22, 23, 24])
def test_a_deleted_key_leaves_nothing(revision: int) -> None:
    """The delete itself stands until a compaction beyond it, so that a watch from there sees it."""
    replica = filled()
    compact(replica, revision)
    finish(replica)
    rows = [row for row in replica.tables()[HISTORY] if b"a\x00\x01" in row]
    assert len(rows) == {22: 2, 23: 1, 24: 1}[revision]


def test_a_compaction_overtakes_another() -> None:
    """Hazard 31: the second one begins in the midst of the first and leaves nothing behind."""
    for steps in range(12):
        replica = filled()
        compact(replica, 22)
        for _ in range(steps):
            replica.step_compaction()
        compact(replica, 24)
        finish(replica)
        assert versions(replica) == 4, steps
        assert [key for key, _, _ in everything(replica, 0)] == [b"a", b"b", b"c", b"d"]


def test_a_step_without_a_compaction_does_nothing() -> None:
    replica = filled()
    before = replica.tables()
    replica.step_compaction()
    assert replica.tables() == before


def test_a_step_is_bounded_in_rows() -> None:
    replica = filled(Limits(compaction_step_rows=4))
    compact(replica, 24)
    # 23 versions, four of them looked at by the compaction itself.
    assert finish(replica) == 5


def test_a_step_is_bounded_in_bytes() -> None:
    """Hazard 73: large values do not make a huge transaction of it."""
    replica = Replica(Limits(compaction_step_bytes=10_000))
    for _ in range(20):
        put(replica, b"k", bytes(4_000))
    compact(replica, 21)
    assert finish(replica) == 6


def test_a_step_is_bounded_in_bytes_that_it_removes() -> None:
    """Large values that small ones have replaced (hazard 73)."""
    replica = Replica(Limits(compaction_step_bytes=10_000))
    for number in range(20):
        put(replica, b"%d" % number, bytes(4_000))
    compact(replica, 21)
    finish(replica)
    for number in range(20):
        put(replica, b"%d" % number)
    compact(replica, 41)
    assert finish(replica) == 6
    assert versions(replica) == 20


def test_a_revision_with_many_changes_takes_several_steps() -> None:
    replica = Replica(SMALL_STEPS)
    for number in range(9):
        put(replica, b"k%d" % number)
    replica.call(rpc_pb2.DeleteRangeRequest(key=b"k", range_end=b"l"))
    put(replica, b"x")
    compact(replica, 12)
    assert finish(replica) > 5
    assert versions(replica) == 1


def test_what_one_compaction_costs_does_not_depend_on_what_is_stored() -> None:
    replica = Replica(Limits(compaction_step_rows=5))
    for number in range(100):
        put(replica, b"%03d" % number)
    compact(replica, 101)
    assert finish(replica) == 19
    put(replica, b"000")
    compact(replica, 102)
    assert finish(replica) == 0


def test_an_interrupted_compaction_goes_on_where_the_disk_has_it() -> None:
    """Hazard 31: what was not committed is applied again, from the state that was."""
    limits = SMALL_STEPS
    replica = filled(limits)
    compact(replica, 23)
    finish(replica)
    expected = replica.tables()
    log = replica.log
    for kept in range(len(log) - 12, len(log)):
        restarted = replay(log[:kept], limits)
        survivor = MemoryTransaction(TABLES)
        for table, rows in restarted.tables().items():
            for key, value in rows.items():
                survivor.put(table, key, value)
        machine = StateMachine(limits)
        for entry in log[kept:]:
            machine.apply(survivor, entry)
        assert survivor.snapshot() == expected


def test_an_entry_says_that_a_compaction_is_due() -> None:
    """Any entry does: so a new leader learns it from the first one it applies."""
    replica = filled()
    request = rpc_pb2.CompactionRequest(revision=20).SerializeToString()
    payload = encode_payload(0, [encode_command(Kind.COMPACT, 0, 0, request)])
    pending = []
    for index, entry in enumerate(
        (
            Entry(100, 1, EntryKind.NOOP, b""),
            Entry(101, 1, EntryKind.COMMANDS, payload),
            Entry(102, 2, EntryKind.NOOP, b""),
        )
    ):
        applied = replica.machine.apply(replica.transaction, entry)
        assert applied.compacted_revision == (-1 if index == 0 else 20)
        assert applied.first_revision > applied.revision
        pending.append(applied.compaction_pending)
    assert pending == [False, True, True]
