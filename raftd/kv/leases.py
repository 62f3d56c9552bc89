"""The rows that leases leave in the tables. Which of them runs out when is not here: that is the leader's.

    leases      id (8 bytes)                 -> [format, ttl in seconds, grant]
    lease_keys  id (8 bytes) + physical key  -> empty: a live key that is attached to the lease

A lease's id is the client's, any int64 but 0, and may be granted again once it is revoked; `grant` is the
place of its LEASE_GRANT in the log, and never the same twice. `raftd.kv.mvcc` attaches and detaches keys,
`raftd.kv.lessor` grants and revokes.

Invariant: `lease_keys` has a row for each row of table `keys` that names a lease, and no other; each such
lease has a row in `leases`.
"""

from collections.abc import Iterator
from typing import Final, NamedTuple

from raftd.kv.records import pack, unpack
from raftd.kv.transaction import Reader, Transaction

LEASES: Final = "leases"
LEASE_KEYS: Final = "lease_keys"
_FORMAT: Final = 1
_ID_BYTES: Final = 8


class Lease(NamedTuple):
    id: int
    ttl_s: int
    """As granted, in seconds."""
    grant: int
    """(index of the entry that granted it) << 16 | position in the entry."""


class LeaseChange(NamedTuple):
    lease: Lease
    granted: bool
    """False: revoked, by a client or because its time was over."""


def _row(lease_id: int) -> bytes:
    return lease_id.to_bytes(_ID_BYTES, "big", signed=True)


def find_lease(reader: Reader, lease_id: int) -> Lease | None:
    record = reader.get(LEASES, _row(lease_id))
    if record is None:
        return None
    _, ttl_s, grant = unpack(record)
    return Lease(lease_id, ttl_s, grant)


def all_leases(reader: Reader) -> Iterator[Lease]:
    for row, record in reader.scan(LEASES, b"", None):
        _, ttl_s, grant = unpack(record)
        yield Lease(int.from_bytes(row, "big", signed=True), ttl_s, grant)


def add_lease(transaction: Transaction, lease: Lease) -> None:
    transaction.put(LEASES, _row(lease.id), pack((_FORMAT, lease.ttl_s, lease.grant)))


def remove_lease(transaction: Transaction, lease_id: int) -> None:
    transaction.delete(LEASES, _row(lease_id))


def attach(transaction: Transaction, lease_id: int, physical: bytes) -> None:
    transaction.put(LEASE_KEYS, _row(lease_id) + physical, b"")


def detach(transaction: Transaction, lease_id: int, physical: bytes) -> None:
    there = transaction.delete(LEASE_KEYS, _row(lease_id) + physical)
    assert there, f"lease {lease_id} lacks {physical.hex()}"


def attached(reader: Reader, lease_id: int) -> list[bytes]:
    """The physical keys; their order is that of the keys only as long as these are short."""
    first = _row(lease_id)
    # A physical key begins with a zero byte.
    rows = reader.scan(LEASE_KEYS, first, first + b"\xff")
    return [row[_ID_BYTES:] for row, _ in rows]
