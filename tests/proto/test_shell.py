"""The process shell, as real processes: signals, exit statuses, systemd, logs, and strange environments."""

import json
import os
import pty
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

ROOT = Path(__file__).parent.parent.parent
BOUND_S = 30

PROGRAM = """
import sys
try:
    from proto import shell
except ImportError as error:
    sys.exit(f"demo: {error}. If that is proto-plus, give demo a virtual environment of its own.")

import structlog
import trio
from dataclasses import dataclass, field
from proto.configuration import Configuration, choice, option

DEEDS = ("serve", "return", "fail", "refuse", "group", "bug", "stick", "shield", "drain", "linger")

class Refused(Exception):
    pass

@dataclass(frozen=True, kw_only=True)
class Demo(Configuration):
    deed: str = field(default="serve", metadata=option("deed", choice(*DEEDS), "What to do."))

async def main(configuration, shell_of_it):
    log = structlog.get_logger()
    log.debug("details")
    match configuration.deed:
        case "return":
            return 7
        case "fail":
            open("/nonexistent")
        case "refuse":
            raise Refused("data of another\\nnode")
        case "group":
            async with trio.open_nursery():
                raise Refused("data of another node")
        case "bug":
            raise KeyError("surprise")
        case "stick":
            log.info("serving")
            await trio.sleep_forever()
        case "drain":
            log.info("serving")
            await shell_of_it.shutdown_requested.wait()
            await trio.lowlevel.wait_readable(0)
            log.info("drained")
            return shell.EXIT_OK
        case "linger":
            log.info("serving")
            await shell_of_it.shutdown_requested.wait()
            return shell.EXIT_OK
        case "shield":
            log.info("serving")
            with trio.CancelScope(shield=True):
                await trio.sleep_forever()
    shell_of_it.ready()
    shell_of_it.status("follower term 7")
    shell_of_it.alive()
    shell_of_it.alive()
    log.info("serving")
    await shell_of_it.shutdown_requested.wait()
    log.info("drained")
    return shell.EXIT_OK

status = shell.run(Demo, "demo", "A demonstration.", main, exit_statuses={Refused:
shell.EXIT_STORAGE_REFUSED})
if "linger" in sys.argv:
    sys.stdin.read()
sys.exit(status)
"""


@pytest.fixture(scope="module")
def program() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "demo.py"
        path.write_text(PROGRAM)
        yield path


def run(
    program: Path, *arguments: str, python: tuple[str, ...] = (), **environ: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *python, str(program), *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
        capture_output=True,
        text=True,
        timeout=BOUND_S,
        check=False,
    )


