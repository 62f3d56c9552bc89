"""Sums over the state that two replicas, or a replica and an etcd, must agree on.

`hash_kv` is etcd's HashKV: CRC-32C over what its bucket `key` would hold up to a revision, so it is the same
here and there for the same history, and the same before, during and after the removal of what a compaction
has made superfluous. `hash_tables` is a sum over every row, of use between our own nodes at one log index.
Both read the whole history: they belong on a worker thread, never on the writer's.
"""

from struct import Struct
from typing import Final, NamedTuple

import google_crc32c

from proto import kv_pb2
from proto.errors import COMPACTED, FUTURE_REVISION, Status
from raftd.kv import keyspace
from raftd.kv.keyspace import HISTORY
from raftd.kv.mvcc import REVISIONS, TOMBSTONE_FIELDS, View
from raftd.kv.records import unpack
from raftd.kv.state import State
from raftd.kv.transaction import Reader

_REVISION: Final = Struct(">QQ")
_BUCKET: Final = b"key"
_CHUNK_BYTES: Final = 65_536
"""One call of the sum for so many bytes, or for one larger record."""


class KeyValueHash(NamedTuple):
    hash: int
    hash_revision: int
    """Up to which the history was summed."""
    revision: int
    """The current one."""
    compacted_revision: int


def hash_kv(reader: Reader, revision: int) -> KeyValueHash:
    """Up to `revision`; 0 is the current one. Raises Status: compacted, future revision."""
    state = State.load(reader)
    if 0 < revision <= state.compacted_revision:
        raise Status(*COMPACTED)
    if revision > state.revision:
        raise Status(*FUTURE_REVISION)
    checksum = _Checksum()
    checksum.add(_BUCKET)
    revision = revision or state.revision
    if revision > 0:
        _add_versions(reader, state, revision, checksum)
    return KeyValueHash(checksum.value(), revision, state.revision, state.compacted_revision)


def hash_tables(reader: Reader, tables: tuple[str, ...]) -> int:
    """A CRC-32C over every row of `tables`, in order."""
    checksum = _Checksum()
    for table in tables:
        checksum.add(b"%d %s" % (len(table), table.encode()))
        for key, value in reader.scan(table, b"", None):
            checksum.add(b"%d %d " % (len(key), len(value)))
            checksum.add(key)
            checksum.add(value)
    return checksum.value()


class _Checksum:
    def __init__(self) -> None:
        self._crc = 0
        self._pending = bytearray()

    def add(self, data: bytes) -> None:
        self._pending += data
        if len(self._pending) >= _CHUNK_BYTES:
            self.value()

    def value(self) -> int:
        self._crc = google_crc32c.extend(self._crc, bytes(self._pending))
        self._pending.clear()
        return self._crc


def _add_versions(reader: Reader, state: State, revision: int, checksum: _Checksum) -> None:
    """What etcd takes of the versions up to the compacted revision: those that are still live at `revision`,
    or, if no key at all is, those that live at the compacted one. So says its code, not its documentation."""
    view = View(reader, state)
    compacted = _REVISION.pack(max(state.compacted_revision, 0) + 1, 0)
    anything_live = next(view.places(b"\x00", b"\x00", revision), None) is not None
    live_at = _REVISION.pack((revision if anything_live else state.compacted_revision) + 1, 0)
    for place, record in reader.scan(REVISIONS, b"", _REVISION.pack(revision + 1, 0)):
        fields = unpack(record)
        if place < compacted and not (
            len(fields) > TOMBSTONE_FIELDS and _is_last(reader, fields[1], place, live_at)
        ):
            continue
        main, sub = place[:8], place[8:]
        if len(fields) == TOMBSTONE_FIELDS:
            checksum.add(main + b"_" + sub + b"t")
            checksum.add(kv_pb2.KeyValue(key=fields[1]).SerializeToString())
            continue
        _, key, value, create_revision, version, lease = fields
        checksum.add(main + b"_" + sub)
        key_value = kv_pb2.KeyValue(
            key=key,
            value=value,
            create_revision=create_revision,
            mod_revision=int.from_bytes(main, "big"),
            version=version,
            lease=lease,
        )
        checksum.add(key_value.SerializeToString())


def _is_last(reader: Reader, key: bytes, place: bytes, end: bytes) -> bool:
    """Whether the key has no later version than the one at `place` before the place `end`."""
    physical = keyspace.find(reader, key)
    assert physical is not None, f"table {REVISIONS} has a key without a path at {place.hex()}"
    later = reader.scan(HISTORY, physical + place + b"\x00", physical + end)
    return next(later, None) is None
