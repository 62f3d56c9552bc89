"""The bytes of records: what was written comes back, what was not is refused with a name (hazards 60, 75)."""

import struct
from zlib import crc32

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftd.core.messages import Entry, EntryKind
from raftd.store import ClusterIdentity, CorruptRecord, Member, StoreRefused, form_cluster
from raftd.store.membership import decode_membership, encode_membership
from raftd.store.records import (
    chained_crc,
    decode_entry,
    encode_entry,
    log_index,
    log_key,
    seal,
    stored_crc,
    unseal,
)

NUMBERS = st.integers(0, (1 << 64) - 1)
CRCS = st.integers(0, (1 << 32) - 1)
ENTRIES = st.builds(Entry, NUMBERS, NUMBERS, st.sampled_from(EntryKind), st.binary(max_size=64))
KEY = b"state"


@given(entry=ENTRIES, predecessor_crc=CRCS)
def test_an_entry_comes_back(entry: Entry, predecessor_crc: int) -> None:
    record, crc = encode_entry(predecessor_crc, entry)
    assert decode_entry(entry.index, predecessor_crc, record) == (entry, crc)
    assert stored_crc(entry.index, record) == crc == chained_crc(predecessor_crc, entry)


def test_every_flipped_bit_of_an_entry_is_noticed() -> None:
    record, _ = encode_entry(77, Entry(300, 70_000, EntryKind.COMMANDS, b"payload" * 5))
    for bit in range(len(record) * 8):
        damaged = bytearray(record)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptRecord, match="table log, record 300: "):
            decode_entry(300, 77, bytes(damaged))


def test_every_truncation_of_an_entry_is_noticed() -> None:
    """Hazard 74: a torn record."""
    record, _ = encode_entry(77, Entry(300, 70_000, EntryKind.COMMANDS, b"payload" * 5))
    for length in range(len(record)):
        with pytest.raises(CorruptRecord):
            decode_entry(300, 77, record[:length])
        with pytest.raises(CorruptRecord):
            decode_entry(300, 77, record[:length] + bytes(len(record) - length))


def test_a_record_from_another_history_breaks_the_chain() -> None:
    """It is right in itself, but follows another predecessor (hazard 75: a stale or misdirected record)."""
    entry = Entry(3, 1, EntryKind.COMMANDS, b"x")
    record, _ = encode_entry(1, entry)
    with pytest.raises(CorruptRecord, match="table log, record 3: the checksum does not match"):
        decode_entry(3, 2, record)


def test_a_record_under_another_index_is_named() -> None:
    record, _ = encode_entry(1, Entry(3, 1, EntryKind.COMMANDS, b"x"))
    with pytest.raises(CorruptRecord, match="table log, record 4: it is the record of index 3"):
        decode_entry(4, 1, record)


def test_a_missing_record_is_named() -> None:
    with pytest.raises(CorruptRecord, match="table log, record 4: it is missing"):
        decode_entry(4, 1, None)


def test_an_entry_of_an_unknown_kind_stops_the_program() -> None:
    """A newer program's entry is neither damaged nor skipped."""
    head = struct.Struct(">IBBQQ").pack(0, 1, 9, 5, 2)
    record = msgpack.packb([1, 9, 2, 5, b"x", crc32(b"x", crc32(head))])
    with pytest.raises(
        StoreRefused, match="log entry 5 is of kind 9, which this program does not know"
    ) as info:
        decode_entry(5, 0, record)
    assert not isinstance(info.value, CorruptRecord)


@given(garbage=st.binary(max_size=40))
def test_garbage_is_refused_and_nothing_else_is_raised(garbage: bytes) -> None:
    with pytest.raises(CorruptRecord):
        decode_entry(1, 0, garbage)
    with pytest.raises(CorruptRecord):
        unseal(KEY, garbage, 2)


@given(
    value=st.recursive(
        st.none() | st.integers(-5, (1 << 64) - 1) | st.binary(max_size=3), st.lists, max_leaves=8
    )
)
def test_any_msgpack_is_refused_and_nothing_else_is_raised(value: object) -> None:
    with pytest.raises(CorruptRecord):
        decode_entry(1, 0, msgpack.packb(value))
    with pytest.raises(CorruptRecord):
        unseal(KEY, msgpack.packb(value), 2)


def test_every_flipped_bit_of_a_sealed_record_is_noticed() -> None:
    sealed = seal(KEY, [70_000, [["keys", 3, 1 << 63], ["results", 0, 0]]])
    assert unseal(KEY, sealed, 2) == [70_000, [["keys", 3, 1 << 63], ["results", 0, 0]]]
    for bit in range(len(sealed) * 8):
        damaged = bytearray(sealed)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptRecord, match="table meta, record state: "):
            unseal(KEY, bytes(damaged), 2)


def test_a_sealed_record_under_another_key_is_noticed() -> None:
    with pytest.raises(CorruptRecord, match="table meta, record hard_state: the checksum does not match"):
        unseal(b"hard_state", seal(KEY, [1, 2]), 2)


def test_the_order_of_keys_is_the_order_of_the_log() -> None:
    indexes = [1, 2, 255, 256, 65_535, 65_536, (1 << 64) - 1]
    assert sorted(log_key(index) for index in indexes) == [log_key(index) for index in indexes]
    assert [log_index(log_key(index)) for index in indexes] == indexes
    with pytest.raises(CorruptRecord, match="the key is not an index"):
        log_index(b"short")


MEMBERS = (
    Member(9, "n1", ("http://127.0.0.1:1",), ("http://127.0.0.1:2", "http://127.0.0.1:3")),
    Member(3, "n2", ("http://127.0.0.1:4",), ()),
)


def test_every_member_forms_the_same_cluster() -> None:
    """In whatever order it has learned of the others, and byte for byte."""
    cluster = form_cluster("token", MEMBERS)
    assert cluster == form_cluster("token", reversed(MEMBERS))
    assert [member.name for member in cluster.members] == ["n2", "n1"]
    assert encode_membership(cluster) == msgpack.packb(
        [
            1,
            cluster.cluster_id,
            [
                [3, "n2", ["http://127.0.0.1:4"], []],
                [9, "n1", ["http://127.0.0.1:1"], ["http://127.0.0.1:2", "http://127.0.0.1:3"]],
            ],
        ]
    )


def test_another_token_or_other_ids_are_another_cluster() -> None:
    """Hazard 43: the same names after a wipe are not the same cluster."""
    again = (MEMBERS[0], Member(4, "n2", MEMBERS[1].peer_urls, ()))
    ids = {
        form_cluster(*arguments).cluster_id for arguments in (("a", MEMBERS), ("b", MEMBERS), ("a", again))
    }
    assert len(ids) == 3


@given(garbage=st.binary(max_size=60))
def test_a_damaged_membership_is_named(garbage: bytes) -> None:
    with pytest.raises(CorruptRecord, match="table log, record 1: "):
        decode_membership(garbage, "log", 1)


def test_a_membership_comes_back() -> None:
    cluster: ClusterIdentity = form_cluster("token", MEMBERS)
    assert decode_membership(encode_membership(cluster), "log", 1) == cluster
