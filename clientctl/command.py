"""What every verb has in common: its global flags, its client, its output, its exit status.

Trio, gRPC and protobuf are imported only when a verb runs, so that `--help` and usage errors are instant.
"""

import functools
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, BinaryIO, Final, TypeVar

import click

from clientctl.settings import Settings, global_options, settings_of

if TYPE_CHECKING:
    from clientctl.client import Client

DONE: Final = 0
NEGATIVE: Final = 1
"""A key that is absent, a condition that is false."""
USAGE: Final = 2
NOT_DONE: Final = 3
UNKNOWN: Final = 4
NOT_SHOWN: Final = 5
"""Done, but standard output did not take the answer."""
INTERRUPTED: Final = 130
COMMAND_NOT_RUN: Final = 127
"""As a shell says it."""

_Value = TypeVar("_Value")
_Verb = Callable[..., int]


def verb(group: click.Group, name: str, **arguments: Any) -> Callable[[_Verb], click.Command]:
    """Make a function `(settings, **parameters) -> exit status` a command that also takes the global
    flags."""

    def decorate(function: _Verb) -> click.Command:
        @functools.wraps(function)
        def run(**parameters: Any) -> int:
            return function(settings_of(click.get_current_context()), **parameters)

        epilog = "The flags of `clientctl --help` may stand here as well."
        return group.command(name, epilog=epilog, **arguments)(global_options()(run))

    return decorate


def subgroup(name: str, about: str) -> click.Group:
    """A word that has verbs of its own. It takes the global flags too, so that they may stand anywhere."""
    epilog = "The flags of `clientctl --help` may stand here as well."
    return global_options()(click.Group(name, help=about, epilog=epilog, no_args_is_help=False))


class Interrupted(Exception):
    """The user pressed Ctrl-C; the text says what is known."""


def with_client(
    settings: Settings, operate: "Callable[[Client], Awaitable[_Value]]", *, writes: bool = False
) -> _Value:
    """Run `operate` with a client of these settings, in a Trio program of its own. Raises `Interrupted`."""
    import trio

    from clientctl.client import Client

    async def run() -> _Value:
        async with Client(
            settings.endpoints, timeout=settings.timeout, dial_timeout=settings.dial_timeout
        ) as client:
            return await operate(client)

    try:
        return trio.run(run)
    except BaseException as error:
        if not _is_interrupt(error):
            raise
        write_outcome = "outcome unknown: the write may or may not have happened"
        raise Interrupted(f"interrupted; {write_outcome if writes else 'nothing was changed'}") from None


async def until_signal(operate: "Callable[[], Awaitable[_Value]]") -> "_Value | None":
    """Run `operate` to its end, and return its value; or cancel it at SIGINT or SIGTERM, and return None."""
    import signal

    import trio

    value: _Value | None = None
    failure: Exception | None = None
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def wait() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(wait)
            try:
                value = await operate()
            except Exception as error:
                failure = error
            nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return value


async def run_command(command: "Sequence[str]", variables: dict[str, str]) -> "tuple[int, str]":
    """Run a command of the user's with our input and outputs; its exit status, and what is wrong with it."""
    import trio

    try:
        process = await trio.run_process(command, stdin=None, check=False, env={**os.environ, **variables})
    except OSError as error:
        return COMMAND_NOT_RUN, f"{command[0]}: {error.strerror}"
    if process.returncode < 0:
        return 128 - process.returncode, f"signal {-process.returncode}"
    return process.returncode, f"exit status {process.returncode}" if process.returncode else ""


def _is_interrupt(error: BaseException) -> bool:
    """Trio may deliver Ctrl-C to any of its tasks, and then wraps it."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(KeyboardInterrupt) is not None
    return isinstance(error, KeyboardInterrupt)


class NotShown(Exception):
    """What was asked for is done, but standard output does not take the answer.

    `text` is empty when whoever read it just wants no more.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


def write(data: bytes) -> None:
    """Put bytes on standard output as they are. Raises `NotShown`."""
    try:
        # None is a standard output that was closed before we started.
        if sys.stdout is None:
            raise NotShown("standard output is closed")
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except OSError as error:
        # What could not be written is not to be tried again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        broken_pipe = isinstance(error, BrokenPipeError)
        raise NotShown("" if broken_pipe else f"standard output: {error.strerror}") from None


def read_input(read: Callable[[BinaryIO], bytes]) -> bytes:
    """Read from standard input. Raises click's UsageError when that cannot be."""
    if sys.stdin is None:
        raise click.UsageError("standard input is closed")
    try:
        return read(sys.stdin.buffer)
    except OSError as error:
        raise click.UsageError(f"standard input: {error.strerror}") from None


def say(text: str) -> None:
    """Tell the user something that is not a value."""
    print(text, file=sys.stderr)


def say_error(text: str) -> None:
    """Say what went wrong; in red where a terminal shows it and NO_COLOR does not forbid it."""
    red = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    say(f"{click.style('Error:', fg='red') if red else 'Error:'} {text}")
