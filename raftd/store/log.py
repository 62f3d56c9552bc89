"""The replicated log in the table `log`: appending with truncation, and reading back along the chain of
CRCs.

Appending happens on the writer thread, inside its transaction; reading in any thread, in a read
transaction. The position in `meta` names the last index and its CRC, because a record that is missing at
the end has no successor to notice it. `base` is the last index before the log: 0, until compaction moves
it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from raftd.core.messages import Entry
from raftd.store.environment import LOG
from raftd.store.errors import CorruptRecord
from raftd.store.limits import ENTRY_OVERHEAD_BYTES, MAX_ENTRIES_PER_LOAD
from raftd.store.records import (
    LOG_START_CRC,
    decode_entry,
    encode_entry,
    log_index,
    log_key,
    seal,
    stored_crc,
    unseal,
)

if TYPE_CHECKING:
    import lmdb
    from lmdb import _Database

    from raftd.store.transaction import ReadTransaction

POSITION_KEY = b"log"


@dataclass(slots=True)
class LogPosition:
    """Where the log begins and ends. Invariant: base_index ≤ last_index."""

    base_index: int = 0
    base_term: int = 0
    base_crc: int = LOG_START_CRC
    last_index: int = 0
    last_crc: int = LOG_START_CRC

    def sealed(self) -> bytes:
        fields = [self.base_index, self.base_term, self.base_crc, self.last_index, self.last_crc]
        return seal(POSITION_KEY, fields)


def read_position(sealed: bytes | None) -> LogPosition:
    return LogPosition(*unseal(POSITION_KEY, sealed, 5))


def append_entries(
    transaction: "lmdb.Transaction[bytes]",
    handle: "_Database",
    position: LogPosition,
    entries: Sequence[Entry],
) -> None:
    """Replace all that the log holds from `entries[0].index` on; updates `position`, which the caller
    stores."""
    first = entries[0].index
    assert position.base_index < first <= position.last_index + 1, (position, first)
    if first <= position.last_index:
        _truncate(transaction, handle, position, first)
    for entry in entries:
        assert entry.index == position.last_index + 1, (position, entry.index)
        record, crc = encode_entry(position.last_crc, entry)
        transaction.put(log_key(entry.index), record, append=True, db=handle)
        position.last_index, position.last_crc = entry.index, crc


def _truncate(
    transaction: "lmdb.Transaction[bytes]", handle: "_Database", position: LogPosition, first: int
) -> None:
    for index in range(first, position.last_index + 1):
        if not transaction.delete(log_key(index), db=handle):
            raise CorruptRecord(LOG, index, "it is missing")
    predecessor = first - 1
    position.last_index = predecessor
    position.last_crc = (
        position.base_crc
        if predecessor == position.base_index
        else stored_crc(predecessor, transaction.get(log_key(predecessor), db=handle))
    )


def read_entries(reader: "ReadTransaction", position: LogPosition, first: int) -> Iterator[tuple[Entry, int]]:
    """Each entry from `first` to the last, with its CRC, checked against the chain; `CorruptRecord` at the
    first that is damaged, missing, or one too many."""
    assert position.base_index < first <= position.last_index + 1, (position, first)
    crc = (
        position.base_crc
        if first == position.base_index + 1
        else stored_crc(first - 1, reader.get_record(LOG, log_key(first - 1)))
    )
    expected = first
    for key, record in reader.scan_records(LOG, log_key(first), None):
        index = log_index(key)
        if index != expected:
            raise CorruptRecord(LOG, expected, f"it is missing, the next is {index}")
        if index > position.last_index:
            raise CorruptRecord(LOG, index, f"the log should end at {position.last_index}")
        entry, crc = decode_entry(index, crc, record)
        yield entry, crc
        expected += 1
    if expected <= position.last_index:
        raise CorruptRecord(LOG, expected, f"it is missing, the log should end at {position.last_index}")
    if crc != position.last_crc:
        raise CorruptRecord(LOG, position.last_index, "it is not the record that was last written")


def load_entries(
    reader: "ReadTransaction", position: LogPosition, first_index: int, max_bytes: int
) -> tuple[int, list[Entry]]:
    """The term of the entry before `first_index`, and entries from there on: at least one if there is one,
    then as many as fit into `max_bytes`."""
    previous = first_index - 1
    if previous == position.base_index:
        previous_term, start = position.base_term, first_index
    else:
        previous_term, start = 0, previous
    entries: list[Entry] = []
    size = 0
    for entry, _ in read_entries(reader, position, start):
        if entry.index == previous:
            previous_term = entry.term
            continue
        size += len(entry.payload) + ENTRY_OVERHEAD_BYTES
        if entries and (size > max_bytes or len(entries) == MAX_ENTRIES_PER_LOAD):
            break
        entries.append(entry)
    return previous_term, entries
