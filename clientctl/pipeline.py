"""Pending operations on a succession of streams: what waits in `PendingOperations` is driven over a
`MessageStream`.

One Trio task sends, one receives, one keeps the nearest deadline; there is no task and no timer per
operation. Whatever has gathered while the last message was being written goes out as the next one. This
module does not know where the streams come from: `clientctl.client` opens them to an endpoint, proxyd to
the leader's node.
"""

import math
import random
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import outcome
import trio

from clientctl.config import COMMAND_BYTES_OVERHEAD, PipelineLimits
from clientctl.errors import never_sent
from clientctl.pending import Finish, FinishRead, PendingCommand, PendingOperations
from proto import errors
from proto.errors import Status
from proto.limits import REQUEST_BYTES_MAX
from proto.session_pb2 import Command, NotLeader, ReadResult, Result
from proto.stream import MessageStream, StreamEnded


@dataclass(frozen=True, slots=True)
class UpstreamEnd:
    """Why `Pipeline.drive` returned. With nothing set the stream ended cleanly, which proves nothing.

    `unavailable`: the upstream is there but answered UNAVAILABLE (only with `leave_when_unavailable`).
    `served`: before it ended it has answered something else than that.
    """

    not_leader: NotLeader | None = None
    error: Status | None = None
    unavailable: bool = False
    served: bool = False


