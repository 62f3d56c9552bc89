"""Compaction: which versions nobody can ask for any more, and their removal in steps of bounded size.

`begin` raises `State.compacted_revision`, and from that moment reads and watches below it are refused. The
old versions go later, a bounded number per step, and every step is a command in the log: the tables of all
replicas are equal at every index (hazards 31, 33), and no entry holds the writer thread for long. The leader
proposes the steps.

With C the compacted revision, a version below C goes when a later one of its key is ≤ C, or when it is a
delete. Versions at C itself all stay until the next compaction, so that a watch from C sees that revision
complete. A step walks `revisions` from the previous C on, in order, and drops each row's predecessor in
`history`: so it costs what has been written since the last compaction, and not what is stored.

Invariant: before the place (`compaction_main`, `compaction_sub`) each key has at most one version below C,
and it is a put that is live at C. Nothing is left to do once the place lies beyond C.
"""

from struct import Struct
from typing import Final, NamedTuple

from raftd.kv import keyspace
from raftd.kv.keyspace import HISTORY, REVISION_BYTES
from raftd.kv.limits import Limits
from raftd.kv.mvcc import REVISIONS, TOMBSTONE_FIELDS
from raftd.kv.records import unpack
from raftd.kv.state import State
from raftd.kv.transaction import Transaction

_REVISION: Final = Struct(">QQ")


def begin_compaction(state: State, revision: int) -> None:
    """`revision` is above the compacted one and not in the future."""
    at_old = (max(state.compacted_revision, 0), 0)
    state.compaction_main, state.compaction_sub = min(at_old, (state.compaction_main, state.compaction_sub))
    state.compacted_revision = revision


def compaction_pending(state: State) -> bool:
    return state.compaction_main <= state.compacted_revision


def step_compaction(transaction: Transaction, state: State, limits: Limits) -> None:
    """Go on from where the last step stopped; nothing when nothing is pending."""
    if not compaction_pending(state):
        return
    written, end = _written(transaction, state, limits)
    at_compacted = _REVISION.pack(state.compacted_revision, 0)
    dropped_bytes = 0
    for place, key, is_tombstone in written:
        if dropped_bytes >= limits.compaction_step_bytes:
            end = place
            break
        physical = keyspace.find(transaction, key)
        assert physical is not None, f"table {REVISIONS} has a key without a path at {place.hex()}"
        predecessor = _predecessor(transaction, physical, place)
        if predecessor is not None and predecessor < at_compacted:
            dropped_bytes += _drop(transaction, physical, predecessor)
        if is_tombstone and place < at_compacted:
            _drop(transaction, physical, place)
    state.compaction_main, state.compaction_sub = _REVISION.unpack(end)


class _Written(NamedTuple):
    place: bytes
    key: bytes
    is_tombstone: bool


def _written(transaction: Transaction, state: State, limits: Limits) -> tuple[list[_Written], bytes]:
    """What this step looks at, and the place after it."""
    start = _REVISION.pack(state.compaction_main, state.compaction_sub)
    end = _REVISION.pack(state.compacted_revision + 1, 0)
    written: list[_Written] = []
    read_bytes = 0
    for place, record in transaction.scan(REVISIONS, start, end):
        if len(written) == limits.compaction_step_rows or read_bytes >= limits.compaction_step_bytes:
            return written, place
        fields = unpack(record)
        written.append(_Written(place, fields[1], len(fields) == TOMBSTONE_FIELDS))
        read_bytes += len(record)
    return written, end


def _predecessor(transaction: Transaction, physical: bytes, place: bytes) -> bytes | None:
    """The place of the key's version before the one at `place`."""
    for row, _ in transaction.scan(HISTORY, physical, physical + place, reverse=True):
        return row[-REVISION_BYTES:]
    return None


def _drop(transaction: Transaction, physical: bytes, place: bytes) -> int:
    """Remove a version; how many bytes it had."""
    record = transaction.get(REVISIONS, place)
    assert record is not None, f"table {REVISIONS} lacks {place.hex()}"
    transaction.delete(REVISIONS, place)
    there = transaction.delete(HISTORY, physical + place)
    assert there, f"table {HISTORY} lacks {place.hex()}"
    return len(record)
