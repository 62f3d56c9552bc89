"""etcd's data model, said as simply as possible: the whole store is copied at every revision.

Written from the documentation of the API and not from `raftd.kv`, with other means: dictionaries of named
tuples, no tables, no encodings.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple


class Version(NamedTuple):
    key: bytes
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int


Snapshot = dict[bytes, Version]


def in_range(key: bytes, start: bytes, range_end: bytes) -> bool:
    if not range_end:
        return key == start
    return start <= key and (range_end == b"\x00" or key < range_end)


class EtcdModel:
    def __init__(self) -> None:
        self.snapshots: list[Snapshot] = [{}, {}]
        """By revision; an empty store is at revision 1."""
        self.compacted = -1
        self.leases: set[int] = set()

    @property
    def revision(self) -> int:
        return len(self.snapshots) - 1

    @property
    def now(self) -> Snapshot:
        return self.snapshots[-1]

    def write(self, changes: Callable[[Snapshot, int], bool]) -> None:
        """`changes` edits a copy at the next revision and says whether it changed anything."""
        edited = dict(self.now)
        if changes(edited, self.revision + 1):
            self.snapshots.append(edited)

    def select(self, start: bytes, range_end: bytes, revision: int = 0) -> list[Version]:
        snapshot = self.snapshots[revision or self.revision]
        return [snapshot[key] for key in sorted(snapshot) if in_range(key, start, range_end)]


def put(snapshot: Snapshot, revision: int, key: bytes, value: bytes, lease: int = 0) -> Version | None:
    """The version that was there before."""
    previous = snapshot.get(key)
    if previous is None:
        snapshot[key] = Version(key, value, revision, revision, 1, lease)
    else:
        snapshot[key] = Version(key, value, previous.create_revision, revision, previous.version + 1, lease)
    return previous


def revoke(snapshot: Snapshot, lease: int) -> bool:
    """Whether it had keys."""
    gone = [key for key, version in snapshot.items() if version.lease == lease]
    for key in gone:
        del snapshot[key]
    return bool(gone)


def delete(snapshot: Snapshot, start: bytes, range_end: bytes) -> Sequence[Version]:
    """What was deleted, in order of the keys."""
    gone = [snapshot[key] for key in sorted(snapshot) if in_range(key, start, range_end)]
    for version in gone:
        del snapshot[version.key]
    return gone
