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


@dataclass(slots=True, eq=False)
class _Attempt:
    """A registration under way, on behalf of all who wait for it."""

    done: trio.Event = field(default_factory=trio.Event)
    # What has become of it: None is success.
    failure: Result | None = None


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
        self._attempt: _Attempt | None = None
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
        with trio.CancelScope(deadline=deadline):
            if self._attempt is not None:
                await self._attempt.done.wait()
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
        """The present registration, made if there is none; or why there is none."""
        with trio.CancelScope(deadline=deadline):
            while (present := self._registration) is None:
                attempt = await self._attempted()
                await attempt.done.wait()
                if attempt.failure is not None and not _ran_out_of_time(attempt.failure):
                    return attempt.failure
            return present
        return _not_done(*errors.TIMEOUT)

    async def _attempted(self) -> _Attempt:
        """The attempt under way, or a new one; waits until the pipeline has room for it.

        It belongs to no caller and has a time of its own: callers who leave early would else leave a session
        behind each, and never get one.
        """
        await self._pipeline.wait_for_room(COMMAND_BYTES_OVERHEAD)
        if self._attempt is None:
            self._attempt = attempt = _Attempt()
            self._correlation += 1
            command = Command(sequence=self._correlation, kind=Command.REGISTER)
            deadline = trio.current_time() + self._limits.registration_timeout_s
            if self._pipeline.take(0, 0, command, deadline, self._finish_registration) is None:
                refusal = self._pipeline.refusal
                assert refusal is not None, "there was room for a registration"
                self._attempt = None
                attempt.failure = _not_done(*refusal)
                attempt.done.set()
            return attempt
        return self._attempt

    def _finish_registration(self, result: Result) -> None:
        attempt, self._attempt = self._attempt, None
        assert attempt is not None, "no registration is under way"
        if result.outcome == Result.DECIDED and result.code == errors.OK:
            self._registration = _Registration(Registered.FromString(result.body).session)
        else:
            # Whatever became of the registration: the commands that wanted it were never sent.
            attempt.failure = _not_done(result.code or errors.UNAVAILABLE, result.text)
        attempt.done.set()


def _ran_out_of_time(result: Result) -> bool:
    """Whether an attempt was at the end of its time, which says nothing about that of its callers."""
    return (result.code, result.text) == errors.TIMEOUT


def _not_done(code: int, text: str) -> Result:
    return Result(code=code, text=text, outcome=Result.NOT_DONE)
