"""`make demo` does what it shows, and leaves nothing behind."""

import sys
from pathlib import Path

import pytest

from tests.processes.cluster import run

pytestmark = pytest.mark.processes


async def test_the_demonstration_ends_well_and_leaves_nothing(tmp_path: Path) -> None:
    """Without a terminal; its own assertion is that no acknowledged put is lost over the SIGKILL."""
    ended = await run(sys.executable, "-m", "bench", "demo", environ={"TMPDIR": str(tmp_path)})
    assert ended.status == 0, ended.stdout + ended.stderr
    assert "none is lost" in ended.stdout
    assert "errors that the writers saw: 0" in ended.stdout
    assert not list(tmp_path.iterdir())
    assert not [line for line in command_lines() if str(tmp_path).encode() in line]


def command_lines() -> list[bytes]:
    """Of all processes on this machine."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            lines.append(path.read_bytes())
        except OSError:
            continue  # it has just ended
    return lines
