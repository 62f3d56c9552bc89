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
from typing import Final

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
    start = _REVISION.pack(state.compaction_main, state.compaction_sub)
    end = _REVISION.pack(state.compacted_revision + 1, 0)
    looked_at: list[tuple[bytes, bytes, bool]] = []
    read_bytes = 0
    for place, record in transaction.scan(REVISIONS, start, end):
        if len(looked_at) == limits.compaction_step_rows or read_bytes >= limits.compaction_step_bytes:
            end = place
            break
        fields = unpack(record)
        looked_at.append((place, fields[1], len(fields) == TOMBSTONE_FIELDS))
        read_bytes += len(record)
    at_compacted = _REVISION.pack(state.compacted_revision, 0)
    for place, key, is_tombstone in looked_at:
        physical = keyspace.find(transaction, key)
        assert physical is not None, f"table {REVISIONS} has a key without a path at {place.hex()}"
        for row, _ in transaction.scan(HISTORY, physical, physical + place, reverse=True):
            predecessor = row[-REVISION_BYTES:]
            break
        else:
            predecessor = None
        if predecessor is not None and predecessor < at_compacted:
            _drop(transaction, physical, predecessor)
        if is_tombstone and place < at_compacted:
            _drop(transaction, physical, place)
    state.compaction_main, state.compaction_sub = _REVISION.unpack(end)


def _drop(transaction: Transaction, physical: bytes, place: bytes) -> None:
    assert transaction.delete(HISTORY, physical + place), f"table {HISTORY} lacks {place.hex()}"
    assert transaction.delete(REVISIONS, place), f"table {REVISIONS} lacks {place.hex()}"