class Pipeline:
    """Operations towards "the current upstream", bounded in number and bytes.

    `run()` must be running (it keeps the deadlines, with an upstream or without); `drive()` binds one
    stream at a time. What an upstream left unanswered is kept and sent on the next one, commands under
    their old numbers. Deadlines are times of the Trio clock. At its deadline an operation ends as not done
    when no sending of it can have had an effect, and as unknown otherwise.

    `submit` and `submit_read` refuse a request of more than REQUEST_BYTES_MAX; to `offer`, `take` and
    `offer_read` nobody must give one.
    """

    def __init__(
        self, limits: PipelineLimits | None = None, *, jitter: Callable[[], float] | None = None
    ) -> None:
        self._pending = PendingOperations(limits or PipelineLimits(), jitter or _jitter)
        self._work = trio.Event()
        self._earlier = trio.Event()
        self._wake_at = -math.inf
        self._room = trio.lowlevel.ParkingLot()
        self._driving = False
        self._shut: tuple[int, str] | None = None

    def __len__(self) -> int:
        """Operations that wait for an answer."""
        return len(self._pending)

    @property
    def size(self) -> int:
        """Bytes of the requests that wait for an answer."""
        return self._pending.size

    @property
    def connected(self) -> bool:
        """Whether a stream is being driven."""
        return self._driving

    @property
    def refusal(self) -> tuple[int, str] | None:
        """The code and text with which everything is refused, once it is shut."""
        return self._shut

    # Operations, for callers that wait

    async def submit(self, session: int, first_outstanding: int, command: Command, deadline: float) -> Result:
        """Carry one command to its result; waits for room first when the pipeline is full.

        The command becomes the pipeline's own. The result has the server's code, text and body, and an
        outcome: DECIDED; NOT_DONE (surely not executed); UNKNOWN; SESSION_EXPIRED (surely not executed, and
        the session is gone). Raises nothing but Trio's Cancelled, after which an unsent command is never
        sent and a sent one is unknown (hazard 82).
        """
        refusal = await self._wait_for_room(len(command.request), deadline)
        if refusal is not None:
            code, text = refusal
            sequence = command.sequence
            return Result(session=session, sequence=sequence, code=code, text=text, outcome=Result.NOT_DONE)
        task = trio.lowlevel.current_task()

        def finish(result: Result) -> None:
            trio.lowlevel.reschedule(task, outcome.Value(result))

        operation = self._pending.add_command(session, first_outstanding, command, deadline, finish)
        self._added(deadline)

        def abort(_: object) -> trio.lowlevel.Abort:
            self._pending.withdraw(operation, finish)
            self._make_room()
            return trio.lowlevel.Abort.SUCCEEDED

        result = await trio.lowlevel.wait_task_rescheduled(abort)
        assert isinstance(result, Result)
        return result

    async def submit_read(
        self, request: bytes, deadline: float, *, txn: bool = False, min_revision: int = 0, keep: bool = True
    ) -> ReadResult:
        """Carry one read to its result; waits for room first when the pipeline is full.

        `request`: a serialized RangeRequest, or with `txn` a read-only TxnRequest. With `keep` it is sent
        again on the next upstream until its deadline; without, the loss of the upstream ends it with
        UNAVAILABLE.
        """
        refusal = await self._wait_for_room(len(request), deadline)
        if refusal is not None:
            code, text = refusal
            return ReadResult(code=code, text=text)
        task = trio.lowlevel.current_task()

        def finish(result: ReadResult) -> None:
            trio.lowlevel.reschedule(task, outcome.Value(result))

        operation = self._pending.add_read(request, txn, min_revision, deadline, finish, keep=keep)
        self._added(deadline)

        def abort(_: object) -> trio.lowlevel.Abort:
            self._pending.withdraw_read(operation)
            self._make_room()
            return trio.lowlevel.Abort.SUCCEEDED

        result = await trio.lowlevel.wait_task_rescheduled(abort)
        assert isinstance(result, ReadResult)
        return result

    # Operations, for callers that relay

    def offer(
        self, session: int, first_outstanding: int, command: Command, deadline: float, finish: Finish
    ) -> bool:
        """Take a command without waiting; False when full or past its deadline, and then `finish` is never
        called.

        Otherwise `finish(result)` is called once, synchronously from a task of the pipeline; it must not
        wait, and the result's session and sequence are those given here. The command becomes the pipeline's
        own.
        """
        if deadline <= trio.current_time():
            return False
        return self.take(session, first_outstanding, command, deadline, finish) is not None

    def take(
        self, session: int, first_outstanding: int, command: Command, deadline: float, finish: Finish
    ) -> PendingCommand | None:
        """As `offer`, for callers that may `drop` what was taken; None when there is no room.

        The deadline may have passed: then `finish` is called soon.
        """
        if self._shut or not self._pending.has_room(len(command.request) + COMMAND_BYTES_OVERHEAD):
            return None
        operation = self._pending.add_command(session, first_outstanding, command, deadline, finish)
        self._added(deadline)
        return operation

    def drop(self, operation: PendingCommand, finish: Finish) -> None:
        """`finish` will not be called any more. An unsent command is then never sent, a sent one not
        again."""
        if not operation.finished:
            self._pending.withdraw(operation, finish)
            self._make_room()

    def offer_read(
        self,
        request: bytes,
        deadline: float,
        finish: FinishRead,
        *,
        txn: bool = False,
        min_revision: int = 0,
        keep: bool = True,
    ) -> bool:
        """Take a read without waiting; as `offer`. The id of its result is the pipeline's, not the
        caller's."""
        size = len(request) + COMMAND_BYTES_OVERHEAD
        if self._shut or deadline <= trio.current_time() or not self._pending.has_room(size):
            return False
        self._pending.add_read(request, txn, min_revision, deadline, finish, keep=keep)
        self._added(deadline)
        return True

    async def wait_for_room(self, size: int) -> None:
        """Return when an operation whose request has `size` bytes fits; callers are let in one by one."""
        while not self._pending.has_room(size) and self._shut is None:
            await self._room.park()

    def end_all(self, code: int, text: str) -> None:
        """End everything that waits, as not done or unknown, with this code and text."""
        self._pending.end_all(code, text)
        self._make_room()

    def shut(self, code: int, text: str) -> None:
        """End everything that waits, and from now on refuse everything, with this code and text."""
        self._shut = (code, text)
        self._pending.end_all(code, text)
        self._room.unpark_all()

    # Tasks

    async def run(self) -> None:
        """Keep the deadlines, until cancelled."""
        while True:
            self._earlier = trio.Event()
            self._wake_at = self._pending.nearest_deadline()
            with trio.CancelScope(deadline=self._wake_at):
                await self._earlier.wait()
            self._pending.expire(trio.current_time())
            self._make_room()

    async def drive(self, stream: MessageStream, *, leave_when_unavailable: bool = False) -> UpstreamEnd:
        """Send and receive on `stream` until it ends, fails, or its node does not lead; one stream at a time.

        With `leave_when_unavailable` also when it answers UNAVAILABLE. The stream itself is the caller's to
        close. Cancelling is the way to leave it for another.
        """
        assert not self._driving, "a pipeline drives one stream at a time"
        self._driving = True
        end = UpstreamEnd()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send, stream)
                end = await self._receive(stream, leave_when_unavailable)
                nursery.cancel_scope.cancel()
        finally:
            self._driving = False
            self._pending.upstream_lost(unprocessed=_never_looked(end))
            self._make_room()
        return end

    async def _send(self, stream: MessageStream) -> None:
        # When the stream fails here, the receiver meets the same end, after all that has arrived before it.
        with suppress(StreamEnded, Status):
            while True:
                self._work = trio.Event()
                now = trio.current_time()
                request = self._pending.next_request(now)
                if request is not None:
                    await stream.send(request)
                    continue
                paused_until = self._pending.paused_until
                with trio.CancelScope(deadline=paused_until if paused_until > now else math.inf):
                    await self._work.wait()

    async def _receive(self, stream: MessageStream, leave_when_unavailable: bool) -> UpstreamEnd:
        served = False
        try:
            while True:
                for reply in await stream.receive_all():
                    digest = self._pending.receive(reply, trio.current_time())
                    served = served or digest.served
                    self._make_room()
                    if digest.not_leader is not None:
                        return UpstreamEnd(not_leader=digest.not_leader, served=served)
                    if digest.unavailable:
                        if leave_when_unavailable:
                            return UpstreamEnd(unavailable=True, served=served)
                        self._work.set()
                # A stream that always has more must not keep the callers from their results.
                await trio.lowlevel.checkpoint()
        except StreamEnded:
            return UpstreamEnd(served=served)
        except Status as error:
            return UpstreamEnd(error=error, served=served)

    # Waking

    def _added(self, deadline: float) -> None:
        self._work.set()
        if deadline < self._wake_at:
            self._earlier.set()

    def _make_room(self) -> None:
        if self._room and (free := self._pending.limits.operations_max - len(self._pending)) > 0:
            self._room.unpark(count=free)

    async def _wait_for_room(self, request_bytes: int, deadline: float) -> tuple[int, str] | None:
        """None once there is room; else the code and text with which to refuse."""
        if request_bytes > REQUEST_BYTES_MAX:
            return errors.REQUEST_TOO_LARGE
        size = request_bytes + COMMAND_BYTES_OVERHEAD
        if not self._pending.has_room(size):
            with trio.CancelScope(deadline=deadline):
                await self.wait_for_room(size)
        if self._shut is not None:
            return self._shut
        in_time = deadline > trio.current_time() and self._pending.has_room(size)
        return None if in_time else errors.TIMEOUT


def _never_looked(end: UpstreamEnd) -> bool:
    """Whether what was sent on the stream surely reached nobody: no connection, or no such service there."""
    if end.served or end.error is None:
        return False
    return never_sent(end.error) or end.error.code == errors.UNIMPLEMENTED


def _jitter() -> float:
    return random.uniform(0.5, 1.0)
