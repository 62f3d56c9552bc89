"""Damage inside an intact LMDB file: noticed, named by table and index, never served (hazards 60, 75).

Each test writes a small log, changes records with LMDB itself, and looks at what recovery, `load_entries` and
the scrub make of it.
"""

from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import lmdb
import pytest

from raftd.store import CorruptRecord, Store, verify
from raftd.store.records import encode_entry, log_key
from tests.store.directories import entry, open_member, write

LAST = 6
Damage = Callable[["lmdb.Transaction[bytes]", "lmdb._Database"], None]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A log of six entries of which three are applied; two keys."""
    directory = tmp_path / "data"
    with open_member(directory) as store:
        write(store, entry(2, b"a=1"), entry(3, b"b=2"))
        write(store, *(entry(index, b"c=%d" % index) for index in range(4, LAST + 1)), applied=False)
    return directory


def damage(directory: Path, table: bytes, change: Damage) -> None:
    with lmdb.open(str(directory), max_dbs=8, lib_version=0) as raw:
        handle = raw.open_db(table)
        with raw.begin(write=True) as transaction:
            change(transaction, handle)


def flip(key: bytes, position: int = 8) -> Damage:
    """Turn one bit of the record under `key`: of the payload, in a log record."""

    def change(transaction: "lmdb.Transaction[bytes]", handle: "lmdb._Database") -> None:
        record = bytearray(transaction.get(key, b"", db=handle))
        record[position] ^= 4
        transaction.put(key, bytes(record), db=handle)

    return change


def remove(key: bytes) -> Damage:
    def change(transaction: "lmdb.Transaction[bytes]", handle: "lmdb._Database") -> None:
        assert transaction.delete(key, db=handle)

    return change


def replace(key: bytes, record: bytes) -> Damage:
    def change(transaction: "lmdb.Transaction[bytes]", handle: "lmdb._Database") -> None:
        transaction.put(key, record, db=handle)

    return change


def swap(one: bytes, other: bytes) -> Damage:
    def change(transaction: "lmdb.Transaction[bytes]", handle: "lmdb._Database") -> None:
        first, second = transaction.get(one, b"", db=handle), transaction.get(other, b"", db=handle)
        transaction.put(one, second, db=handle)
        transaction.put(other, first, db=handle)

    return change


def problems(store: Store) -> list[str]:
    return [problem.text.removeprefix("corrupt data: ") for problem in verify(store).problems]


def test_an_intact_directory_has_no_problems(directory: Path) -> None:
    with open_member(directory) as store:
        verification = verify(store)
    assert verification.problems == ()
    assert verification.log_entries == LAST
    assert verification.keys == {"keys": 2, "results": 0}


@pytest.mark.parametrize("index", range(3, LAST + 1))
def test_a_flipped_bit_stops_the_recovery(directory: Path, index: int) -> None:
    damage(directory, b"log", flip(log_key(index)))
    with open_member(directory) as store:
        with pytest.raises(CorruptRecord, match=f"table log, record {index}: the checksum does not match"):
            store.recover()
        assert problems(store) == [f"table log, record {index}: the checksum does not match"]


@pytest.mark.parametrize("index", range(1, LAST + 1))
def test_a_damaged_record_is_not_served(directory: Path, index: int) -> None:
    """A leader must not send it to a follower."""
    damage(directory, b"log", flip(log_key(index)))
    with open_member(directory) as store, pytest.raises(CorruptRecord, match=f"record {index}: "):
        store.load_entries(2, 1 << 20)


def test_what_lies_before_the_damage_is_served(directory: Path) -> None:
    damage(directory, b"log", flip(log_key(5)))
    with open_member(directory) as store:
        assert store.load_entries(3, 1) == (1, [entry(3, b"b=2")])


def test_a_damaged_record_is_left_in_place(directory: Path) -> None:
    """Hazard 75: it is evidence of an entry that may be committed; truncating it would un-acknowledge it."""
    damage(directory, b"log", flip(log_key(LAST)))
    with open_member(directory) as store:
        with store.read() as reader:
            before = reader.get_record("log", log_key(LAST))
        with pytest.raises(CorruptRecord):
            store.recover()
    with open_member(directory) as store, store.read() as reader:
        assert reader.get_record("log", log_key(LAST)) == before


@pytest.mark.parametrize("index", range(3, LAST))
def test_a_record_missing_inside_the_log_is_named(directory: Path, index: int) -> None:
    """Hazard 29."""
    damage(directory, b"log", remove(log_key(index)))
    with open_member(directory) as store:
        with pytest.raises(CorruptRecord, match=f"table log, record {index}: it is missing"):
            store.recover()
        assert problems(store)[0] == f"table log, record {index}: it is missing, the next is {index + 1}"


def test_a_record_missing_at_the_end_is_named(directory: Path) -> None:
    """Hazard 28: nothing follows it that could notice."""
    damage(directory, b"log", remove(log_key(LAST)))
    with open_member(directory) as store:
        with pytest.raises(CorruptRecord, match=r"record 6: it is missing, the log should end at 6"):
            store.recover()
        assert problems(store) == ["table log, record 6: the log should end at 6, but ends at 5"]


def test_a_record_too_many_is_named(directory: Path) -> None:
    damage(directory, b"log", replace(log_key(7), encode_entry(0, entry(7))[0]))
    with open_member(directory) as store:
        with pytest.raises(CorruptRecord, match=r"record 7: the log should end at 6"):
            store.recover()
        assert problems(store)[-1] == "table log, record 7: the log should end at 6, but ends at 7"


def test_swapped_records_are_named(directory: Path) -> None:
    """Hazard 75: a misdirected write."""
    damage(directory, b"log", swap(log_key(4), log_key(5)))
    with open_member(directory) as store:
        with pytest.raises(CorruptRecord, match="record 4: it is the record of index 5"):
            store.recover()
        assert problems(store)[0] == "table log, record 4: it is the record of index 5"


@pytest.mark.parametrize("index", [4, LAST])
def test_a_record_of_another_history_is_named(directory: Path, index: int) -> None:
    """Hazard 75: a stale copy of a record that was since replaced; at the end only the position notices."""
    with open_member(directory) as store, store.read() as reader:
        stale = reader.get_record("log", log_key(index))
        assert stale is not None
    with open_member(directory) as store:
        replaced = [entry(number, b"d=%d" % number, term=2) for number in range(index, LAST + 1)]
        write(store, *replaced, applied=False)
    damage(directory, b"log", replace(log_key(index), stale))
    with open_member(directory) as store:
        with pytest.raises(CorruptRecord, match=f"record {min(index + 1, LAST)}: "):
            store.recover()
        assert problems(store) != []


@pytest.mark.parametrize("key", [b"identity", b"cluster", b"log", b"state"])
def test_a_damaged_record_of_meta_refuses_the_start(directory: Path, key: bytes) -> None:
    damage(directory, b"meta", flip(key))
    with pytest.raises(CorruptRecord, match=f"table meta, record {key.decode()}: "):
        open_member(directory)


@pytest.mark.parametrize("key", [b"identity", b"log", b"state"])
def test_a_missing_record_of_meta_refuses_the_start(directory: Path, key: bytes) -> None:
    damage(directory, b"meta", remove(key))
    with pytest.raises(CorruptRecord, match=f"table meta, record {key.decode()}: it is missing"):
        open_member(directory)


@pytest.mark.parametrize("change", [flip(b"hard_state", 2), remove(b"hard_state")])
def test_a_vote_that_is_damaged_or_missing_is_not_guessed(directory: Path, change: Damage) -> None:
    """Hazards 1 and 2: starting without it could vote twice."""
    damage(directory, b"meta", change)
    with open_member(directory) as store:
        with pytest.raises(CorruptRecord, match="table meta, record hard_state: "):
            store.recover()
        assert len(problems(store)) == 1


def test_an_empty_meta_is_not_a_fresh_directory(directory: Path) -> None:
    """Hazard 43: it would come back as another member with an old log."""

    def empty(transaction: "lmdb.Transaction[bytes]", handle: "lmdb._Database") -> None:
        transaction.drop(handle, delete=False)

    damage(directory, b"meta", empty)
    with pytest.raises(CorruptRecord, match="table meta: it is empty, but table log is not"):
        open_member(directory)


def test_a_missing_key_is_noticed_by_the_count(directory: Path) -> None:
    """A record that is gone took its checksum with it."""
    damage(directory, b"keys", remove(b"a"))
    with open_member(directory) as store:
        assert problems(store) == ["table keys: 1 keys instead of 2"]
        with pytest.raises(CorruptRecord, match="table keys: 1 records instead of 2"):
            store.recover()


def test_a_record_missing_in_the_applied_part_of_the_log_stops_the_recovery(directory: Path) -> None:
    """Nobody reads it at the start, but it is counted."""
    damage(directory, b"log", remove(log_key(1)))
    with (
        open_member(directory) as store,
        pytest.raises(CorruptRecord, match="table log: 5 records instead of 6"),
    ):
        store.recover()


def test_a_key_too_many_is_noticed_by_the_count(directory: Path) -> None:
    damage(directory, b"results", replace(b"a", crc32(b"a").to_bytes(4, "big")))
    with open_member(directory) as store:
        assert problems(store) == ["table results: 1 keys instead of 0"]


@pytest.mark.parametrize("change", [flip(b"a", 0), flip(b"a", -1), swap(b"a", b"b"), replace(b"a", b"x")])
def test_a_damaged_value_is_named_and_not_served(directory: Path, change: Damage) -> None:
    """Flipped, torn, or another key's."""
    damage(directory, b"keys", change)
    with open_member(directory) as store:
        assert "table keys, record 61: its checksum does not match" in problems(store)
        with store.read() as reader:
            with pytest.raises(CorruptRecord, match="table keys, record 61"):
                reader.get("keys", b"a")
            with pytest.raises(CorruptRecord, match="table keys, record 61"):
                list(reader.scan("keys", b""))


def test_an_older_value_of_the_same_key_is_noticed_by_the_hash(directory: Path) -> None:
    """Its checksum is right; only the sum over all records tells."""
    damage(directory, b"keys", replace(b"a", b"0" + crc32(b"0", crc32(b"a")).to_bytes(4, "big")))
    with open_member(directory) as store:
        assert problems(store) == ["table keys: the hash over all records does not match"]


def test_a_membership_of_another_cluster_is_noticed(directory: Path) -> None:
    damage(directory, b"log", replace(log_key(1), encode_entry(0, entry(1, b"other"))[0]))
    with open_member(directory) as store:
        assert problems(store)[0] == (
            "table log, record 1: it is not the membership that the directory belongs to"
        )


def test_the_scrub_names_a_bounded_number_of_problems(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with open_member(directory) as store:
        write(store, *(entry(index, b"x") for index in range(2, 302)), applied=False)
    for index in range(2, 302, 2):
        damage(directory, b"log", flip(log_key(index)))
    with open_member(directory) as store:
        assert len(problems(store)) == 100
