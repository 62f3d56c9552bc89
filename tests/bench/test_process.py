"""Processes are started in the shadow of their parent and ended by pid."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import trio

from bench import process

BOUND_S = 30.0

SLEEP = "import signal; print('up', flush=True); signal.pause()"

STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {SLEEP}"

PARENT = f"""
import signal, sys
from pathlib import Path
from bench import process
child = process.start([sys.executable, "-c", {SLEEP!r}], Path(sys.argv[1]))
print(child.pid, flush=True)
signal.pause()
"""


async def until_text(path: Path, text: str) -> None:
    with trio.fail_after(BOUND_S):
        while text not in path.read_text():
            await trio.sleep(0.01)


async def until_gone(pid: int) -> None:
    with trio.fail_after(BOUND_S):
        descriptor = os.pidfd_open(pid)
        try:
            await trio.lowlevel.wait_readable(descriptor)
        finally:
            os.close(descriptor)


async def test_a_child_dies_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(log)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        await until_text(log, "up")
        parent.kill()
        await until_gone(child)


async def test_a_stubborn_process_is_killed_after_the_bound(tmp_path: Path) -> None:
    child = process.start([sys.executable, "-c", STUBBORN], tmp_path / "log")
    await until_text(tmp_path / "log", "up")
    assert await process.stop(child, timeout_s=0.1) == -signal.SIGKILL


async def test_a_process_that_obeys_is_not_killed(tmp_path: Path) -> None:
    child = process.start([sys.executable, "-c", SLEEP], tmp_path / "log")
    await until_text(tmp_path / "log", "up")
    assert await process.stop(child, timeout_s=BOUND_S) == -signal.SIGTERM


async def test_a_stranger_is_stopped_only_when_the_pid_still_is_the_same_program(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", STUBBORN]
    child = process.start(argv, tmp_path / "log")
    await until_text(tmp_path / "log", "up")
    assert not await process.stop_stranger(child.pid, ["/bin/something", "else"], timeout_s=0.1)
    assert child.poll() is None
    assert await process.stop_stranger(child.pid, argv, timeout_s=0.1)
    assert await process.wait(child) == -signal.SIGKILL
    assert not await process.stop_stranger(child.pid, argv, timeout_s=0.1)


def test_an_end_is_told_in_words() -> None:
    assert process.how_it_ended(-signal.SIGKILL) == "was killed by SIGKILL"
    assert process.how_it_ended(3) == "ended with status 3"
