"""`bench disk`: how long a directory's disk takes for what a write has to wait for.

Two figures: an append with fdatasync, as etcd's log does it, and a commit of one small LMDB transaction with
full sync, as raftd does it (which is data, fdatasync, and one more synchronous write for the meta page).
Printed beside every result, because it explains it.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import click
import lmdb

from bench.config import DISK_SECONDS_MAX, DISK_WRITE_BYTES, DISK_WRITES
from bench.statistics import milliseconds, percentile


class DiskRefused(Exception):
    """The directory cannot be measured; the text is one line for the user."""


@dataclass(frozen=True, slots=True)
class DiskFigures:
    """Latencies in milliseconds. `writes`: how many there are of each kind, at most."""

    directory: str
    writes: int
    fdatasync_p50_ms: float
    fdatasync_p99_ms: float
    lmdb_commit_p50_ms: float
    lmdb_commit_p99_ms: float

    def line(self) -> str:
        return (
            f"disk of {self.directory}: fdatasync p50 {self.fdatasync_p50_ms:.2f} ms, "
            f"p99 {self.fdatasync_p99_ms:.2f} ms; "
            f"LMDB commit p50 {self.lmdb_commit_p50_ms:.2f} ms, p99 {self.lmdb_commit_p99_ms:.2f} ms"
        )


def measure(
    directory: Path, *, writes: int = DISK_WRITES, seconds_max: float = DISK_SECONDS_MAX
) -> DiskFigures:
    """Measure the disk under `directory`, in a directory of its own that is removed. Raises DiskRefused."""
    try:
        with tempfile.TemporaryDirectory(prefix=".bench-disk-", dir=directory) as scratch:
            appends = _appends(Path(scratch) / "appended", writes, seconds_max)
            commits = _commits(Path(scratch) / "lmdb", writes, seconds_max)
    except OSError as error:
        raise DiskRefused(f"cannot measure {directory}: {error.strerror or error}") from None
    except lmdb.Error as error:
        raise DiskRefused(f"cannot measure {directory}: {error}") from None
    return DiskFigures(
        directory=str(directory),
        writes=min(len(appends), len(commits)),
        fdatasync_p50_ms=milliseconds(percentile(appends, 0.5)),
        fdatasync_p99_ms=milliseconds(percentile(appends, 0.99)),
        lmdb_commit_p50_ms=milliseconds(percentile(commits, 0.5)),
        lmdb_commit_p99_ms=milliseconds(percentile(commits, 0.99)),
    )


def _appends(path: Path, writes: int, seconds_max: float) -> list[int]:
    block = os.urandom(DISK_WRITE_BYTES)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:

        def append() -> None:
            os.write(descriptor, block)
            os.fdatasync(descriptor)

        return _timed(append, writes, seconds_max)
    finally:
        os.close(descriptor)


def _commits(path: Path, writes: int, seconds_max: float) -> list[int]:
    block = os.urandom(DISK_WRITE_BYTES)
    environment = lmdb.open(str(path), map_size=1 << 28, lib_version=0, sync=True, metasync=True)
    try:
        number = 0

        def commit() -> None:
            nonlocal number
            number += 1
            with environment.begin(write=True) as transaction:
                transaction.put(number.to_bytes(8, "big"), block)

        return _timed(commit, writes, seconds_max)
    finally:
        environment.close()


def _timed(operation: Callable[[], None], times: int, seconds_max: float) -> list[int]:
    """Ascending, in nanoseconds. The first one, which allocates, is not counted."""
    operation()
    samples: list[int] = []
    limit = time.monotonic_ns() + int(seconds_max * 1e9)
    while not samples or (len(samples) < times and time.monotonic_ns() < limit):
        before = time.monotonic_ns()
        operation()
        samples.append(time.monotonic_ns() - before)
    return sorted(samples)


@click.command()
@click.argument("directory", type=click.Path(file_okay=False, exists=True, path_type=Path), default=".")
@click.option("--writes", type=click.IntRange(1, 1_000_000), default=1000, show_default=True)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def disk(directory: Path, writes: int, as_json: bool) -> None:
    """How long fdatasync and an LMDB commit take in DIRECTORY [the current one]."""
    try:
        figures = measure(directory.absolute(), writes=writes, seconds_max=60.0)
    except DiskRefused as refused:
        raise click.ClickException(str(refused)) from None
    click.echo(
        json.dumps(asdict(figures), indent=2) if as_json else f"{figures.line()} ({figures.writes} writes)"
    )
