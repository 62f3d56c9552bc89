"""The data directory as files: permissions, owners, the lock (security checklist 14)."""

import os
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftd.store import Store, StoreRefused
from tests.store.directories import ROOT, TABLES, child_command, open_member, open_store

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run as root")
NOBODY = 65534


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def refusal(directory: Path) -> str:
    """The text with which this directory is refused: one line, and it names the directory."""
    with pytest.raises(StoreRefused) as info:
        open_store(directory)
    text = info.value.text
    assert "\n" not in text
    assert str(directory) in text
    assert info.value.exit_status == 3
    return text


def test_only_the_owner_may_read(tmp_path: Path) -> None:
    directory = tmp_path / "parent" / "data"
    (tmp_path / "parent").mkdir()
    previous = os.umask(0)
    try:
        with open_member(directory):
            pass
    finally:
        os.umask(previous)
    assert mode(directory) == 0o700
    files = {path.name: mode(path) for path in directory.iterdir()}
    assert files == {"data.mdb": 0o600, "lock.mdb": 0o600, "LOCK": 0o600, "SIZE": 0o600}


def test_permissions_that_were_opened_are_closed(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with open_member(directory):
        pass
    directory.chmod(0o755)
    (directory / "data.mdb").chmod(0o644)
    with open_member(directory):
        assert mode(directory) == 0o700
        assert mode(directory / "data.mdb") == 0o600


def test_missing_parents_are_created(tmp_path: Path) -> None:
    directory = tmp_path / "var" / "lib" / "data"
    with Store.open(directory, tables=TABLES, runtime=tmp_path):
        assert mode(directory) == 0o700


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "data").symlink_to("real")
    assert "is a symbolic link" in refusal(tmp_path / "data")
    assert list((tmp_path / "real").iterdir()) == []


@pytest.mark.parametrize("name", ["data.mdb", "lock.mdb", "LOCK", "FENCED", "SIZE"])
def test_a_symbolic_link_inside_is_refused(tmp_path: Path, name: str) -> None:
    directory, target = tmp_path / "data", tmp_path / "target"
    directory.mkdir()
    target.write_text("precious")
    (directory / name).symlink_to(target)
    assert f"{name} is not a regular file" in refusal(directory)
    assert target.read_text() == "precious"


def test_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")
    assert "is not a directory" in refusal(tmp_path / "data")


def test_a_directory_of_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir(mode=0o755)
    (directory / "photo.jpg").write_text("")
    assert "holds no data of raftd but other files (photo.jpg)" in refusal(directory)
    assert mode(directory) == 0o755
    assert [path.name for path in directory.iterdir()] == ["photo.jpg"]


def test_the_root_of_a_file_system_of_its_own_is_taken(tmp_path: Path) -> None:
    (tmp_path / "data" / "lost+found").mkdir(parents=True)
    with open_store(tmp_path / "data"):
        pass


def test_a_parent_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreRefused, match="cannot use data directory "):
        Store.open(tmp_path / "file" / "data", tables=TABLES, runtime=tmp_path)


@pytest.mark.root
@needs_root
def test_a_foreign_owner_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with open_member(directory):
        pass
    os.chown(directory / "data.mdb", NOBODY, NOBODY)
    assert f"data.mdb belongs to user id {NOBODY}, but raftd runs as user id 0" in refusal(directory)
    os.chown(directory, NOBODY, NOBODY)
    assert f"{directory} belongs to user id {NOBODY}, but raftd runs as user id 0" in refusal(directory)


@pytest.fixture
def ordinary_user_path() -> Iterator[Path]:
    """A directory of the user that this test runs as, who is not root."""
    with tempfile.TemporaryDirectory() as name:
        if os.geteuid() != 0:
            yield Path(name)
            return
        os.chown(name, NOBODY, NOBODY)
        os.seteuid(NOBODY)
        try:
            yield Path(name)
        finally:
            os.seteuid(0)


@pytest.mark.parametrize("permissions", [0o000, 0o300, 0o500])
def test_a_directory_that_cannot_be_used_is_refused(ordinary_user_path: Path, permissions: int) -> None:
    directory = ordinary_user_path / "data"
    directory.mkdir()
    directory.chmod(permissions)
    assert "Permission denied" in refusal(directory)


def test_a_database_that_cannot_be_read_is_refused(ordinary_user_path: Path) -> None:
    directory = ordinary_user_path / "data"
    with open_store(directory):
        pass
    (directory / "data.mdb").chmod(0o000)
    assert "Permission denied" in refusal(directory)


def test_a_second_opening_in_one_process_is_refused(tmp_path: Path) -> None:
    """Hazard 69: it would break LMDB's own locks."""
    directory = tmp_path / "data"
    with open_store(directory):
        assert f"is in use by another raftd (process {os.getpid()})" in refusal(directory)
    with open_store(directory):
        pass


def test_a_second_process_is_refused_and_told_which_is_the_first(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with subprocess.Popen(
        child_command(directory, "hold"), cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        assert f"is in use by another raftd (process {holder.pid})" in refusal(directory)
        holder.kill()
        holder.wait()
        with open_member(directory) as store:
            assert store.recover().applied_index == 1
