"""The bytes of every record in the tables `meta` and `log`: msgpack arrays with a format version and a CRC.

LMDB 0.9 has no checksums of its own (hazard 60). A record of `meta` is `[format, fields …, crc]`, its CRC
covers its key too, so that a record under another's key is noticed. A record of `log` is `[format, kind,
term, index, payload, crc]`, its CRC covers the predecessor's, so that the log is a chain: a record that is
right in itself but from another history breaks it (hazard 75). The frame, a format first and a CRC last,
stays the same in every format. Nothing here reads or writes a database.
"""

import struct
from typing import Any
from zlib import crc32

import msgpack

from raftd.core.messages import Entry, EntryKind
from raftd.store.errors import CorruptRecord, StoreRefused

FORMAT = 1

LOG_START_CRC = 0
"""What stands for the predecessor's CRC at the entry with index 1."""

_CHAINED = struct.Struct(">IBBQQ")
_INDEX = struct.Struct(">Q")
_KINDS = {kind.value: kind for kind in EntryKind}


def log_key(index: int) -> bytes:
    """Big-endian, so that the order of the keys is the order of the log."""
    return _INDEX.pack(index)


def log_index(key: bytes) -> int:
    if len(key) != _INDEX.size:
        raise CorruptRecord("log", repr(key), "the key is not an index")
    index: int = _INDEX.unpack(key)[0]
    return index


def seal(key: bytes, fields: list[Any]) -> bytes:
    """A record of `meta` under this key."""
    body = [FORMAT, *fields]
    sealed: bytes = msgpack.packb([*body, crc32(msgpack.packb(body), crc32(key))])
    return sealed


def unseal(key: bytes, sealed: bytes | None, field_count: int) -> list[Any]:
    """The fields that were sealed under this key, or `CorruptRecord`, or `StoreRefused` for a newer
    format."""
    name = key.decode()
    if sealed is None:
        raise CorruptRecord("meta", name, "it is missing")
    record = _unpack("meta", name, sealed)
    if len(record) < 2 or record[-1] != crc32(msgpack.packb(record[:-1]), crc32(key)):
        raise CorruptRecord("meta", name, "the checksum does not match")
    check_format(record[0])
    fields = record[1:-1]
    if len(fields) != field_count:
        raise CorruptRecord("meta", name, f"{len(fields)} fields instead of {field_count}")
    return fields


def check_format(version: Any) -> None:
    """Refuse what a newer program wrote; called only on what has passed its checksum."""
    if version != FORMAT:
        raise StoreRefused(
            f"the data has format version {version!r}, this program reads version {FORMAT}: "
            "start the newer program on it"
        )


def chained_crc(predecessor_crc: int, entry: Entry) -> int:
    """The CRC of an entry over its predecessor's CRC, its place and its content."""
    head = _CHAINED.pack(predecessor_crc, FORMAT, entry.kind, entry.index, entry.term)
    return crc32(entry.payload, crc32(head))


def encode_entry(predecessor_crc: int, entry: Entry) -> tuple[bytes, int]:
    """The record of an entry, and its CRC."""
    crc = chained_crc(predecessor_crc, entry)
    record: bytes = msgpack.packb((FORMAT, int(entry.kind), entry.term, entry.index, entry.payload, crc))
    return record, crc


def decode_entry(index: int, predecessor_crc: int, record: bytes | None) -> tuple[Entry, int]:
    """The entry at `index` and its CRC; `CorruptRecord` when it is not what was written after its
    predecessor."""
    if record is None:
        raise CorruptRecord("log", index, "it is missing")
    version, kind, term, stored_index, payload, crc = _log_fields(index, record)
    if stored_index != index:
        raise CorruptRecord("log", index, f"it is the record of index {stored_index}")
    try:
        head = _CHAINED.pack(predecessor_crc, version, kind, index, term)
    except struct.error as error:
        raise CorruptRecord("log", index, f"a number is out of range ({error})") from error
    if crc32(payload, crc32(head)) != crc:
        raise CorruptRecord("log", index, "the checksum does not match")
    check_format(version)
    known = _KINDS.get(kind)
    if known is None:
        raise StoreRefused(f"log entry {index} is of kind {kind}, which this program does not know")
    return Entry(index, term, known, payload), crc


def stored_crc(index: int, record: bytes | None) -> int:
    """The CRC that the record at `index` carries, unchecked: what its successor was chained to."""
    if record is None:
        raise CorruptRecord("log", index, "it is missing")
    crc: int = _log_fields(index, record)[5]
    return crc


def _log_fields(index: int, record: bytes) -> list[Any]:
    fields = _unpack("log", index, record)
    types = [type(field) for field in fields]
    if types != [int, int, int, int, bytes, int]:
        raise CorruptRecord("log", index, "it is not a log record")
    if not 0 <= fields[5] < 1 << 32:
        raise CorruptRecord("log", index, "the checksum is out of range")
    return fields


def _unpack(table: str, index: int | str, record: bytes) -> list[Any]:
    try:
        fields = msgpack.unpackb(record)
    except ValueError as error:
        raise CorruptRecord(table, index, f"it is not msgpack ({type(error).__name__})") from error
    if not isinstance(fields, list):
        raise CorruptRecord(table, index, "it is not an array")
    return fields
