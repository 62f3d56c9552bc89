"""A dict-backed `raftd.kv.transaction.Transaction`; the tests in tests/store hold it to the real one."""

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence

from raftd.kv.transaction import MAX_KEY_BYTES


class MemoryTransaction:
    """Tables in dictionaries with a sorted list of keys each. There is no rollback: throw it away instead."""

    def __init__(self, tables: Sequence[str]) -> None:
        self._values: dict[str, dict[bytes, bytes]] = {table: {} for table in tables}
        self._keys: dict[str, list[bytes]] = {table: [] for table in tables}

    def get(self, table: str, key: bytes) -> bytes | None:
        assert 0 < len(key) <= MAX_KEY_BYTES, len(key)
        return self._values[table].get(key)

    def put(self, table: str, key: bytes, value: bytes) -> None:
        assert 0 < len(key) <= MAX_KEY_BYTES, len(key)
        values = self._values[table]
        if key not in values:
            insort(self._keys[table], key)
        values[key] = value

    def delete(self, table: str, key: bytes) -> bool:
        assert 0 < len(key) <= MAX_KEY_BYTES, len(key)
        if self._values[table].pop(key, None) is None:
            return False
        keys = self._keys[table]
        del keys[bisect_left(keys, key)]
        return True

    def scan(
        self, table: str, start: bytes, end: bytes | None, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        keys, values = self._keys[table], self._values[table]
        first = bisect_left(keys, start)
        last = len(keys) if end is None else bisect_left(keys, end)
        selected = keys[first:last]
        version = len(keys)
        for key in reversed(selected) if reverse else selected:
            assert len(keys) == version, f"table {table} was written to during a scan"
            yield key, values[key]

    def snapshot(self) -> dict[str, dict[bytes, bytes]]:
        """A copy of all tables, for comparing replicas."""
        return {table: dict(values) for table, values in self._values.items()}
