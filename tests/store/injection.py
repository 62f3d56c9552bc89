"""Failing and killing a child process at a system call on its database file, with strace."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.store.directories import ROOT, child_command

needs_strace = pytest.mark.skipif(
    shutil.which("strace") is None, reason="needs strace: apt-get install strace"
)

SYSTEM_CALLS = ("writev", "pwrite64", "fdatasync")
"""A commit is: data pages by writev or pwrite64, fdatasync, the meta page by pwrite64 on an O_DSYNC
descriptor."""

CHILD_TIMEOUT_S = 60.0


def run_injected(
    directory: Path, system_call: str, what: str, nth: int, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """Run a child whose `nth` `system_call` on data.mdb gets `what` (`error=EIO`, `signal=KILL`). strace
    counts in each thread by itself: in a directory that exists already, only the writer's thread writes."""
    strace = [
        "strace", "-f", "-qq", "-o", str(directory.parent / "trace"),
        "-P", str(directory / "data.mdb"),
        "-e", f"trace={system_call}",
        "-e", f"inject={system_call}:{what}:when={nth}",
    ]  # fmt: skip
    return subprocess.run(
        [*strace, *child_command(directory, *arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=CHILD_TIMEOUT_S,
        check=False,
    )
