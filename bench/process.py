"""Processes on this machine: started in the shadow of this one, awaited and ended by pid.

It knows nothing of clusters. The launcher, the demonstration and the tests call it.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

_TETHER = str(Path(__file__).with_name("tether.py"))


def start(
    argv: Sequence[str],
    log: Path,
    *,
    environ: Mapping[str, str] | None = None,
    prefix: Sequence[str] = (),
) -> "subprocess.Popen[bytes]":
    """Start `argv` with both outputs appended to `log`; it dies with the calling thread, which must be a
    lasting one.

    That rules out `trio.run_process`, which forks on a pool thread that ends when idle; the fork itself takes
    about a millisecond. The process gets a group of its own, so that a Ctrl-C reaches only its parent, who
    stops it in order. `prefix` is a program that becomes `argv` while keeping the pid (`strace -D`).

    Raises OSError when the log cannot be written.
    """
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", _TETHER, str(os.getpid()), *prefix, *argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environ,
            process_group=0,
        )


async def wait(process: "subprocess.Popen[bytes]") -> int:
    """Wait for a child; its exit status, negative for a signal."""
    if process.returncode is None:
        # A pidfd becomes readable when the process ends: no thread, no polling.
        descriptor = os.pidfd_open(process.pid)
        try:
            await trio.lowlevel.wait_readable(descriptor)
        finally:
            os.close(descriptor)
    return process.wait()


async def stop(process: "subprocess.Popen[bytes]", timeout_s: float) -> int:
    """SIGTERM, and SIGKILL after `timeout_s`; the exit status. An end that was begun is finished."""
    with trio.CancelScope(shield=True):
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            with trio.move_on_after(timeout_s):
                await wait(process)
        if process.poll() is None:
            process.kill()
            await wait(process)
    return process.wait()


async def stop_stranger(pid: int, argv: Sequence[str], timeout_s: float) -> bool:
    """Stop a process that is not our child, if `pid` still is the process that `argv` started; whether that
    took a SIGKILL."""
    with trio.CancelScope(shield=True):
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            return False
        try:
            if not _runs(pid, argv):
                return False
            signal.pidfd_send_signal(descriptor, signal.SIGTERM)
            with trio.move_on_after(timeout_s):
                await trio.lowlevel.wait_readable(descriptor)
                return False
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            await trio.lowlevel.wait_readable(descriptor)
        except ProcessLookupError:
            return False
        finally:
            os.close(descriptor)
    return True


def _runs(pid: int, argv: Sequence[str]) -> bool:
    try:
        command_line = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return command_line == b"".join(os.fsencode(argument) + b"\0" for argument in argv)


def how_it_ended(status: int) -> str:
    """An exit status in words: `ended with status 3`, `was killed by SIGKILL`."""
    if status < 0:
        return f"was killed by {signal.Signals(-status).name}"
    return f"ended with status {status}"
