"""One replicated session on a pipeline: registers when first needed, numbers commands, keeps the window.

It does not know which server the pipeline talks to. `clientctl.client` has one for its writes; proxyd has
some of its own for clients that know nothing of sessions.
"""

from dataclasses import dataclass, field

import trio

from clientctl.config import COMMAND_BYTES_OVERHEAD, SessionLimits
from clientctl.numbering import Numbering
from clientctl.pipeline import Pipeline
from proto import errors
from proto.limits import REQUEST_BYTES_MAX
from proto.session_pb2 import Command, Registered, Result


@dataclass(slots=True, eq=False)
class _Registration:
    """A session as the server knows it."""

    id: int
    numbering: Numbering = field(default_factory=Numbering)


class Session:
    """Exactly-once writes: `execute` runs a command once, however often it has to be sent.

    Bounds: `limits`; a full window makes callers wait. When the server has forgotten the session (it was
    idle for too long, or too many are about), commands that surely did not run are sent under a new one,
    and the others are unknown: a command that may have run is never sent under a second number (hazard 87).
    """

    def __init__(self, pipeline: Pipeline, limits: SessionLimits | None = None) -> None:
        self._pipeline = pipeline
        self._limits = limits or SessionLimits()
        self._registration: _Registration | None = None
        self._registering = trio.Lock()
        self._window_bytes = 0
        self._room = trio.lowlevel.ParkingLot()
        self._correlation = 0

    @property
    def id(self) -> int:
        """The session's number, 0 while it has none."""
        return self._registration.id if self._registration else 0

    async def execute(self, kind: Command.Kind.ValueType, request: bytes, deadline: float) -> Result:
        """Run one command: `kind` and its serialized etcd request, until `deadline` (Trio clock).

        Returns the result with outcome DECIDED (the code says it), NOT_DONE (surely nothing happened) or
        UNKNOWN; its session and sequence mean nothing to the caller. Raises nothing but Trio's Cancelled.
        """
        if len(request) > REQUEST_BYTES_MAX:
            return _not_done(*errors.REQUEST_TOO_LARGE)
        for _ in range(self._limits.registrations_max):
            registration = await self._registered(deadline)
            if isinstance(registration, Result):
                return registration
            size = len(request) + COMMAND_BYTES_OVERHEAD
            if not await self._enter_window(registration, size, deadline):
                return _not_done(*errors.TIMEOUT)
            result = await self._send(registration, kind, request, deadline, size)
            if result.outcome != Result.SESSION_EXPIRED:
                return result
            if self._registration is registration:
                self._registration = None
        return _not_done(errors.UNAVAILABLE, "clientctl: the session expired again and again")

    async def close(self, deadline: float) -> None:
        """End the session, so that the server may forget it at once. Best effort, until `deadline`."""
        registration, self._registration = self._registration, None
        if registration is not None:
            await self._send(registration, Command.CLOSE, b"", deadline, 0)

    async def _send(
        self,
        registration: _Registration,
        kind: Command.Kind.ValueType,
        request: bytes,
        deadline: float,
        size: int,
    ) -> Result:
        numbering = registration.numbering
        command = Command(sequence=numbering.take(), kind=kind, request=request)
        sequence = command.sequence
        self._window_bytes += size
        try:
            return await self._pipeline.submit(
                registration.id, numbering.first_outstanding, command, deadline
            )
        finally:
            numbering.settle(sequence)
            self._window_bytes -= size
            free = self._limits.window_operations_max - len(numbering)
            if self._room and free > 0:
                self._room.unpark(count=free)

    async def _enter_window(self, registration: _Registration, size: int, deadline: float) -> bool:
        """Wait until the window has room for `size` bytes; False at the deadline."""
        if self._has_room(registration, size):
            return True
        with trio.CancelScope(deadline=deadline):
            while not self._has_room(registration, size):
                await self._room.park()
            return True
        return False

    def _has_room(self, registration: _Registration, size: int) -> bool:
        count = len(registration.numbering)
        if count >= self._limits.window_operations_max:
            return False
        return self._window_bytes == 0 or self._window_bytes + size <= self._limits.window_bytes_max

    async def _registered(self, deadline: float) -> _Registration | Result:
        """The present registration, made if there is none; or why there is none. One caller registers for
        all."""
        if present := self._current():
            return present
        with trio.CancelScope(deadline=deadline):
            async with self._registering:
                return self._current() or await self._register(deadline)
        return _not_done(*errors.TIMEOUT)

    def _current(self) -> _Registration | None:
        return self._registration

    async def _register(self, deadline: float) -> _Registration | Result:
        self._correlation += 1
        command = Command(sequence=self._correlation, kind=Command.REGISTER)
        result = await self._pipeline.submit(0, 0, command, deadline)
        if result.outcome != Result.DECIDED or result.code != errors.OK:
            # Whatever became of the registration: the command that wanted it was never sent.
            return _not_done(result.code or errors.UNAVAILABLE, result.text)
        self._registration = _Registration(Registered.FromString(result.body).session)
        return self._registration


def _not_done(code: int, text: str) -> Result:
    return Result(code=code, text=text, outcome=Result.NOT_DONE)