class Running:
    """A process whose log lines are waited for."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.lines: list[dict[str, object]] = []
        self._rest = b""

    async def logged(self, event: str) -> None:
        assert self.process.stderr is not None
        while not any(line["event"] == event for line in self.lines):
            received = await self.process.stderr.receive_some()
            assert received, f"ended without logging {event!r}: {self.lines}"
            *whole, self._rest = (self._rest + received).split(b"\n")
            self.lines += [json.loads(line) for line in whole]


@asynccontextmanager
async def running(program: Path, *arguments: str, **environ: str) -> AsyncIterator[Running]:
    with trio.fail_after(BOUND_S):
        process = await trio.lowlevel.open_process(
            [sys.executable, "-W", "error", str(program), *arguments],
            env={**os.environ, "PYTHONPATH": str(ROOT), **environ},
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            yield Running(process)
        finally:
            if process.returncode is None:
                process.kill()
            with trio.CancelScope(shield=True):
                await process.wait()
                assert process.stdin is not None
                await process.stdin.aclose()
                assert process.stderr is not None
                await process.stderr.aclose()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_lets_the_program_drain_and_exit_0(program: Path, number: signal.Signals) -> None:
    async with running(program) as it:
        await it.logged("serving")
        it.process.send_signal(number)
        await it.logged("stopped")
        assert await it.process.wait() == 0
        assert [line["event"] for line in it.lines] == [
            *("starting", "serving", "stopping", "drained", "stopped")
        ]
        assert it.lines[2]["signal"] == number.name


async def test_a_second_signal_does_not_make_an_orderly_end_a_failure(program: Path) -> None:
    async with running(program, "--deed", "drain") as it:
        await it.logged("serving")
        it.process.send_signal(signal.SIGTERM)
        await it.logged("stopping")
        it.process.send_signal(signal.SIGTERM)
        await it.logged("told again to stop")
        assert it.process.stdin is not None
        await it.process.stdin.aclose()
        await it.logged("stopped")
        assert await it.process.wait() == 0
        assert [line["event"] for line in it.lines[-2:]] == ["drained", "stopped"]


async def test_a_second_signal_after_an_orderly_end_changes_nothing(program: Path) -> None:
    async with running(program, "--deed", "linger") as it:
        await it.logged("serving")
        it.process.send_signal(signal.SIGTERM)
        await it.logged("stopped")
        it.process.send_signal(signal.SIGTERM)
        it.process.send_signal(signal.SIGINT)
        assert it.process.stdin is not None
        await it.process.stdin.aclose()
        assert await it.process.wait() == 0


async def test_a_second_signal_cuts_off_what_does_not_end(program: Path) -> None:
    async with running(program, "--deed", "stick") as it:
        await it.logged("serving")
        it.process.send_signal(signal.SIGTERM)
        await it.logged("stopping")
        it.process.send_signal(signal.SIGTERM)
        await it.logged("stopped")
        assert await it.process.wait() == 1
        cut_off = it.lines[-2]
        assert cut_off["event"] == "cut off: what was under way is not finished"
        assert cut_off["after"] == "a second signal"


async def test_a_third_signal_kills_what_cannot_be_cancelled(program: Path) -> None:
    async with running(program, "--deed", "shield") as it:
        await it.logged("serving")
        it.process.send_signal(signal.SIGINT)
        await it.logged("stopping")
        it.process.send_signal(signal.SIGINT)
        await it.logged("told again to stop")
        it.process.send_signal(signal.SIGINT)
        await it.logged("killed by a third signal")
        assert await it.process.wait() == 1


@pytest.mark.parametrize(
    ("deed", "status", "line"),
    [
        ("return", 7, ""),
        ("fail", 1, "demo: [Errno 2] No such file or directory: '/nonexistent'"),
        ("refuse", 3, "demo: data of another node"),
        ("group", 3, "demo: data of another node"),
        ("bug", 1, "demo: unexpected KeyError: 'surprise'"),
    ],
)
def test_the_exit_status_and_one_line_say_how_it_ended(
    program: Path, deed: str, status: int, line: str
) -> None:
    ended = run(program, "--deed", deed)
    assert ended.returncode == status
    plain = [it for it in ended.stderr.splitlines() if not it.startswith("{")]
    assert plain == ([line] if line else [])
    logged = [json.loads(it) for it in ended.stderr.splitlines() if it.startswith("{")]
    assert logged[-1]["status"] == status
    tracebacks = [it for it in logged if "Traceback" in it.get("exception", "")]
    assert len(tracebacks) == (deed == "bug")


def test_wrong_options_end_it_before_it_begins(program: Path) -> None:
    ended = run(program, "--deed", "nothing")
    assert (ended.returncode, ended.stdout) == (2, "")
    [line] = ended.stderr.splitlines()
    assert line.startswith("demo: --deed must be one of serve, ")


def test_help_and_version_go_to_standard_output(program: Path) -> None:
    ended = run(program, "--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("Usage: demo [--FLAG VALUE]...\n")
    ended = run(program, "--version")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("demo 0.")


def test_it_refuses_to_run_without_assertions(program: Path) -> None:
    ended = run(program, python=("-O",))
    assert ended.returncode == 2
    assert ended.stderr == "demo: python -O removes the checks that guard the data; run without it\n"


def test_proto_plus_in_place_of_our_proto_is_named_in_one_line(program: Path, tmp_path: Path) -> None:
    """proto-plus installs a package `proto` as well; where it comes first, ours cannot be imported."""
    other = tmp_path / "proto" / "__init__.py"
    other.parent.mkdir()
    other.write_text("class Message: pass\n")
    # An editable installation finds submodules of ours in any package of that name; a wheel does not.
    installed = "import sys\nsys.meta_path = [it for it in sys.meta_path if 'Editable' not in repr(it)]\n"
    demo = tmp_path / "demo.py"
    demo.write_text(installed + program.read_text())
    ended = run(demo, PYTHONPATH=f"{tmp_path}:{ROOT}")
    assert ended.returncode == 1
    [line] = ended.stderr.splitlines()
    assert line == (
        f"demo: cannot import name 'shell' from 'proto' ({other}). "
        "If that is proto-plus, give demo a virtual environment of its own."
    )


@pytest.mark.parametrize("abstract", [False, True])
async def test_systemd_is_told(program: Path, abstract: bool) -> None:
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd,
        tempfile.TemporaryDirectory() as directory,
    ):
        if abstract:
            systemd.bind(f"\0raftd-test-{os.getpid()}")
            address = f"@raftd-test-{os.getpid()}"
        else:
            address = f"{directory}/notify"
            systemd.bind(address)
        systemd.setblocking(False)
        async with running(program, NOTIFY_SOCKET=address, WATCHDOG_USEC="60000000") as it:
            await it.logged("serving")
            it.process.send_signal(signal.SIGTERM)
            await it.logged("stopped")
            assert await it.process.wait() == 0
        told: list[str] = []
        while len(told) < 4:
            told.append(systemd.recv(1024).decode())
        # Two signs of life were given, at once: the second was not due.
        assert told == ["READY=1", "STATUS=follower term 7", "WATCHDOG=1", "STOPPING=1"]
        with pytest.raises(BlockingIOError):
            systemd.recv(1024)


async def test_a_dead_notify_socket_is_reported_and_survived(program: Path) -> None:
    async with running(program, NOTIFY_SOCKET="/nonexistent/notify") as it:
        await it.logged("serving")
        assert "cannot notify systemd" in {line["event"] for line in it.lines}
        it.process.send_signal(signal.SIGTERM)
        assert await it.process.wait() == 0


def test_logs_are_json_lines_with_time_and_level(program: Path) -> None:
    ended = run(program, "--deed", "return", "--log-level", "debug")
    lines = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [(line["level"], line["event"]) for line in lines] == [
        *(("info", "starting"), ("debug", "details"), ("info", "stopped"))
    ]
    assert lines[0]["deed"] == "return"
    assert all(line["timestamp"].endswith("Z") for line in lines)
    ended = run(program, "--deed", "return", "--log-level", "warning")
    assert ended.stderr == ""


@pytest.mark.parametrize("no_color", ["", "1"])
def test_logs_are_coloured_on_a_terminal_unless_told_not_to_be(program: Path, no_color: str) -> None:
    ours, theirs = pty.openpty()
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        with os.fdopen(theirs, "wb") as far_end:
            subprocess.run(
                [sys.executable, str(program), "--deed", "return"],
                env={**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": no_color},
                stderr=far_end,
                timeout=BOUND_S,
                check=False,
            )
        shown = terminal.read(65536).decode()
    assert "starting" in shown
    assert ("\x1b[" in shown) == (not no_color)
