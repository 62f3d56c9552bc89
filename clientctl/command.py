"""What every verb has in common: its global flags, its client, its output, its exit status.

Trio, gRPC and protobuf are imported only when a verb runs, so that `--help` and usage errors are instant.
"""

import functools
import os
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from clientctl.settings import Settings, global_options, settings_of

if TYPE_CHECKING:
    from clientctl.client import Client

DONE: Final = 0
NEGATIVE: Final = 1
"""A key that is absent, a condition that is false, a server that is not healthy."""
USAGE: Final = 2
NOT_DONE: Final = 3
UNKNOWN: Final = 4
INTERRUPTED: Final = 130

_Value = TypeVar("_Value")
_Verb = Callable[..., int]


def verb(group: click.Group, name: str, **arguments: Any) -> Callable[[_Verb], click.Command]:
    """Make a function `(settings, **parameters) -> exit status` a command that also takes the global
    flags."""

    def decorate(function: _Verb) -> click.Command:
        @functools.wraps(function)
        def run(**parameters: Any) -> int:
            return function(settings_of(click.get_current_context()), **parameters)

        return group.command(name, **arguments)(global_options()(run))

    return decorate


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


def _is_interrupt(error: BaseException) -> bool:
    """Trio may deliver Ctrl-C to any of its tasks, and then wraps it."""
    if isinstance(error, BaseExceptionGroup):
        return error.subgroup(KeyboardInterrupt) is not None
    return isinstance(error, KeyboardInterrupt)


def write(data: bytes) -> None:
    """Put bytes on standard output as they are."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def say(text: str) -> None:
    """Tell the user something that is not a value."""
    print(text, file=sys.stderr)


def say_error(text: str) -> None:
    """Say what went wrong; in red where a terminal shows it and NO_COLOR does not forbid it."""
    red = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    say(f"{click.style('Error:', fg='red') if red else 'Error:'} {text}")
