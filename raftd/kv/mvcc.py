"""Keys with all their versions: etcd's multi-version store over three tables.

    keys       physical key               -> [format, create revision, mod revision, mod sub-revision,
                                             version, lease] of the live version; no row for a deleted key
    history    physical key + main + sub  -> empty, or TOMBSTONE: one row per version of the key
    revisions  main (8 bytes) + sub (8)   -> [format, key, value, create revision, version, lease], or
                                             [format, key] for a delete; the only place of a value

The latest state is read through `keys`, an older one through `history`; `revisions` is the order in which
watches see events. A write transaction has one main revision, and its changes the sub-revisions 0, 1, 2, ...
Reads below `State.compacted_revision` are refused at once; `raftd.kv.compaction` drops the rows that nobody
can ask for any more. A key put under a lease has a row in `lease_keys` (`raftd.kv.leases`) while it lives.
"""

from collections.abc import Iterator
from struct import Struct
from typing import Final, NamedTuple

from proto import kv_pb2
from proto.errors import COMPACTED, FUTURE_REVISION, Status
from raftd.kv import keyspace
from raftd.kv.keyspace import HISTORY, KEYS, REVISION_BYTES
from raftd.kv.leases import Lease, all_leases, attach, attached, detach, find_lease
from raftd.kv.records import pack, unpack
from raftd.kv.state import State
from raftd.kv.transaction import Reader, Transaction

REVISIONS: Final = "revisions"
TOMBSTONE: Final = b"t"
TOMBSTONE_FIELDS: Final = 2
"""How many fields a delete's record in `revisions` has: fewer than any other."""
_FORMAT: Final = 1
_REVISION: Final = Struct(">QQ")
_MAIN: Final = Struct(">Q")
assert _REVISION.size == REVISION_BYTES


class Interval(NamedTuple):
    """Keys with start ≤ key < end. `end` None: all keys from `start` on."""

    start: bytes
    end: bytes | None

    def holds(self, key: bytes) -> bool:
        return self.start <= key and (self.end is None or key < self.end)


def interval(key: bytes, range_end: bytes) -> Interval | None:
    """etcd's (key, range_end). None for a single key: an empty range_end; b"\\0" is "no end"."""
    if not range_end:
        return None
    return Interval(key, None if range_end == b"\x00" else range_end)


class View:
    """The store at one moment, for reading. Raises Status for revisions that are not there (any more)."""

    def __init__(self, reader: Reader, state: State) -> None:
        self._reader = reader
        self._state = state

    @property
    def revision(self) -> int:
        return self._state.revision

    @property
    def compacted_revision(self) -> int:
        return self._state.compacted_revision

    def exists(self, key: bytes) -> bool:
        physical = keyspace.find(self._reader, key)
        return physical is not None and self._reader.get(KEYS, physical) is not None

    def lease_exists(self, lease_id: int) -> bool:
        """Whether a put may name it; 0 is "none"."""
        return lease_id == 0 or self.find_lease(lease_id) is not None

    def find_lease(self, lease_id: int) -> Lease | None:
        return find_lease(self._reader, lease_id)

    def all_leases(self) -> Iterator[Lease]:
        return all_leases(self._reader)

    def get(self, key: bytes) -> kv_pb2.KeyValue | None:
        """The live version of `key`."""
        for place in self._latest_of(key):
            return self._key_value(place)
        return None

    def version_at(self, key: bytes, revision: int) -> kv_pb2.KeyValue | None:
        """The version that was live at `revision`, which is neither compacted nor in the future."""
        for place in self._version_of(key, revision):
            return self._key_value(place)
        return None

    def select(
        self, key: bytes, range_end: bytes, revision: int = 0, limit: int = 0, count_only: bool = False
    ) -> tuple[int, list[kv_pb2.KeyValue]]:
        """How many keys there are in the range at `revision` (≤ 0: now), and the first `limit` (≤ 0: all)."""
        if revision > self.revision:
            raise Status(*FUTURE_REVISION)
        if revision <= 0:
            revision = self.revision
        if revision < self.compacted_revision:
            raise Status(*COMPACTED)
        places = self.places(key, range_end, revision)
        if count_only:
            return sum(1 for _ in places), []
        key_values = []
        for place in places:
            key_values.append(self._key_value(place))
            if len(key_values) == limit:
                break
        return len(key_values) + sum(1 for _ in places), key_values

    def places(self, key: bytes, range_end: bytes, revision: int) -> Iterator[bytes]:
        """The rows of `revisions` that hold the range at `revision`, in order of the keys. The revision is
        neither compacted nor in the future."""
        keys = interval(key, range_end)
        if revision == self.revision:
            return self._latest_of(key) if keys is None else self._latest(keys)
        return self._version_of(key, revision) if keys is None else self._versions(keys, revision)

    def _latest_of(self, key: bytes) -> Iterator[bytes]:
        physical = keyspace.find(self._reader, key)
        record = None if physical is None else self._reader.get(KEYS, physical)
        if record is not None:
            yield _place(record)

    def _latest(self, keys: Interval) -> Iterator[bytes]:
        for _, record in keyspace.walk(self._reader, KEYS, keys.start, keys.end):
            yield _place(record)

    def _version_of(self, key: bytes, revision: int) -> Iterator[bytes]:
        physical = keyspace.find(self._reader, key)
        if physical is None:
            return
        past = physical + _MAIN.pack(revision + 1)
        for row, mark in self._reader.scan(HISTORY, physical, past, reverse=True):
            if mark != TOMBSTONE:
                yield row[-REVISION_BYTES:]
            return

    def _versions(self, keys: Interval, revision: int) -> Iterator[bytes]:
        past = _MAIN.pack(revision + 1)
        physical = b""
        place = None
        for row, mark in keyspace.walk(self._reader, HISTORY, keys.start, keys.end):
            if row[:-REVISION_BYTES] != physical:
                if place is not None:
                    yield place
                physical, place = row[:-REVISION_BYTES], None
            if row[-REVISION_BYTES:] < past:
                place = None if mark == TOMBSTONE else row[-REVISION_BYTES:]
        if place is not None:
            yield place

    def keys_of_lease(self, lease_id: int) -> list[bytes]:
        """The keys attached to a lease, sorted."""
        records = (self._reader.get(KEYS, physical) for physical in attached(self._reader, lease_id))
        return sorted(self._key_of(record) for record in records if record is not None)

    def _key_of(self, record: bytes) -> bytes:
        """The key of a row of `keys`."""
        revision = self._reader.get(REVISIONS, _place(record))
        assert revision is not None, f"table {REVISIONS} lacks {_place(record).hex()}"
        key: bytes = unpack(revision)[1]
        return key

    def _key_value(self, place: bytes) -> kv_pb2.KeyValue:
        record = self._reader.get(REVISIONS, place)
        assert record is not None, f"table {REVISIONS} lacks {place.hex()}"
        _, key, value, create_revision, version, lease = unpack(record)
        return kv_pb2.KeyValue(
            key=key,
            value=value,
            create_revision=create_revision,
            mod_revision=_MAIN.unpack_from(place)[0],
            version=version,
            lease=lease,
        )


