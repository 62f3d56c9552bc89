"""Which watched ranges hold a key, for ten thousand of them, without looking at each.

A range is (start, end), start ≤ key < end; `end` None is no end. Members of one range share a `Group`.
Groups of a single key are found in a dictionary, all others in an interval tree that lies flat in a sorted
list and is built anew now and then: what was added since is looked through one by one. Knows nothing of
watchers.
"""

from collections.abc import Iterator
from typing import Final, Generic, TypeVar

T = TypeVar("T")

KeyRange = tuple[bytes, bytes | None]

REBUILD_AFTER: Final = 64
"""So many ranges are looked through one by one before the tree is built anew, or an eighth of its size."""


def key_range(key: bytes, range_end: bytes) -> KeyRange:
    """etcd's (key, range_end): no `range_end` is the one key, b"\\0" is no end; no key is the least one."""
    key = key or b"\x00"
    if not range_end:
        return key, key + b"\x00"
    return key, None if range_end == b"\x00" else range_end


class Group(Generic[T]):
    """The members of one range, in the order in which they came."""

    __slots__ = ("end", "members", "start")

    def __init__(self, start: bytes, end: bytes | None) -> None:
        self.start = start
        self.end = end
        self.members: dict[T, None] = {}


class RangeIndex(Generic[T]):
    """Invariant: every group with members is in `_groups`, and there either a single key's (`_keys`), or in
    `_tree`, or in `_recent`. Emptied groups stay in the tree until it is built anew.
    """

    def __init__(self) -> None:
        self._groups: dict[KeyRange, Group[T]] = {}
        self._keys: dict[bytes, Group[T]] = {}
        self._recent: list[Group[T]] = []
        self._tree: list[Group[T]] = []
        self._max_ends: list[bytes | None] = []
        self._emptied = 0

    def add(self, range_: KeyRange, member: T) -> Group[T]:
        group = self._groups.get(range_)
        if group is None:
            start, end = range_
            group = self._groups[range_] = Group(start, end)
            if end == start + b"\x00":
                self._keys[start] = group
            else:
                self._recent.append(group)
        group.members[member] = None
        return group

    def remove(self, group: Group[T], member: T) -> None:
        del group.members[member]
        if group.members:
            return
        del self._groups[group.start, group.end]
        if group.end == group.start + b"\x00":
            del self._keys[group.start]
        else:
            self._emptied += 1

    def groups(self) -> list[Group[T]]:
        return list(self._groups.values())

    def matching(self, key: bytes) -> Iterator[Group[T]]:
        """Every group whose range holds `key`."""
        single = self._keys.get(key)
        if single is not None:
            yield single
        if max(len(self._recent), self._emptied) > max(REBUILD_AFTER, len(self._tree) // 8):
            self._rebuild()
        for group in self._recent:
            if group.members and group.start <= key and (group.end is None or key < group.end):
                yield group
        yield from self._search(key)

    def _rebuild(self) -> None:
        found = [group for group in (*self._tree, *self._recent) if group.members]
        found.sort(key=lambda group: group.start)
        self._tree, self._recent, self._emptied = found, [], 0
        self._max_ends = [group.end for group in found]
        self._fill(0, len(found))

    def _fill(self, low: int, high: int) -> None:
        """Makes `_max_ends[middle]` the greatest end of the subtree [low, high)."""
        if high - low <= 1:
            return
        middle = (low + high) // 2
        self._fill(low, middle)
        self._fill(middle + 1, high)
        for begin, end in ((low, middle), (middle + 1, high)):
            if begin < end:
                mine, theirs = self._max_ends[middle], self._max_ends[(begin + end) // 2]
                self._max_ends[middle] = None if mine is None or theirs is None else max(mine, theirs)

    def _search(self, key: bytes) -> Iterator[Group[T]]:
        pending = [(0, len(self._tree))]
        while pending:
            low, high = pending.pop()
            if low >= high:
                continue
            middle = (low + high) // 2
            max_end = self._max_ends[middle]
            if max_end is not None and max_end <= key:
                continue
            pending.append((low, middle))
            group = self._tree[middle]
            if group.start <= key:
                if group.members and (group.end is None or key < group.end):
                    yield group
                pending.append((middle + 1, high))
