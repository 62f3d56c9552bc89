"""The ordered-map transaction that the state machine reads and writes.

`raftd.kv` knows nothing of LMDB, files or threads; it sees tables of bytes to bytes, ordered by the bytes of
the key. `raftd.store` supplies the real thing, the tests a dict-backed one that passes the same tests
(`tests/memory_transaction.py`). Keys are 1 to `MAX_KEY_BYTES` bytes long; values may be empty.
"""

from collections.abc import Iterator
from typing import Protocol

MAX_KEY_BYTES = 511
"""LMDB's limit for a key; a longer or an empty one is a programmer's mistake (an assertion)."""


class Reader(Protocol):
    """A consistent view of the tables. It must not be held for long: it pins pages (hazard 66)."""

    def get(self, table: str, key: bytes) -> bytes | None:
        """The value of `key`, None when the table has no such key."""

    def scan(
        self, table: str, start: bytes, end: bytes | None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Every (key, value) with start ≤ key < end, in order of the keys, or from the last to the first.

        `end` None: to the end of the table. `start` empty: from its beginning. The caller may stop early, and
        may not write to this table while it iterates.
        """


class Transaction(Reader, Protocol):
    """A `Reader` that sees its own writes. All of them become durable together, or none does."""

    def put(self, table: str, key: bytes, value: bytes) -> None:
        """Insert or replace."""

    def delete(self, table: str, key: bytes) -> bool:
        """Remove; False when there was no such key."""
