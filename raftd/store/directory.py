"""The data directory as the file system sees it: whose it is, who may read it, and which process has it.

Everything that is not as it should be is refused in one line (security checklist 14): a symbolic link,
another owner, a directory that cannot be read, one that holds something else, one that another raftd is
using. Called by `Store.open` before LMDB sees the directory; knows nothing of what the database holds.
"""

import fcntl
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from raftd.store.errors import StoreRefused

DATABASE_FILE = "data.mdb"
READERS_FILE = "lock.mdb"
LOCK_FILE = "LOCK"
FENCE_FILE = "FENCED"
EXTENT_FILE = "SIZE"

_OWN_FILES = (DATABASE_FILE, READERS_FILE, LOCK_FILE, FENCE_FILE, EXTENT_FILE)
_IGNORED = ("lost+found",)
"""What the root of a file system of our own contains."""

_PRIVATE = 0o077


def prepare_directory(directory: Path) -> None:
    """Create the directory if there is none, check it, and close it to everybody else.

    Raises `StoreRefused`. A fresh directory is synced into its parent: LMDB syncs its file but not the name
    of it.
    """
    with refused_on_error(directory):
        if not os.path.lexists(directory):
            directory.parent.mkdir(parents=True, exist_ok=True)
            directory.mkdir(mode=0o700)
            sync_directory(directory.parent)
        _check_directory(directory)
        _check_files(directory)


@contextmanager
def refused_on_error(directory: Path) -> Iterator[None]:
    """Turn the operating system's errors into one line that names the directory."""
    try:
        yield
    except OSError as error:
        place = error.filename if isinstance(error.filename, str) else str(directory)
        raise StoreRefused(f"cannot use data directory {directory}: {place}: {error.strerror}") from error


def sync_directory(directory: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check_directory(directory: Path) -> None:
    found = directory.lstat()
    if stat.S_ISLNK(found.st_mode):
        raise StoreRefused(f"data directory {directory} is a symbolic link: name the directory itself")
    if not stat.S_ISDIR(found.st_mode):
        raise StoreRefused(f"data directory {directory} is not a directory")
    _check_owner(directory, found)
    names = os.listdir(directory)
    strange = sorted(set(names) - {*_OWN_FILES, *_IGNORED})
    if strange and DATABASE_FILE not in names:
        raise StoreRefused(
            f"data directory {directory} holds no data of raftd but other files ({strange[0]}): "
            "name an empty directory"
        )
    if found.st_mode & _PRIVATE:
        directory.chmod(0o700)


def _check_files(directory: Path) -> None:
    for name in _OWN_FILES:
        path = directory / name
        if not os.path.lexists(path):
            continue
        found = path.lstat()
        if not stat.S_ISREG(found.st_mode):
            raise StoreRefused(f"{path} is not a regular file")
        _check_owner(path, found)
        if found.st_mode & _PRIVATE:
            path.chmod(0o600)


def _check_owner(path: Path, found: os.stat_result) -> None:
    if found.st_uid != os.geteuid():
        raise StoreRefused(
            f"{path} belongs to user id {found.st_uid}, but raftd runs as user id {os.geteuid()}: "
            "run it as the owner or change the owner"
        )


class DirectoryLock:
    """Held by the one process that uses the directory; LMDB itself would let a second one in.

    `flock` ends with the process, however it ends, so nothing is ever stale. The process id in the file
    only serves the message to the second one.
    """

    def __init__(self, directory: Path) -> None:
        """Take the lock or raise `StoreRefused`; never waits."""
        path = directory / LOCK_FILE
        with refused_on_error(directory):
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self._descriptor = os.open(path, flags, 0o600)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip()
                os.close(self._descriptor)
                raise StoreRefused(
                    f"data directory {directory} is in use by another raftd (process {holder or 'unknown'})"
                ) from None
            # Fixed width and no truncation: works on a full disk too.
            os.pwrite(self._descriptor, f"{os.getpid():<20}\n".encode(), 0)

    def release(self) -> None:
        os.close(self._descriptor)
