"""The mark of a member whose disk has failed it.

After a failed sync the page cache may hold what the disk does not, and the next sync reports success: a
restart in place would read back a vote that a power loss takes away (hazards 61, 63). So the mark carries
the boot id and stands until the machine has been rebooted, when only what is on the disk is left to read.
It is written to the data directory, and to the runtime directory when the data directory no longer takes it
(read-only, full, or dead). Called by the store when an error occurs and when it is opened.
"""

import errno
import hashlib
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from raftd.store.directory import FENCE_FILE, sync_directory
from raftd.store.errors import Fenced

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_MARK_BYTES_MAX = 4096
_REASON_CHARACTERS_MAX = 500


def boot_id() -> str:
    """A random text that the kernel makes anew at each boot."""
    return _BOOT_ID.read_text().strip()


def runtime_directory(environment: Mapping[str, str] = os.environ) -> Path:
    """Where a mark goes that the data directory does not take: on another file system, and gone after a
    reboot."""
    for name in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):
        if environment.get(name):
            return Path(environment[name].split(":")[0])
    run = Path("/run")
    return run if os.access(run, os.W_OK) else Path(tempfile.gettempdir())


class FenceMark:
    """The places where the mark of one data directory may stand."""

    def __init__(self, directory: Path, runtime: Path) -> None:
        self._directory = directory
        name = hashlib.sha256(os.fsencode(directory.resolve())).hexdigest()[:16]
        self._places = (directory / FENCE_FILE, runtime / f"raftd-{name}.{FENCE_FILE}")

    def write(self, reason: str) -> Path | None:
        """Leave the mark; returns where, or None when no place takes it. Never raises: the error that led
        here is what has to be reported."""
        content = f"{boot_id()}\n{_one_line(reason)}\n".encode()
        for place in self._places:
            try:
                _write_durably(place, content)
            except OSError:
                continue  # the next place; the caller says so when there is none
            return place
        return None

    def check(self) -> None:
        """Raise `Fenced` while a mark of this boot stands. Marks of earlier boots have served and are
        removed."""
        for place in self._places:
            mark = _read(place)
            if mark is None:
                continue
            marked_boot, _, reason = mark.partition("\n")
            if marked_boot.strip() == boot_id():
                raise Fenced(
                    f"data directory {self._directory} is fenced since a storage error ({reason.strip()}): "
                    "check the disk and reboot this machine, or go on without this member; "
                    f"the mark {place} counts until the reboot"
                )
            place.unlink()


def _write_durably(place: Path, content: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(place, flags, 0o600)
    try:
        written = os.write(descriptor, content)
        if written != len(content):
            raise OSError(f"{place}: only {written} bytes written")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    sync_directory(place.parent)


def _read(place: Path) -> str | None:
    """The mark at this place; in a runtime directory that all may write to, only one that we or root have
    left."""
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:  # never ours
            return None
        raise
    try:
        if os.fstat(descriptor).st_uid not in (os.geteuid(), 0):
            return None
        return os.read(descriptor, _MARK_BYTES_MAX).decode("utf-8", "replace")
    finally:
        os.close(descriptor)


def _one_line(text: str) -> str:
    return " ".join(text.split())[:_REASON_CHARACTERS_MAX]
