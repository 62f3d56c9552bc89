"""The history as watches read it: complete revisions, in order, from any revision left (hazard 41)."""

import pytest

from proto import kv_pb2, rpc_pb2
from raftd.core.messages import Entry, EntryKind
from raftd.kv.command import Kind, encode_command, encode_payload
from raftd.kv.events import Compacted, previous, read_events
from raftd.kv.limits import Limits
from raftd.kv.mvcc import REVISIONS
from tests.kv.invariants import check_tables
from tests.kv.replica import Replica

Seen = tuple[str, bytes, int]


def put(replica: Replica, key: bytes, value: bytes = b"") -> None:
    replica.call(rpc_pb2.PutRequest(key=key, value=value))


def seen(event: kv_pb2.Event) -> Seen:
    return kv_pb2.Event.EventType.Name(event.type), event.kv.key, event.kv.mod_revision


def history(replica: Replica, first: int, last: int | None = None) -> list[tuple[int, list[Seen]]]:
    return [
        (revision, [seen(event) for event in events])
        for revision, events in read_events(replica.transaction, first, last)
    ]


@pytest.fixture
def replica() -> Replica:
    """2: put a. 3: put b. 4: delete both. 5: put a, c. 6: put a."""
    replica = Replica(Limits(compaction_step_rows=1))
    put(replica, b"a", b"1")
    put(replica, b"b")
    replica.call(rpc_pb2.DeleteRangeRequest(key=b"\x00", range_end=b"\x00"))
    puts = [rpc_pb2.PutRequest(key=b"c"), rpc_pb2.PutRequest(key=b"a", value=b"2")]
    replica.call(rpc_pb2.TxnRequest(success=[rpc_pb2.RequestOp(request_put=put) for put in puts]))
    put(replica, b"a", b"3")
    return replica


EVENTS = [
    (2, [("PUT", b"a", 2)]),
    (3, [("PUT", b"b", 3)]),
    (4, [("DELETE", b"a", 4), ("DELETE", b"b", 4)]),
    (5, [("PUT", b"c", 5), ("PUT", b"a", 5)]),
    (6, [("PUT", b"a", 6)]),
]


@pytest.mark.parametrize("first", [-1, 0, 1, 2, 3, 4, 5, 6, 7, 1 << 60])
@pytest.mark.parametrize("last", [None, 0, 1, 2, 4, 6, 7, 1 << 60])
def test_any_part_of_the_history(replica: Replica, first: int, last: int | None) -> None:
    """A first revision below "never compacted" is what etcd calls compacted only after a compaction."""
    until = 6 if last is None else last
    assert history(replica, first, last) == [group for group in EVENTS if first <= group[0] <= until]


def test_an_event_is_what_etcd_shows(replica: Replica) -> None:
    groups = dict(read_events(replica.transaction, 4, 6))
    assert groups[4][0] == kv_pb2.Event(
        type=kv_pb2.Event.DELETE, kv=kv_pb2.KeyValue(key=b"a", mod_revision=4)
    )
    assert groups[6][0] == kv_pb2.Event(
        kv=kv_pb2.KeyValue(key=b"a", value=b"3", create_revision=5, mod_revision=6, version=2)
    )


def test_below_the_compacted_revision_nothing_is_shown(replica: Replica) -> None:
    """At once, when asked, and not with the first event; from the compacted revision on all is there."""
    replica.call(rpc_pb2.CompactionRequest(revision=4))
    while True:
        for first in (-5, 0, 2, 3):
            with pytest.raises(Compacted) as compacted:
                read_events(replica.transaction, first)
            assert compacted.value.revision == 4
        assert history(replica, 4) == EVENTS[2:]
        if not replica.compaction_pending():
            break
        replica.step_compaction()


def test_what_was_there_before(replica: Replica) -> None:
    def before() -> list[bytes | None]:
        found = []
        for _, events in read_events(replica.transaction, 4):
            for event in events:
                version = previous(replica.transaction, event)
                found.append(None if version is None else version.value + b"@%d" % version.mod_revision)
        return found

    assert before() == [b"1@2", b"@3", None, None, b"2@5"]
    replica.call(rpc_pb2.CompactionRequest(revision=4))
    # The state before revision 4 is compacted away, at whatever step its removal is.
    assert before() == [None, None, None, None, b"2@5"]
    replica.call(rpc_pb2.CompactionRequest(revision=5))
    (_, (event,)), *_ = read_events(replica.transaction, 6)
    version = previous(replica.transaction, event)
    assert version is not None
    assert version.value == b"2", "what is read at the compacted revision itself is there"


def test_a_key_deleted_and_created_at_one_revision(replica: Replica) -> None:
    """etcd lets a put follow a delete without end. Both events are shown, also from that revision when it is
    the compacted one; the put creates the key, so nothing was there before."""
    delete = rpc_pb2.DeleteRangeRequest(key=b"a", range_end=b"\x00")
    put_again = rpc_pb2.PutRequest(key=b"a", value=b"4")
    operations = [
        rpc_pb2.RequestOp(request_delete_range=delete),
        rpc_pb2.RequestOp(request_put=put_again),
    ]
    replica.call(rpc_pb2.TxnRequest(success=operations))
    ((_, (deleted, _, created)),) = read_events(replica.transaction, 7)
    assert previous(replica.transaction, created) is None
    version = previous(replica.transaction, deleted)
    assert version is not None
    assert version.value == b"3"
    expected = [(7, [("DELETE", b"a", 7), ("DELETE", b"c", 7), ("PUT", b"a", 7)])]
    assert history(replica, 7) == expected
    replica.call(rpc_pb2.CompactionRequest(revision=7))
    while replica.compaction_pending():
        replica.step_compaction()
    assert history(replica, 7) == expected
    check_tables(replica.transaction)
    put(replica, b"a")
    replica.call(rpc_pb2.CompactionRequest(revision=8))
    while replica.compaction_pending():
        replica.step_compaction()
    assert len(replica.tables()[REVISIONS]) == 1


def test_an_entry_says_which_revisions_it_made() -> None:
    """What the writer thread has to read of an entry is what it has just written."""
    replica = Replica()
    put(replica, b"k")
    requests = [
        (Kind.PUT, rpc_pb2.PutRequest(key=b"a").SerializeToString()),
        (Kind.PUT, rpc_pb2.PutRequest(key=b"", value=b"refused").SerializeToString()),
        (Kind.DELETE_RANGE, rpc_pb2.DeleteRangeRequest(key=b"k").SerializeToString()),
    ]
    commands = [encode_command(kind, 0, 0, request) for kind, request in requests]
    entry = Entry(9, 1, EntryKind.COMMANDS, encode_payload(0, commands))
    applied = replica.machine.apply(replica.transaction, entry)
    assert (applied.first_revision, applied.revision) == (3, 4)
    assert history(replica, applied.first_revision, applied.revision) == [
        (3, [("PUT", b"a", 3)]),
        (4, [("DELETE", b"k", 4)]),
    ]
    applied = replica.machine.apply(replica.transaction, Entry(10, 1, EntryKind.NOOP, b""))
    assert (applied.first_revision, applied.revision) == (5, 4)
