"""The state machine's own record: an older one can be read, a newer one stops the node."""

import pytest

from raftd.kv.command import NewerFormat
from raftd.kv.records import pack
from raftd.kv.state import STATE, State
from tests.memory_transaction import MemoryTransaction

KEY = b"state"


def test_a_state_survives() -> None:
    transaction = MemoryTransaction([STATE])
    state = State(9, 4, 1_000, 3, 2, 2_000, 5, 4, 7)
    state.save(transaction)
    assert State.load(transaction) == state


def test_no_record_is_an_empty_store() -> None:
    assert State.load(MemoryTransaction([STATE])) == State(revision=1, compacted_revision=-1)


def test_a_state_from_before_leases_and_compaction() -> None:
    transaction = MemoryTransaction([STATE])
    transaction.put(STATE, KEY, pack((1, 9, -1, 1_000, 3, 2, 2_000)))
    assert State.load(transaction) == State(9, -1, 1_000, 3, 2, 2_000, 0, 0, 0)


def test_a_newer_state_stops_the_node() -> None:
    transaction = MemoryTransaction([STATE])
    transaction.put(STATE, KEY, pack((3, 9)))
    with pytest.raises(NewerFormat):
        State.load(transaction)
