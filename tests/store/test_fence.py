"""The first storage error ends the member, and it stays ended until the reboot (hazards 61-64)."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from raftd.store import Completion, Fenced, Store
from raftd.store.fence import FenceMark, boot_id, runtime_directory
from tests.store.directories import TABLES, entry, open_member, open_store, writing
from tests.store.injection import SYSTEM_CALLS, needs_strace, run_injected

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: run as root")
EARLIER_BOOT = "00000000-0000-4000-8000-000000000000"


def refusal(directory: Path) -> str:
    """The one line with which a fenced directory refuses to open."""
    with pytest.raises(Fenced) as info:
        open_store(directory)
    assert info.value.exit_status == 4
    assert "\n" not in info.value.text
    return info.value.text


@needs_strace
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
@pytest.mark.parametrize("system_call", SYSTEM_CALLS)
def test_an_error_of_the_disk_fences(tmp_path: Path, system_call: str, error: str) -> None:
    """Hazards 61, 62, 64: nothing is acknowledged after it, though LMDB would report success again."""
    directory = tmp_path / "data"
    with open_member(directory):
        pass
    failed = run_injected(directory, system_call, f"error={error}", 2, "write", "20")
    assert failed.returncode == 4, failed
    text = failed.stdout.splitlines()[-1]
    assert f"data directory {directory} is fenced by a storage error" in text
    assert f"marked by {directory / 'FENCED'}" in text
    assert "durable 20" not in failed.stdout
    again = refusal(directory)
    assert f"data directory {directory} is fenced since a storage error" in again
    assert "check the disk and reboot this machine, or go on without this member" in again
    assert str(directory / "FENCED") in again


@needs_strace
def test_readers_are_refused_when_lmdb_has_panicked(tmp_path: Path) -> None:
    """Hazard 62: after a failed write of the meta page LMDB fails reads as well."""
    directory = tmp_path / "data"
    with open_member(directory):
        pass
    # With pages this large the data goes by writev, and the first pwrite64 of the thread is the meta page.
    failed = run_injected(directory, "pwrite64", "error=EIO", 1, "write", "1")
    assert failed.returncode == 4, failed
    assert "readers refused" in failed.stdout


def test_the_writer_reports_the_fence_last(tmp_path: Path) -> None:
    """Hazard 65: a full map is as final as a full disk; the jobs after it are dropped, not acknowledged."""
    directory = tmp_path / "data"
    with open_member(directory):
        pass
    with Store.open(directory, tables=TABLES, map_size=1 << 20, runtime=tmp_path) as store:
        with writing(store) as writer:
            writer.submit(entries=[entry(2, b"small=1")])
            assert [type(report) for report in writer.next_reports()] == [Completion]
            writer.submit(entries=[entry(3, b"x" * (1 << 21))])
            (fenced,) = writer.next_reports()
            assert isinstance(fenced, Fenced)
            assert "MDB_MAP_FULL" in fenced.text
            writer.submit(entries=[entry(3, b"small=2")])
        assert writer.reports.empty()
    assert "MDB_MAP_FULL" in refusal(directory)


def test_the_mark_does_not_outlive_the_boot(tmp_path: Path) -> None:
    """After a reboot only what is on the disk is left to read (hazard 63)."""
    directory = tmp_path / "data"
    with open_member(directory):
        pass
    mark = directory / "FENCED"
    mark.write_text(f"{boot_id()}\nerror\n")
    assert "(error)" in refusal(directory)
    mark.write_text(f"{EARLIER_BOOT}\nerror\n")
    with open_member(directory):
        assert not mark.exists()


def test_a_mark_is_one_line_whatever_the_reason(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with open_store(directory):
        pass
    assert FenceMark(directory, tmp_path).write("many\nlines " * 1000) == directory / "FENCED"
    assert "(many lines many lines" in refusal(directory)


def test_a_directory_that_takes_no_mark_is_marked_elsewhere(tmp_path: Path) -> None:
    directory, runtime = tmp_path / "data", tmp_path / "data-runtime"
    with open_store(directory):
        pass
    (directory / "FENCED").mkdir()
    place = FenceMark(directory, runtime).write("error")
    (directory / "FENCED").rmdir()
    assert place is not None
    assert place.parent == runtime
    assert str(place) in refusal(directory)
    with open_store(tmp_path / "other"):
        pass
    place.write_text(f"{EARLIER_BOOT}\nerror\n")
    with open_store(directory):
        assert not place.exists()


def test_no_place_for_a_mark_is_said(tmp_path: Path) -> None:
    directory = tmp_path / "data"
    with open_store(directory):
        pass
    (directory / "FENCED").mkdir()
    assert FenceMark(directory, tmp_path / "absent").write("error") is None


def test_a_link_in_the_runtime_directory_is_not_followed(tmp_path: Path) -> None:
    """It may be a directory that everybody writes to."""
    directory, runtime, victim = tmp_path / "data", tmp_path / "data-runtime", tmp_path / "victim"
    with open_store(directory):
        pass
    (directory / "FENCED").mkdir()
    place = FenceMark(directory, runtime).write("error")
    (directory / "FENCED").rmdir()
    assert place is not None
    victim.write_text(place.read_text())
    place.unlink()
    place.symlink_to(victim)
    with open_store(directory):
        pass
    assert victim.exists()


def test_the_runtime_directory_is_the_service_managers(tmp_path: Path) -> None:
    assert runtime_directory({"RUNTIME_DIRECTORY": "/run/raftd:/run/other"}) == Path("/run/raftd")
    assert runtime_directory({"XDG_RUNTIME_DIR": "/run/user/7"}) == Path("/run/user/7")
    assert runtime_directory({}).is_dir()


@pytest.fixture
def small_file_system(tmp_path: Path) -> Iterator[Path]:
    mount_point = tmp_path / "small"
    mount_point.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m,mode=700", "tmpfs", str(mount_point)], check=False
    )
    if mounted.returncode != 0:
        pytest.skip("needs the right to mount a tmpfs")
    try:
        yield mount_point
    finally:
        subprocess.run(["umount", str(mount_point)], check=True)


@pytest.mark.root
@needs_root
def test_a_full_disk_fences(small_file_system: Path, tmp_path: Path) -> None:
    """Hazard 64: ENOSPC at the commit; the mark may have to go elsewhere."""
    directory = small_file_system / "data"
    with Store.open(directory, tables=TABLES, runtime=tmp_path) as store, writing(store) as writer:
        reports: list[object] = []
        for index in range(1, 100):
            writer.submit(entries=[entry(index, b"x" * 50_000)])
            reports += writer.next_reports()
            if isinstance(reports[-1], Fenced):
                break
        assert isinstance(reports[-1], Fenced)
        assert "bytes free on its file system" in reports[-1].text
        assert len(reports) > 1
    with pytest.raises(Fenced, match="bytes free on its file system"):
        Store.open(directory, tables=TABLES, runtime=tmp_path)
