"""How many records a table must hold, and the sum of their hashes: what notices that a record is missing.

A page that is lost takes its checksums with it. Kept by the write transaction at each put and
delete, stored with the applied index, compared by `raftd.store.verify`.
"""

from dataclasses import dataclass

HASH_MODULUS = 1 << 64
CRC_BYTES = 4


@dataclass(slots=True)
class Tally:
    """`hash` is the sum of the records' CRCs: a sum, because CRCs are linear under XOR and would not notice
    two values that have changed places. It is reduced modulo `HASH_MODULUS` where it is stored."""

    keys: int = 0
    hash: int = 0


def stored_hash(record: bytes) -> int:
    """What one record adds to its table's hash: the CRC over key and value that it ends with."""
    return int.from_bytes(record[-CRC_BYTES:], "big")