def _place(record: bytes) -> bytes:
    _, _, mod_revision, mod_sub, _, _ = unpack(record)
    return _REVISION.pack(mod_revision, mod_sub)


class Store(View):
    """The store while an entry is applied. Between `begin` and `end` all changes share one revision."""

    def __init__(self, transaction: Transaction, state: State) -> None:
        super().__init__(transaction, state)
        self._transaction = transaction
        self._changes = 0

    @property
    def revision(self) -> int:
        """Reads inside a write transaction see its own changes, at its own revision."""
        return self._state.revision + (1 if self._changes else 0)

    @property
    def has_changes(self) -> bool:
        return self._changes > 0

    def end(self) -> None:
        """End a write transaction: when it changed anything, its revision becomes the current one."""
        if self._changes:
            self._state.revision += 1
            self._changes = 0

    def put(self, key: bytes, value: bytes, lease: int) -> int:
        """Write a version of `key` and return its revision."""
        transaction, state = self._transaction, self._state
        physical, state.next_node_id = keyspace.place(transaction, key, state.next_node_id)
        revision, sub = state.revision + 1, self._changes
        record = transaction.get(KEYS, physical)
        if record is None:
            create_revision, version, old_lease = revision, 1, 0
        else:
            _, create_revision, _, _, version, old_lease = unpack(record)
            version += 1
        place = _REVISION.pack(revision, sub)
        transaction.put(REVISIONS, place, pack((_FORMAT, key, value, create_revision, version, lease)))
        transaction.put(HISTORY, physical + place, b"")
        transaction.put(KEYS, physical, pack((_FORMAT, create_revision, revision, sub, version, lease)))
        if lease != old_lease:
            if old_lease:
                detach(transaction, old_lease, physical)
            if lease:
                attach(transaction, lease, physical)
        self._changes += 1
        return revision

    def delete_range(self, key: bytes, range_end: bytes) -> int:
        """Delete every live key of the range, in order, each with a sub-revision of its own; how many."""
        transaction = self._transaction
        keys = interval(key, range_end)
        if keys is None:
            physical = keyspace.find(transaction, key)
            record = None if physical is None else transaction.get(KEYS, physical)
            rows = [] if physical is None or record is None else [(physical, record)]
        else:
            rows = list(keyspace.walk(transaction, KEYS, keys.start, keys.end))
        for physical, record in rows:
            self._delete(physical, record, self._key_of(record))
        return len(rows)

    def delete_attached(self, lease_id: int) -> int:
        """Delete the keys of a lease, in order of the keys, all at one revision; how many."""
        rows = []
        for physical in attached(self._transaction, lease_id):
            record = self._transaction.get(KEYS, physical)
            assert record is not None, f"table {KEYS} lacks {physical.hex()} of lease {lease_id}"
            rows.append((self._key_of(record), physical, record))
        for key, physical, record in sorted(rows):
            self._delete(physical, record, key)
        return len(rows)

    def _delete(self, physical: bytes, record: bytes, key: bytes) -> None:
        transaction = self._transaction
        place = _REVISION.pack(self._state.revision + 1, self._changes)
        transaction.put(REVISIONS, place, pack((_FORMAT, key)))
        transaction.put(HISTORY, physical + place, TOMBSTONE)
        transaction.delete(KEYS, physical)
        lease = unpack(record)[5]
        if lease:
            detach(transaction, lease, physical)
        self._changes += 1
