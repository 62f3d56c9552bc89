"""The operations that wait for their answer, as a synchronous state machine.

It numbers nothing itself: commands come with (session, sequence), and under these they are sent again on
the next upstream until the server's result or the caller's deadline. It builds the messages, reads the
replies, and says of each command that ends here whether it is surely not done or unknown. It knows no
stream, no clock and no Trio: times are passed in. `clientctl.pipeline` drives it.

Invariants:
- An operation is in exactly one of `_unsent`, `_sent`; or it is finished and in neither.
- Each waiter is called exactly once, unless it withdraws before.
- `uncertain` counts the sendings of a command that may have entered the log. Only at 0 is a failure "not
  done"; a server's "not done" speaks of one sending and takes back just that one (hazard 87).
- Sending a command again under its number is always safe: the replicated session executes a number once, and
  never one below a `first_outstanding` it has seen.
"""

import heapq
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from clientctl.config import COMMAND_BYTES_OVERHEAD, DEADLINE_GRAIN_S, PipelineLimits
from proto import errors
from proto.limits import REQUEST_BYTES_MAX
from proto.session_pb2 import Batch, Command, NotLeader, Read, ReadResult, Reply, Request, Result

Finish = Callable[[Result], None]
FinishRead = Callable[[ReadResult], None]
Key = tuple[int, int]

# A stream that carries more than its server takes ends, on every server, and with it all others' operations,
# for as long as the one that is too large is sent again.
_OPERATION_BYTES_MAX = REQUEST_BYTES_MAX + COMMAND_BYTES_OVERHEAD

# The same on every node and at every time: what one node refused so, no other has executed.
_REFUSED_EVERYWHERE = frozenset(
    {
        errors.INVALID_ARGUMENT,
        errors.OUT_OF_RANGE,
        errors.FAILED_PRECONDITION,
        errors.NOT_FOUND,
        errors.PERMISSION_DENIED,
        errors.UNAUTHENTICATED,
        errors.UNIMPLEMENTED,
    }
)


@dataclass(slots=True, eq=False)
class PendingCommand:
    """One numbered command and those who wait for its result."""

    session: int
    command: Command
    deadline: float
    size: int
    # The sequence the submitter knows it by; differs from the one sent for REGISTER alone.
    sequence: int
    waiters: list[Finish]
    uncertain: int = 0

    @property
    def finished(self) -> bool:
        return not self.waiters


@dataclass(slots=True, eq=False)
class PendingRead:
    """One read. Reads change nothing, so they are sent again wherever, whenever."""

    read: Read
    deadline: float
    size: int
    waiter: FinishRead | None
    keep: bool

    @property
    def finished(self) -> bool:
        return self.waiter is None


@dataclass(slots=True)
class Digest:
    """What a reply means for the upstream it came from."""

    not_leader: NotLeader | None = None
    # Some answer said UNAVAILABLE: this upstream cannot serve at the moment.
    unavailable: bool = False
    # Some operation ended with an answer.
    served: bool = False


@dataclass(slots=True)
class _Deadlines:
    """Operations by deadline, in slots of DEADLINE_GRAIN_S: adding and removing cost no search."""

    slots: dict[int, dict[int, PendingCommand | PendingRead]] = field(default_factory=dict)
    order: list[int] = field(default_factory=list)

    def add(self, operation: PendingCommand | PendingRead) -> None:
        if operation.deadline == math.inf:
            return
        number = math.ceil(operation.deadline / DEADLINE_GRAIN_S)
        slot = self.slots.get(number)
        if slot is None:
            slot = self.slots[number] = {}
            heapq.heappush(self.order, number)
        slot[id(operation)] = operation

    def remove(self, operation: PendingCommand | PendingRead) -> None:
        if operation.deadline == math.inf:
            return
        number = math.ceil(operation.deadline / DEADLINE_GRAIN_S)
        slot = self.slots[number]
        del slot[id(operation)]
        if not slot:
            # Its number stays in `order` until it is the first there; adding it again then makes it stand
            # twice.
            del self.slots[number]

    def nearest(self) -> float:
        while self.order and self.order[0] not in self.slots:
            heapq.heappop(self.order)
        return self.order[0] * DEADLINE_GRAIN_S if self.order else math.inf

    def due(self, now: float) -> Iterator[PendingCommand | PendingRead]:
        """What is past its deadline; the taker removes each before it asks for the next."""
        while self.nearest() <= now:
            yield next(iter(self.slots[self.order[0]].values()))


