"""etcd keys of any length as LMDB keys of at most 511 bytes, in the same order.

A key is escaped (0x00 becomes 0x00 0xFF), so that a terminator (0x00 and a byte below 0xFF) sorts before
every continuation and no physical key is a prefix of another one. An escaped key longer than a chunk is a
path in a trie: each full chunk is a *link* to a node of the next level, named by an 8-byte id.

    physical key = id of the trie node (8 bytes, 0 = root) + chunk + END            this key ends here
                   id of the trie node             + chunk + LINK -> child's id     longer keys go on below

Table `keys` has one row per live key under its physical key, `history` one per version under the physical key
and the revision (`raftd.kv.mvcc`). Both hold all the links, in the place where the longer keys sort, and a
walk descends into them. A link's value begins with a zero byte; no other value of the two tables does.
Links stay when their keys go. Only `raftd.kv.mvcc` calls this.
"""

from collections.abc import Iterator
from typing import Final

from raftd.kv.transaction import MAX_KEY_BYTES, Reader, Transaction

KEYS: Final = "keys"
HISTORY: Final = "history"

REVISION_BYTES: Final = 16
_ID_BYTES: Final = 8
_ROOT: Final = bytes(_ID_BYTES)
_END: Final = b"\x00\x01"
_LINK: Final = b"\x00\x02"
_LINK_MARK: Final = b"\x00"

CHUNK_BYTES: Final = MAX_KEY_BYTES - _ID_BYTES - len(_END) - REVISION_BYTES - 1
"""A chunk is the shortest run of whole escaped bytes that is at least this long: at most one byte longer."""


def _chunks(key: bytes) -> list[bytes]:
    """The escaped key, cut. Where it is cut depends on nothing but the bytes before the cut."""
    escaped = key.replace(b"\x00", b"\x00\xff")
    if len(escaped) <= CHUNK_BYTES:
        return [escaped]
    chunks = []
    begin = 0
    while len(escaped) - begin > CHUNK_BYTES:
        cut = begin + CHUNK_BYTES
        if escaped[cut - 1] == 0:
            cut += 1
        chunks.append(escaped[begin:cut])
        begin = cut
    if begin < len(escaped):
        chunks.append(escaped[begin:])
    return chunks


def find(reader: Reader, key: bytes) -> bytes | None:
    """The physical key of `key`; None when no key ever took its path (so it has no version at all)."""
    escaped = key.replace(b"\x00", b"\x00\xff")
    if len(escaped) <= CHUNK_BYTES:
        return _ROOT + escaped + _END
    *links, last = _chunks(key)
    node = _ROOT
    for chunk in links:
        child = reader.get(KEYS, node + chunk + _LINK)
        if child is None:
            return None
        node = child
    return node + last + _END


def place(transaction: Transaction, key: bytes, next_node_id: int) -> tuple[bytes, int]:
    """The physical key of `key`, its path made where it is missing, and the next free node id after that."""
    *links, last = _chunks(key)
    node = _ROOT
    for chunk in links:
        link = node + chunk + _LINK
        child = transaction.get(KEYS, link)
        if child is None:
            child = next_node_id.to_bytes(_ID_BYTES, "big")
            assert child.startswith(_LINK_MARK), next_node_id
            next_node_id += 1
            transaction.put(KEYS, link, child)
            transaction.put(HISTORY, link, child)
        node = child
    return node + last + _END, next_node_id


class _Level:
    """The rows of one trie node that a walk has still to visit. None for a bound: it does not bind here."""

    __slots__ = ("_depth", "_end", "_node", "_start", "rows")

    def __init__(
        self,
        reader: Reader,
        table: str,
        node: bytes,
        depth: int,
        start: list[bytes] | None,
        end: list[bytes] | None,
    ) -> None:
        self._node, self._depth, self._start, self._end = node, depth, start, end
        low = node
        if start is not None:
            low = node + start[depth] + (_LINK if depth + 1 < len(start) else b"")
        if end is None:
            high = (int.from_bytes(node, "big") + 1).to_bytes(_ID_BYTES, "big")
        else:
            high = node + end[depth] + (_LINK + b"\x00" if depth + 1 < len(end) else b"")
        self.rows = reader.scan(table, low, high)

    def child(self, reader: Reader, table: str, link: bytes, node: bytes) -> "_Level":
        return _Level(
            reader, table, node, self._depth + 1, self._below(self._start, link), self._below(self._end, link)
        )

    def _below(self, bound: list[bytes] | None, link: bytes) -> list[bytes] | None:
        if bound is None or self._depth + 1 >= len(bound):
            return None
        return bound if link == self._node + bound[self._depth] + _LINK else None


def walk(reader: Reader, table: str, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
    """(row's key, value) of all keys with start ≤ key < end (None: no end), in the order of the keys."""
    if end is not None and end <= start:
        return
    levels = [_Level(reader, table, _ROOT, 0, _chunks(start), None if end is None else _chunks(end))]
    while levels:
        level = levels[-1]
        for row, value in level.rows:
            if value[:1] == _LINK_MARK:
                levels.append(level.child(reader, table, row, value))
                break
            yield row, value
        else:
            levels.pop()
