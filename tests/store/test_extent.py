"""A database file that was cut short, replaced or removed: refused in one line, no SIGBUS (hazards 70,
75)."""

import os
import shutil
from pathlib import Path

import pytest

from raftd.store import StoreRefused, verify
from tests.store.directories import entry, open_member, write


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    directory = tmp_path / "data"
    with open_member(directory) as store:
        write(store, *(entry(index, b"key%d=" % index + b"x" * 3000) for index in range(2, 100)))
    return directory


@pytest.mark.parametrize("lost_pages", [1, 2, 50])
def test_a_file_that_was_cut_short_is_refused(directory: Path, lost_pages: int) -> None:
    database = directory / "data.mdb"
    size = database.stat().st_size
    os.truncate(database, size - lost_pages * 4096)
    with pytest.raises(StoreRefused, match=f"bytes long, but was {size}: it was cut short"):
        open_member(directory)


def test_an_empty_file_is_not_a_fresh_directory(directory: Path) -> None:
    """LMDB would initialise it anew, and the member would have forgotten its vote (hazard 43)."""
    os.truncate(directory / "data.mdb", 0)
    with pytest.raises(StoreRefused, match="is 0 bytes long"):
        open_member(directory)


def test_a_removed_file_is_not_a_fresh_directory(directory: Path) -> None:
    (directory / "data.mdb").unlink()
    with pytest.raises(StoreRefused, match="put the whole directory back as it was"):
        open_member(directory)
    assert not (directory / "data.mdb").exists()


def test_an_older_copy_that_is_shorter_is_refused(tmp_path: Path, directory: Path) -> None:
    """Hazard 28: the log it lost may have been acknowledged."""
    copy = tmp_path / "copy"
    shutil.copy(directory / "data.mdb", copy)
    with open_member(directory) as store:
        write(store, *(entry(index, b"key%d=" % index + b"x" * 3000) for index in range(100, 300)))
    shutil.copy(copy, directory / "data.mdb")
    with pytest.raises(StoreRefused, match="it was cut short or replaced"):
        open_member(directory)


@pytest.mark.parametrize("remembered", [b"", b"garbage", b"4096"])
def test_what_is_remembered_can_only_warn(directory: Path, remembered: bytes) -> None:
    (directory / "SIZE").write_bytes(remembered)
    with open_member(directory) as store:
        assert verify(store).problems == ()
    (directory / "SIZE").unlink()
    with open_member(directory) as store:
        assert verify(store).problems == ()
