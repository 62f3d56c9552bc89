"""Transactions over the tables of the state machine: many short readers, one writer.

Both satisfy the protocols of `raftd.kv.transaction`. Each record ends with a CRC over its key and value,
checked whenever it is read: a flipped bit is named and not served (hazards 60, 75). The writing one also
keeps each table's tally, the sum of these CRCs; the one of the record that goes is read off the old
value, which LMDB's `replace` returns anyway. The store's own tables have seals of their own and are read
as they are, by `get_record` and `scan_records`.
"""

import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Self
from zlib import crc32

import lmdb

from raftd.store.environment import META, Environment
from raftd.store.errors import CorruptRecord
from raftd.store.state import STATE_KEY, applied_index_of
from raftd.store.tally import CRC_BYTES, Tally, stored_hash

if TYPE_CHECKING:
    from lmdb import _Database


class _Tables:
    """Reading, common to both kinds of transaction."""

    __slots__ = ("_get", "_handles", "lmdb")

    def __init__(self, transaction: "lmdb.Transaction[bytes]", handles: "Mapping[str, _Database]") -> None:
        self.lmdb = transaction
        self._handles = handles
        self._get = transaction.get

    def get(self, table: str, key: bytes) -> bytes | None:
        """Raises CorruptRecord."""
        record = self.get_record(table, key)
        return None if record is None else opened(table, key, record)

    def scan(
        self, table: str, start: bytes, end: bytes | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Raises CorruptRecord."""
        for key, record in self.scan_records(table, start, end, reverse):
            yield key, opened(table, key, record)

    def get_record(self, table: str, key: bytes) -> bytes | None:
        try:
            return self._get(key, None, self._handles[table])
        except lmdb.BadValsizeError:
            raise AssertionError(_bad_key(table, key)) from None

    def scan_records(
        self, table: str, start: bytes, end: bytes | None = None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        with self.lmdb.cursor(self._handles[table]) as cursor:
            if reverse:
                found = cursor.prev() if end is not None and cursor.set_range(end) else cursor.last()
                if not found:
                    return
                for key, value in cursor.iterprev():
                    if key < start:
                        return
                    yield key, value
            elif cursor.set_range(start) if start else cursor.first():
                for key, value in cursor.iternext():
                    if end is not None and key >= end:
                        return
                    yield key, value


class ReadTransaction(_Tables):
    """What the last commit left, unchanged however long it is held; so hold it briefly (hazard 66).

    A context manager, made by `Store.read()`, for the thread that entered it.
    """

    __slots__ = ()

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment.lmdb.begin(), environment.handles)

    @property
    def applied_index(self) -> int:
        """The index up to which this view has applied the log."""
        return applied_index_of(self.get_record(META, STATE_KEY))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.lmdb.abort()


class WriteTransaction(_Tables):
    """The one write transaction, which belongs to the writer thread (hazard 68)."""

    __slots__ = ("_replace", "_take", "_thread", "tallies")

    def __init__(self, environment: Environment, tallies: Mapping[str, Tally]) -> None:
        super().__init__(environment.lmdb.begin(write=True), environment.handles)
        self._replace = self.lmdb.replace
        self._take = self.lmdb.pop
        self._thread = threading.get_ident()
        self.tallies = tallies

    def commit(self) -> None:
        """On the thread that began it."""
        assert threading.get_ident() == self._thread, "a write transaction has left its thread (hazard 68)"
        self.lmdb.commit()

    def put(self, table: str, key: bytes, value: bytes) -> None:
        crc = crc32(value, crc32(key))
        try:
            previous = self._replace(key, value + crc.to_bytes(CRC_BYTES, "big"), self._handles[table])
        except lmdb.BadValsizeError:
            raise AssertionError(_bad_key(table, key)) from None
        tally = self.tallies[table]
        if previous is None:
            tally.keys += 1
            tally.hash += crc
        else:
            tally.hash += crc - stored_hash(previous)

    def delete(self, table: str, key: bytes) -> bool:
        try:
            previous = self._take(key, self._handles[table])
        except lmdb.BadValsizeError:
            raise AssertionError(_bad_key(table, key)) from None
        if previous is None:
            return False
        tally = self.tallies[table]
        tally.keys -= 1
        tally.hash -= stored_hash(previous)
        return True


def opened(table: str, key: bytes, record: bytes) -> bytes:
    """The value in a record of the state machine. Raises CorruptRecord."""
    value = record[:-CRC_BYTES]
    if len(record) < CRC_BYTES or crc32(value, crc32(key)) != stored_hash(record):
        raise CorruptRecord(table, key.hex(), "its checksum does not match")
    return value


def _bad_key(table: str, key: bytes) -> str:
    return f"a key of {len(key)} bytes in table {table}"