class PendingOperations:
    """All operations towards one succession of upstreams. No request is larger than REQUEST_BYTES_MAX: the
    callers see to that.

    `jitter` returns a factor for pauses, in [0.5, 1]. Bounds: `limits`. Full means: `has_room()` is false; a
    command larger than all the room is taken when nothing else is there.
    """

    def __init__(self, limits: PipelineLimits, jitter: Callable[[], float]) -> None:
        self.limits = limits
        self.size = 0
        self.paused_until = -math.inf
        self._jitter = jitter
        self._pause_s = 0.0
        self._unsent: OrderedDict[Key, PendingCommand] = OrderedDict()
        self._sent: OrderedDict[Key, PendingCommand] = OrderedDict()
        self._unsent_reads: OrderedDict[int, PendingRead] = OrderedDict()
        self._sent_reads: OrderedDict[int, PendingRead] = OrderedDict()
        self._first_outstanding: dict[int, int] = {}
        self._sessions: dict[int, int] = {}
        self._deadlines = _Deadlines()
        self._next_read_id = 1
        self._next_registration = 1

    def __len__(self) -> int:
        return len(self._unsent) + len(self._sent) + len(self._unsent_reads) + len(self._sent_reads)

    def has_room(self, size: int) -> bool:
        """Whether an operation whose request has `size` bytes may be added now."""
        count = len(self)
        if count == 0:
            return True
        return count < self.limits.operations_max and self.size + size <= self.limits.bytes_max

    def has_unsent(self) -> bool:
        """Whether `next_request` would have something to send but for a pause."""
        return bool(self._unsent or self._unsent_reads)

    def nearest_deadline(self) -> float:
        """The time at which `expire` is due; inf when nothing waits."""
        return self._deadlines.nearest()

    # Adding and withdrawing

    def add_command(
        self, session: int, first_outstanding: int, command: Command, deadline: float, finish: Finish
    ) -> PendingCommand:
        """Take a command; `finish` will get its result, whose session and sequence are the caller's.

        A number that already waits is not sent twice for it: the newcomer joins, and the later deadline
        counts. `first_outstanding` of a session never goes back.
        """
        sequence = command.sequence
        if command.kind == Command.REGISTER:
            # Correlation numbers of several submitters would collide under session 0.
            command.sequence = self._next_registration
            self._next_registration += 1
        elif first_outstanding > self._first_outstanding.get(session, 0):
            self._first_outstanding[session] = first_outstanding
        key = (session, command.sequence)
        if present := self._unsent.get(key) or self._sent.get(key):
            present.waiters.append(finish)
            if deadline > present.deadline:
                self._deadlines.remove(present)
                present.deadline = deadline
                self._deadlines.add(present)
            return present
        size = _size_of(command.request)
        operation = PendingCommand(session, command, deadline, size, sequence, [finish])
        self.size += size
        self._sessions[session] = self._sessions.get(session, 0) + 1
        self._unsent[key] = operation
        self._deadlines.add(operation)
        return operation

    def add_read(
        self,
        request: bytes,
        txn: bool,
        min_revision: int,
        deadline: float,
        finish: FinishRead,
        *,
        keep: bool = True,
    ) -> PendingRead:
        """Take a read. With `keep` it outlives its upstream; without, it then ends as UNAVAILABLE."""
        read = Read(id=self._next_read_id, request=request, txn=txn, min_revision=min_revision)
        self._next_read_id += 1
        operation = PendingRead(read, deadline, _size_of(request), finish, keep)
        self.size += operation.size
        self._unsent_reads[read.id] = operation
        self._deadlines.add(operation)
        return operation

    def withdraw(self, operation: PendingCommand, finish: Finish) -> None:
        """The waiter has gone. Without another one the command is not sent (again)."""
        operation.waiters.remove(finish)
        if not operation.waiters:
            self._remove(operation)

    def withdraw_read(self, operation: PendingRead) -> None:
        """The waiter has gone."""
        self._remove_read(operation)

    # Sending

    def next_request(self, now: float) -> Request | None:
        """The next message, of all that waits up to the message bound; None when there is nothing to send
        now.

        What it contains counts as sent from here on. What is past its deadline is not sent but ended
        (hazard 92).
        """
        self.expire(now)
        if now < self.paused_until or not self.has_unsent():
            return None
        request = Request()
        # Half of the message at most for reads, so that neither kind starves the other.
        used = self._fill_reads(request, now, self.limits.message_bytes_max // 2)
        used += self._fill_commands(request, now, self.limits.message_bytes_max - used)
        assert used <= max(self.limits.message_bytes_max, _OPERATION_BYTES_MAX), f"a message of {used} bytes"
        return request

    def _fill_reads(self, request: Request, now: float, room: int) -> int:
        """Move unsent reads into `request`; returns the bytes used."""
        reads: list[Read] = []
        used = 0
        while self._unsent_reads:
            read_id, operation = next(iter(self._unsent_reads.items()))
            if used + operation.size > room and reads:
                break
            used += operation.size
            del self._unsent_reads[read_id]
            self._sent_reads[read_id] = operation
            operation.read.remaining_ms = _remaining_ms(operation.deadline, now)
            reads.append(operation.read)
        request.reads.extend(reads)
        return used

    def _fill_commands(self, request: Request, now: float, room: int) -> int:
        """Move unsent commands into `request`, one Batch per session; returns the bytes used."""
        commands: dict[int, list[Command]] = {}
        empty = not request.reads
        used = 0
        while self._unsent:
            key, operation = next(iter(self._unsent.items()))
            if used + operation.size > room and not empty:
                break
            empty = False
            used += operation.size
            del self._unsent[key]
            self._sent[key] = operation
            operation.uncertain += 1
            operation.command.remaining_ms = _remaining_ms(operation.deadline, now)
            if operation.session == 0:
                request.batches.append(Batch(commands=[operation.command]))
            else:
                commands.setdefault(operation.session, []).append(operation.command)
        for session, gathered in commands.items():
            first_outstanding = self._first_outstanding.get(session, 0)
            request.batches.append(
                Batch(session=session, first_outstanding=first_outstanding, commands=gathered)
            )
        return used

    # Answers

    def receive(self, reply: Reply, now: float) -> Digest:
        """Take a reply of the present upstream. Answers to what no longer waits are ignored."""
        digest = Digest()
        again: list[PendingCommand] = []
        for result in reply.results:
            key = (result.session, result.sequence)
            operation = self._sent.get(key) or self._unsent.get(key)
            if operation is None:
                continue
            if self._on_result(operation, result):
                digest.served = True
            else:
                again.append(operation)
        reads_again: list[PendingRead] = []
        for read_result in reply.read_results:
            read = self._sent_reads.get(read_result.id)
            if read is not None and not self._on_read_result(read, read_result, digest):
                reads_again.append(read)
        if again or reads_again:
            digest.unavailable = True
            self._send_again(again, reads_again)
            self._pause(now)
        if reply.HasField("not_leader"):
            digest.not_leader = reply.not_leader
        return digest

    def _on_result(self, operation: PendingCommand, result: Result) -> bool:
        """Finish the command with its result; False when the result asks to send it again instead."""
        if result.outcome in (Result.NOT_DONE, Result.SESSION_EXPIRED):
            operation.uncertain = max(0, operation.uncertain - 1)
        if result.outcome == Result.DECIDED:
            self._pause_s = 0.0
        elif result.outcome == Result.UNKNOWN:
            # Its number makes asking again safe, and a later answer may be certain.
            if result.code == errors.UNAVAILABLE:
                return False
        elif result.outcome == Result.NOT_DONE:
            refused = operation.uncertain == 0 or result.code in _REFUSED_EVERYWHERE
            if result.code == errors.UNAVAILABLE or not refused:
                return False
        elif operation.uncertain:
            # SESSION_EXPIRED, but an earlier sending may have run before the session was forgotten.
            result.outcome = Result.UNKNOWN
        self._finish(operation, result)
        return True

    def _on_read_result(self, read: PendingRead, result: ReadResult, digest: Digest) -> bool:
        """Finish the read with its result; False when it is to be sent again instead."""
        if result.code != errors.UNAVAILABLE:
            digest.served = True
            self._pause_s = 0.0
        elif read.keep:
            return False
        else:
            digest.unavailable = True
        self._finish_read(read, result)
        return True

    def _send_again(self, commands: list[PendingCommand], reads: list[PendingRead]) -> None:
        """Back to the front of what is unsent, in their order."""
        for command in reversed(commands):
            key = (command.session, command.command.sequence)
            if self._sent.pop(key, None) is not None:
                self._unsent[key] = command
                self._unsent.move_to_end(key, last=False)
        for read in reversed(reads):
            if self._sent_reads.pop(read.read.id, None) is not None:
                self._unsent_reads[read.read.id] = read
                self._unsent_reads.move_to_end(read.read.id, last=False)

    def _pause(self, now: float) -> None:
        """Hold back before sending again, once per pause however many answers ask for it (hazard 95)."""
        if now >= self.paused_until:
            self._pause_s = min(max(self._pause_s * 2, self.limits.pause_min_s), self.limits.pause_max_s)
            self.paused_until = now + self._pause_s * self._jitter()

    # Ends

    def upstream_lost(self, *, unprocessed: bool = False) -> None:
        """The upstream is gone, or does not lead: all that it did not answer waits for the next one, in
        order.

        `unprocessed`: it is certain that the upstream never looked at what it was sent (no such service).
        """
        if unprocessed:
            for operation in self._sent.values():
                operation.uncertain -= 1
        self._sent.update(self._unsent)
        self._unsent, self._sent = self._sent, OrderedDict()
        self._sent_reads.update(self._unsent_reads)
        self._unsent_reads, self._sent_reads = self._sent_reads, OrderedDict()
        self.paused_until = -math.inf
        for read in [read for read in self._unsent_reads.values() if not read.keep]:
            text = "clientctl: connection lost"
            self._finish_read(read, ReadResult(id=read.read.id, code=errors.UNAVAILABLE, text=text))

    def expire(self, now: float) -> None:
        """End what is past its deadline: never sent is not done, sent is unknown.

        The number of an unknown command needs no further care: its session's `first_outstanding` passes it
        (see `Numbering`), and the first command sent with that rules out that it happens later.
        """
        for operation in self._deadlines.due(now):
            self._end(operation, *errors.TIMEOUT)

    def end_all(self, code: int, text: str) -> None:
        """End everything that waits: with `code` and `text`, as not done or unknown."""
        waiting: list[PendingCommand | PendingRead] = [*self._sent.values(), *self._unsent.values()]
        waiting += [*self._sent_reads.values(), *self._unsent_reads.values()]
        for operation in waiting:
            if not operation.finished:
                self._end(operation, code, text)

    def _end(self, operation: PendingCommand | PendingRead, code: int, text: str) -> None:
        if isinstance(operation, PendingRead):
            self._finish_read(operation, ReadResult(id=operation.read.id, code=code, text=text))
            return
        outcome = Result.UNKNOWN if operation.uncertain else Result.NOT_DONE
        self._finish(operation, Result(session=operation.session, code=code, text=text, outcome=outcome))

    def _finish(self, operation: PendingCommand, result: Result) -> None:
        waiters = operation.waiters
        self._remove(operation)
        result.sequence = operation.sequence
        for waiter in waiters:
            waiter(result)

    def _finish_read(self, operation: PendingRead, result: ReadResult) -> None:
        waiter = operation.waiter
        self._remove_read(operation)
        assert waiter is not None, "a finished read has no waiter"
        waiter(result)

    def _remove(self, operation: PendingCommand) -> None:
        key = (operation.session, operation.command.sequence)
        operation.waiters = []
        found = self._sent.pop(key, None) or self._unsent.pop(key, None)
        assert found is operation, f"command {key} is not pending"
        self._deadlines.remove(operation)
        self.size -= operation.size
        left = self._sessions[operation.session] - 1
        if left:
            self._sessions[operation.session] = left
        else:
            del self._sessions[operation.session]
            self._first_outstanding.pop(operation.session, None)

    def _remove_read(self, operation: PendingRead) -> None:
        operation.waiter = None
        found = self._sent_reads.pop(operation.read.id, None)
        found = found or self._unsent_reads.pop(operation.read.id, None)
        assert found is operation, f"read {operation.read.id} is not pending"
        self._deadlines.remove(operation)
        self.size -= operation.size


def _size_of(request: bytes) -> int:
    """What an operation takes in a message."""
    size = len(request) + COMMAND_BYTES_OVERHEAD
    assert size <= _OPERATION_BYTES_MAX, f"a request of {len(request)} bytes is for its caller to refuse"
    return size


def _remaining_ms(deadline: float, now: float) -> int:
    """Whole milliseconds left, at least 1; 0 stands for "no deadline" (hazard 92)."""
    return 0 if deadline == math.inf else max(1, int((deadline - now) * 1000))
