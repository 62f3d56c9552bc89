"""How long the database file has been, so that one that was cut short, replaced or removed is noticed.

LMDB reads through a memory map: beyond the end of a truncated file that is SIGBUS and the end of the
process, again at each start (hazards 70, 75). An LMDB file never shrinks, so a small file beside it that
remembers the length after each commit that changed it is enough to refuse in one line instead. It is not
synced: after a power loss it may remember less, never more. Called by the store.
"""

import os
from pathlib import Path

from raftd.store.directory import DATABASE_FILE, EXTENT_FILE, refused_on_error
from raftd.store.errors import StoreRefused

_WIDTH = 20


class Extent:
    """The remembered length of one directory's database file."""

    def __init__(self, directory: Path) -> None:
        """Compare; raises `StoreRefused`. Before LMDB opens the file."""
        self._database = directory / DATABASE_FILE
        with refused_on_error(directory):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(directory / EXTENT_FILE, flags, 0o600)
            text = os.pread(self._descriptor, _WIDTH, 0)
            # What is not a number says nothing; the database has its own checksums.
            self._known_bytes = int(text) if text.strip().isdigit() else 0
            found_bytes = self._database.stat().st_size if self._database.exists() else 0
        if found_bytes < self._known_bytes:
            os.close(self._descriptor)
            raise StoreRefused(
                f"{self._database} is {found_bytes} bytes long, but was {self._known_bytes}: it was cut "
                "short or replaced; put the whole directory back as it was, or go on without this member"
            )

    def note(self) -> None:
        """Remember the present length; after a commit, whose sync has made it durable."""
        found_bytes = os.stat(self._database).st_size
        if found_bytes > self._known_bytes:
            os.pwrite(self._descriptor, f"{found_bytes:<{_WIDTH}}\n".encode(), 0)
            self._known_bytes = found_bytes

    def close(self) -> None:
        os.close(self._descriptor)
