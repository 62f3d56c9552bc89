"""What must hold in the state machine's tables after every entry; raises AssertionError with what does
not."""

from struct import Struct

import msgpack

from raftd.kv.keyspace import HISTORY, KEYS, find
from raftd.kv.leases import LEASE_KEYS, all_leases
from raftd.kv.mvcc import REVISIONS, TOMBSTONE, TOMBSTONE_FIELDS
from raftd.kv.session import RESULTS, SESSION_AGES, SESSIONS
from raftd.kv.state import State
from tests.memory_transaction import MemoryTransaction

_REVISION = Struct(">QQ")
_END = b"\xff" * 17


def check_tables(transaction: MemoryTransaction) -> None:
    """All that the modules of `raftd.kv` name."""
    check_sessions(transaction)
    check_versions(transaction)
    check_leases(transaction)


def check_versions(transaction: MemoryTransaction) -> None:
    """`keys`, `history` and `revisions` say the same; of what is compacted nothing is left but what reads at
    the compacted revision need (hazard 31)."""
    state = State.load(transaction)
    walked = (state.compaction_main, state.compaction_sub)
    history: dict[bytes, list[tuple[int, int, bool]]] = {}
    for row, mark in transaction.scan(HISTORY, b"", None):
        if mark[:1] != b"\x00":
            main, sub = _REVISION.unpack(row[-16:])
            history.setdefault(row[:-16], []).append((main, sub, mark == TOMBSTONE))
    places = set()
    for place, record in transaction.scan(REVISIONS, b"", None):
        fields = msgpack.unpackb(record)
        physical = find(transaction, fields[1])
        assert physical is not None
        main, sub = _REVISION.unpack(place)
        places.add((physical, main, sub, len(fields) == TOMBSTONE_FIELDS))
    assert places == {(physical, *version) for physical, versions in history.items() for version in versions}
    live = {}
    for physical, record in transaction.scan(KEYS, b"", None):
        if record[:1] != b"\x00":
            _, _, main, sub, _, _ = msgpack.unpackb(record)
            live[physical] = (main, sub, False)
    latest = {physical: versions[-1] for physical, versions in history.items()}
    assert {physical: version for physical, version in latest.items() if not version[2]} == live
    compacted = min(walked, (state.compacted_revision, 0))
    for versions in history.values():
        old = [version for version in versions if version[:2] < compacted]
        assert len(old) <= 1, f"superseded: {old}"
        assert not any(tombstone for _, _, tombstone in old), f"deleted: {old}"


def check_leases(transaction: MemoryTransaction) -> None:
    """The invariant of `raftd.kv.leases`."""
    leases = {lease.id for lease in all_leases(transaction)}
    assert State.load(transaction).lease_count == len(leases)
    named = set()
    for physical, record in transaction.scan(KEYS, b"", None):
        if record[:1] != b"\x00":
            lease = msgpack.unpackb(record)[5]
            if lease:
                named.add((lease, physical))
    rows = {
        (int.from_bytes(row[:8], "big", signed=True), row[8:])
        for row, _ in transaction.scan(LEASE_KEYS, b"", None)
    }
    assert rows == named
    assert {lease for lease, _ in named} <= leases


def check_sessions(transaction: MemoryTransaction) -> None:
    """The invariants that `raftd.kv.session` names."""
    ages = {key[8:]: key[:8] for key, _ in transaction.scan(SESSION_AGES, b"", None)}
    sessions = {key: msgpack.unpackb(value) for key, value in transaction.scan(SESSIONS, b"", None)}
    assert State.load(transaction).session_count == len(sessions)
    assert ages.keys() == sessions.keys()
    for key, (_, first_outstanding, last_used_ms, kept_bytes, bitmap) in sessions.items():
        assert ages[key] == last_used_ms.to_bytes(8, "big")
        kept: dict[int, bytes] = {}
        for row_key, row in transaction.scan(RESULTS, key, key + _END):
            numbers = [result[0] for result in msgpack.unpackb(row)[1]]
            assert max(numbers) == int.from_bytes(row_key[8:], "big") >= first_outstanding
            assert kept.keys().isdisjoint(numbers)
            kept |= {result[0]: result[3] for result in msgpack.unpackb(row)[1]}
        finished = int.from_bytes(bitmap, "little")
        finished_numbers = {
            first_outstanding + offset for offset in range(finished.bit_length()) if finished >> offset & 1
        }
        assert finished_numbers == {number for number in kept if number >= first_outstanding}
        assert kept_bytes == sum(map(len, kept.values()))
    owners = {key[:8] for key, _ in transaction.scan(RESULTS, b"", None)}
    assert owners <= sessions.keys(), "results of a session that has ended"
