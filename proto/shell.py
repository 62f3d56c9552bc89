"""The process around a daemon's Trio program: options, logs, signals, systemd, exit status.

Used by the entry modules of raftd and proxyd and by nothing else. An entry module begins so, because
proto-plus installs a package `proto` as well, and where it stands in place of ours nothing else can be
imported:

    try:
        from proto import shell
    except ImportError as error:
        sys.exit(f"raftd: {error}. If that is proto-plus, give raftd a virtual environment of its own.")
"""

import gc
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from importlib import metadata
from typing import Any, Final, TypeVar

import structlog
import trio

from proto.configuration import Answered, Configuration, ConfigurationError, changed, load
from proto.logs import set_up_logging

EXIT_OK: Final = 0
EXIT_FAILURE: Final = 1
EXIT_USAGE: Final = 2
EXIT_STORAGE_REFUSED: Final = 3
EXIT_FENCED: Final = 4

SHUTDOWN_S: Final = 5.0
"""A program that has not ended so long after the first signal is cancelled."""

HURRY_S: Final = 1.0
"""After a second signal it has at most so long: a program that is about to end in order may do so."""

SWITCH_INTERVAL_S: Final = 0.0002
"""How long one thread may hold the GIL while another wants it. Python's 5 ms would be the latency of every
hop between the Trio, the grpc and the writer thread beside a thread that computes (median of a call 0.71 →
0.45 ms)."""

GC_THRESHOLDS: Final = (5_000, 5, 40)
"""Full collections a fifteenth as often as by Python's own (700, 10, 10): with 1,000 open streams each one
holds up every thread, heartbeats included, for some 0.1 s, and finds a few dozen objects."""

_STOP_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)
_SYSTEMD_SOCKET: Final = "NOTIFY_SOCKET"
_DISTRIBUTION: Final = "raftd"

_C = TypeVar("_C", bound=Configuration)


