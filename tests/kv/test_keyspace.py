"""Keys of any length as physical keys of at most 511 bytes, in etcd's order."""

from bisect import bisect_left

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raftd.kv import TABLES
from raftd.kv.keyspace import CHUNK_BYTES, HISTORY, KEYS, find, place, walk
from raftd.kv.transaction import MAX_KEY_BYTES
from tests.memory_transaction import MemoryTransaction

# Runs of few different bytes make keys that share chunks, end at chunk borders and differ around escapes.
_pieces = st.tuples(
    st.sampled_from([b"\x00", b"\x01", b"\x02", b"a", b"\xfe", b"\xff", b"\x00\xff", b"\xff\x00"]),
    st.sampled_from([1, 2, CHUNK_BYTES // 2, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 2 * CHUNK_BYTES]),
)
keys_of_runs = st.lists(_pieces, min_size=1, max_size=4).map(
    lambda pieces: b"".join(piece * count for piece, count in pieces)
)
any_key = st.one_of(st.binary(min_size=1, max_size=8), keys_of_runs)


def tables_with(keys: list[bytes]) -> MemoryTransaction:
    """Every key with a row in both tables; the row's value names the key."""
    transaction = MemoryTransaction(TABLES)
    next_node_id = 1
    for key in keys:
        physical, next_node_id = place(transaction, key, next_node_id)
        transaction.put(KEYS, physical, b"=" + key)
        transaction.put(HISTORY, physical + bytes(7) + b"\x05" + bytes(8), b"=" + key)
        transaction.put(HISTORY, physical + b"\xff" * 16, b"=" + key)
    return transaction


@settings(derandomize=True, deadline=None, max_examples=300)
@given(keys=st.lists(any_key, unique=True, max_size=12), bounds=st.tuples(any_key, st.none() | any_key))
@example(keys=[b"a" * CHUNK_BYTES, b"a" * (CHUNK_BYTES + 1)], bounds=(b"a" * CHUNK_BYTES, None))
@example(keys=[b"a" * (CHUNK_BYTES - 1) + b"\x00", b"a" * CHUNK_BYTES], bounds=(b"a", b"a" * CHUNK_BYTES))
@example(keys=[b"a" * (CHUNK_BYTES - 1), b"a" * (CHUNK_BYTES - 1) + b"\x00z"], bounds=(b"a", None))
def test_a_walk_visits_the_range_in_the_order_of_the_keys(
    keys: list[bytes], bounds: tuple[bytes, bytes | None]
) -> None:
    transaction = tables_with(keys)
    start, end = bounds
    expected = sorted(key for key in keys if start <= key and (end is None or key < end))
    assert [value[1:] for _, value in walk(transaction, KEYS, start, end)] == expected
    # All versions of a key stand together, oldest first.
    versions = [(row[-16:], value[1:]) for row, value in walk(transaction, HISTORY, start, end)]
    assert [key for _, key in versions] == [key for key in expected for _ in range(2)]
    assert [version > b"\xff" for version, _ in versions] == [False, True] * len(expected)


@settings(derandomize=True, deadline=None, max_examples=300)
@given(keys=st.lists(any_key, unique=True, max_size=12), absent=any_key)
def test_each_key_has_a_place_of_its_own(keys: list[bytes], absent: bytes) -> None:
    transaction = tables_with(keys)
    for key in keys:
        physical = find(transaction, key)
        assert physical is not None
        assert transaction.get(KEYS, physical) == b"=" + key
        assert len(physical) + 16 <= MAX_KEY_BYTES
    if absent not in keys:
        physical = find(transaction, absent)
        assert physical is None or transaction.get(KEYS, physical) is None


@settings(derandomize=True, deadline=None)
@given(keys=st.lists(any_key, unique=True, min_size=2, max_size=8), data=st.data())
def test_places_do_not_depend_on_the_order_of_other_keys(keys: list[bytes], data: st.DataObject) -> None:
    """The numbers of the trie's nodes do, the order in which a walk meets the keys does not."""
    shuffled = data.draw(st.permutations(keys))
    walks = [
        [value for _, value in walk(tables_with(order), KEYS, b"\x00", None)] for order in (keys, shuffled)
    ]
    assert walks[0] == walks[1]


@pytest.mark.parametrize("byte", [b"\x00", b"k"])
def test_a_key_as_long_as_a_request(byte: bytes) -> None:
    key = byte * (3 * 512 * 1024)
    others = [byte * 100, key[:-1], key + b"\x00", b"z"]
    transaction = tables_with([key, *others])
    everything = [value[1:] for _, value in walk(transaction, KEYS, b"\x00", None)]
    assert everything == sorted([key, *others])
    assert [value[1:] for _, value in walk(transaction, KEYS, key, key + b"\x00")] == [key]
    position = bisect_left(everything, key)
    assert [value[1:] for _, value in walk(transaction, KEYS, key[:-1], key)] == everything[
        position - 1 : position
    ]


def test_an_empty_or_inverted_range_has_no_keys() -> None:
    transaction = tables_with([b"a", b"b", b"c"])
    assert not list(walk(transaction, KEYS, b"b", b"b"))
    assert not list(walk(transaction, KEYS, b"c", b"a"))
