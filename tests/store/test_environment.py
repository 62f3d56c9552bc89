"""LMDB's options: full durability, the pinned format, room (hazards 59, 65, 66, 80)."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import lmdb
import pytest

from raftd.store import Store, StoreRefused
from raftd.store.limits import MAP_SIZE_BYTES, MAX_READERS
from tests.store.directories import ROOT, TABLES, open_member, open_store

SHOW_LIB_VERSION = """
import sys
from pathlib import Path
from tests.store.directories import open_member
with open_member(Path(sys.argv[1])) as store:
    print(store.environment.lmdb.lib_version()[:2])
"""


def test_every_commit_is_synced(tmp_path: Path) -> None:
    """Hazard 59."""
    with open_store(tmp_path / "data") as store:
        flags = store.environment.lmdb.flags()
    assert flags["sync"]
    assert flags["metasync"]
    assert not flags["writemap"]
    assert not flags["map_async"]
    assert flags["lock"]


@pytest.mark.parametrize("default", ["1", "0", ""])
def test_the_environment_does_not_choose_the_format(tmp_path: Path, default: str) -> None:
    """Hazard 80: LMDB_DEFAULT_LIB_VERSION flips what a new file becomes."""
    directory = tmp_path / "data"
    environment = {**os.environ, "LMDB_DEFAULT_LIB_VERSION": default}
    shown = subprocess.run(
        [sys.executable, "-c", SHOW_LIB_VERSION, str(directory)],
        env=environment,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout == "(0, 9)\n"
    with open_member(directory) as store:
        assert store.environment.lmdb.lib_version()[:2] == (0, 9)


def test_a_file_of_the_other_format_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    lmdb.open(str(directory), lib_version=1).close()
    with pytest.raises(StoreRefused, match=r"cannot open .*data\.mdb: .*not an LMDB file"):
        open_store(directory)


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    (directory / "data.mdb").write_bytes(b"garbage!" * 2048)
    with pytest.raises(StoreRefused, match=r"cannot open .*data\.mdb: "):
        open_store(directory)


def test_a_database_of_another_program_is_refused_and_left_alone(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    directory.mkdir()
    with lmdb.open(str(directory), max_dbs=2, lib_version=0) as other:
        with other.begin(write=True, db=other.open_db(b"mail")) as transaction:
            transaction.put(b"key", b"value")
    with pytest.raises(StoreRefused, match=r"data\.mdb is a database of another program"):
        open_store(directory)
    with lmdb.open(str(directory), max_dbs=2, lib_version=0) as other, other.begin() as reader:
        assert list(reader.cursor().iternext(values=False)) == [b"mail"]


def test_the_map_is_far_larger_than_the_file(tmp_path: Path) -> None:
    """Hazard 65: reserved once, never changed, and it costs no disk."""
    with Store.open(tmp_path / "data", tables=TABLES, runtime=tmp_path) as store:
        assert store.environment.lmdb.info()["map_size"] == MAP_SIZE_BYTES == 1 << 40
        used = (tmp_path / "data" / "data.mdb").stat().st_blocks * 512
        assert used < 1 << 20
        assert store.size_bytes() < 1 << 20


def test_more_readers_than_lmdb_has_by_default(tmp_path: Path) -> None:
    """Hazard 66: 126 slots are fewer than a busy node has readers."""
    with open_member(tmp_path / "data") as store, ExitStack() as readers:
        opened = [readers.enter_context(store.read()) for _ in range(300)]
        assert {reader.applied_index for reader in opened} == {1}


def test_too_many_readers_are_not_a_disk_error(tmp_path: Path) -> None:
    with open_member(tmp_path / "data") as store:
        with ExitStack() as readers:
            for _ in range(MAX_READERS):
                readers.enter_context(store.read())
            with pytest.raises(lmdb.ReadersFullError):
                readers.enter_context(store.read())
    assert not (tmp_path / "data" / "FENCED").exists()
