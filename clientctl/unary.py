"""One unary call for a client, on whatever connection there is: tried again only when that is safe."""

from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

import trio
from google.protobuf.descriptor import MethodDescriptor

from clientctl.config import DEADLINE_GRAIN_S, ClientLimits
from clientctl.errors import error_of_unary_write, never_sent, not_done
from clientctl.link import Link
from proto import errors
from proto.errors import Status

_Value = TypeVar("_Value")


class LinkSource(Protocol):
    """Gives connections, and is told how they did."""

    async def get(self) -> Link:
        """The connection; waits until there is one."""

    @property
    def hopeless(self) -> bool:
        """Whether there was no connection to any endpoint for as long as anybody would wait."""

    def failed(self, link: Link, error: Status) -> None:
        """A call on `link` failed for want of a connection or a server that serves."""

    def served(self) -> None:
        """A call was answered."""


async def call(
    source: LinkSource,
    limits: ClientLimits,
    method: MethodDescriptor,
    request: Any,
    deadline: float,
    *,
    is_read: bool,
) -> Any:
    """Call until `deadline` (Trio clock); again on the next connection if it changed nothing and the server
    was not there. Raises `NotDone` and, unless `is_read`, `OutcomeUnknown`."""

    def on(link: Link, remaining_s: float) -> Awaitable[Any]:
        return link.unary(method, request, timeout=remaining_s)

    return await attempt(source, limits, on, deadline, is_read=is_read)


async def attempt(
    source: LinkSource,
    limits: ClientLimits,
    operate: Callable[[Link, float], Awaitable[_Value]],
    deadline: float,
    *,
    is_read: bool,
) -> _Value:
    """As `call`, for anything that is done on a connection within some seconds."""
    pause_s = limits.redial_pause_min_s
    while True:
        link = None
        with trio.CancelScope(deadline=deadline):
            link = await source.get()
        if link is None or trio.current_time() >= deadline:
            raise not_done(*errors.TIMEOUT)
        try:
            return await _answer(source, link, operate, deadline)
        except Status as status:
            if status.code == errors.UNAVAILABLE and (is_read or never_sent(status)) and not source.hopeless:
                await trio.sleep(min(pause_s, max(0.0, deadline - trio.current_time())))
                pause_s = min(pause_s * 2, limits.redial_pause_max_s)
                continue
            raise (not_done(status.code, status.text) if is_read else error_of_unary_write(status)) from None


async def _answer(
    source: LinkSource, link: Link, operate: Callable[[Link, float], Awaitable[_Value]], deadline: float
) -> _Value:
    try:
        # What takes a deadline of its own keeps it, and says what became of the call.
        with trio.CancelScope(deadline=deadline + DEADLINE_GRAIN_S):
            answer = await operate(link, deadline - trio.current_time())
            source.served()
            return answer
        raise Status(errors.DEADLINE_EXCEEDED, "context deadline exceeded")
    except Status as status:
        if status.code == errors.UNAVAILABLE:
            source.failed(link, status)
        else:
            source.served()
        raise