class Shell:
    """What a program may ask of the process it runs in."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.shutdown_requested = trio.Event()
        """Set by the first SIGTERM or SIGINT: hand over, drain and return within `SHUTDOWN_S`."""
        self.hurried = False
        """Set by the second: `HURRY_S` are left."""
        self._address = environ.get(_SYSTEMD_SOCKET, "")
        self._watchdog_interval_s = _watchdog_interval_s(environ)
        self._next_sign_of_life_s = 0.0

    def ready(self) -> None:
        """Tell systemd that the program serves."""
        self._notify("READY=1")

    def status(self, line: str) -> None:
        """Tell systemd what `systemctl status` shows, for example "follower term 7"."""
        self._notify(f"STATUS={line}")

    def stopping(self) -> None:
        self._notify("STOPPING=1")

    def alive(self) -> None:
        """Satisfy systemd's watchdog, if there is one. Cheap; call it from the task whose halt would be
        fatal."""
        if self._watchdog_interval_s is not None and trio.current_time() >= self._next_sign_of_life_s:
            self._next_sign_of_life_s = trio.current_time() + self._watchdog_interval_s
            self._notify("WATCHDOG=1")

    def _notify(self, message: str) -> None:
        if not self._address:
            return
        # "@" stands for the zero byte of an abstract socket's name.
        name = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as to_systemd:
                to_systemd.setblocking(False)
                to_systemd.sendto(message.encode(), name)
        except OSError as error:
            structlog.get_logger().warning("cannot notify systemd", message=message, error=str(error))


def run(
    kind: type[_C],
    program: str,
    about: str,
    main: Callable[[_C, Shell], Awaitable[int]],
    *,
    exit_statuses: Mapping[type[Exception], int] | None = None,
    arguments: Sequence[str] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> int:
    """Run `main(configuration, shell)` on Trio until it returns its exit status, and return that.

    `exit_statuses` are the errors whose text alone explains them, and their exit status; `ConfigurationError`
    and OSError are among them already. Any other exception is logged with its traceback.
    """
    if not __debug__:
        return _complain(
            program, "python -O removes the checks that guard the data; run without it", EXIT_USAGE
        )
    try:
        given = sys.argv[1:] if arguments is None else arguments
        configuration = load(kind, program, metadata.version(_DISTRIBUTION), about, given, environ)
    except Answered as answer:
        print(answer)
        return EXIT_OK
    except ConfigurationError as error:
        return _complain(program, str(error), EXIT_USAGE)
    set_up_logging(configuration.log_level)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    gc.set_threshold(*GC_THRESHOLDS)
    gc.freeze()  # what has been imported stays
    structlog.get_logger().info("starting", program=program, pid=os.getpid(), **changed(configuration))
    known: dict[type[Exception], int] = {ConfigurationError: EXIT_USAGE, OSError: EXIT_FAILURE}
    known.update(exit_statuses or {})
    shell = Shell(environ)
    _ignore_signals_that_come_late(shell)
    try:
        status = trio.run(_supervise, main, configuration, shell)
    except Exception as error:
        status = _explain(program, error, known)
    if shell.shutdown_requested.is_set():
        # The interpreter's own end resets handlers that are functions.
        for number in _STOP_SIGNALS:
            signal.signal(number, signal.SIG_IGN)
    structlog.get_logger().info("stopped", program=program, status=status)
    return status


def _ignore_signals_that_come_late(shell: Shell) -> None:
    """What holds before Trio receives signals, the default, and after: an end in order stays one."""

    def obey(number: int, frame: object) -> None:
        if not shell.shutdown_requested.is_set():
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)

    for number in _STOP_SIGNALS:
        signal.signal(number, obey)


async def _supervise(main: Callable[[Any, Shell], Awaitable[int]], configuration: Any, shell: Shell) -> int:
    status, scope = EXIT_FAILURE, trio.CancelScope()
    async with trio.open_nursery() as nursery:
        # Outside the scope, so that signals are still obeyed when what it cancels does not end.
        await nursery.start(_obey_signals, shell, scope)
        with scope:
            status = await main(configuration, shell)
        nursery.cancel_scope.cancel()
    if scope.cancelled_caught:
        after, bound_s = ("a second signal", HURRY_S) if shell.hurried else ("a signal", SHUTDOWN_S)
        structlog.get_logger().error(
            "cut off: what was under way is not finished", after=after, bound_s=bound_s
        )
    return status


async def _obey_signals(
    shell: Shell, scope: trio.CancelScope, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
) -> None:
    """The first signal asks, the second hurries, the third kills."""
    with trio.open_signal_receiver(*_STOP_SIGNALS) as signals:
        task_status.started()
        async for number in signals:
            name = signal.Signals(number).name
            if not shell.shutdown_requested.is_set():
                structlog.get_logger().info("stopping", signal=name)
                shell.stopping()
                scope.deadline = trio.current_time() + SHUTDOWN_S
                shell.shutdown_requested.set()
            elif not shell.hurried:
                structlog.get_logger().warning("told again to stop", signal=name, bound_s=HURRY_S)
                shell.hurried = True
                scope.deadline = min(scope.deadline, trio.current_time() + HURRY_S)
            else:
                structlog.get_logger().error("killed by a third signal", signal=name, status=EXIT_FAILURE)
                os._exit(EXIT_FAILURE)


def _leaves(error: BaseException) -> Iterator[BaseException]:
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from _leaves(inner)
    else:
        yield error


def _explain(program: str, error: Exception, known: Mapping[type[Exception], int]) -> int:
    """Print what went wrong, one line for each error that speaks for itself; the gravest decides the
    status."""
    statuses = []
    for leaf in _leaves(error):
        kinds = [kind for kind in type(leaf).__mro__ if kind in known]
        if not kinds:
            structlog.get_logger().critical("unexpected error", exc_info=error)
            return _complain(program, f"unexpected {type(leaf).__name__}: {leaf}", EXIT_FAILURE)
        statuses.append(_complain(program, str(leaf), known[kinds[0]]))
    return max(statuses)


def _complain(program: str, problem: str, status: int) -> int:
    print(f"{program}: {' '.join(problem.split())}", file=sys.stderr)
    return status


def _watchdog_interval_s(environ: Mapping[str, str]) -> float | None:
    """Half of what systemd allows between two signs of life."""
    allowed_us, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not allowed_us.isdecimal() or int(allowed_us) == 0 or pid not in ("", str(os.getpid())):
        return None
    return int(allowed_us) / 2_000_000
