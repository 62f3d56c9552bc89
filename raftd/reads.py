"""Reads on their way to a safe state (thesis §6.4), and their execution off the Trio thread.

A linearizable read waits for a ReadIndex round that begins after it arrived, then until the state at that
index is applied *and committed to disk here*, because a read transaction sees only what is committed
(DESIGN §4). All reads that gathered share one round, one transaction and one thread hop. `raftd.node` feeds
this and owns Raft; services call `Reads.add`.
"""

import math
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import lmdb
import structlog
import trio

from proto import errors
from proto.errors import Status
from raftd import config
from raftd.core.raft import Raft
from raftd.core.ready import ReadState
from raftd.store import Fenced, ReadTransaction, Store, StoreRefused

log = structlog.get_logger()

_STORE_FAILED = (lmdb.Error, OSError, StoreRefused, Fenced)
"""What says nothing of a request and all of this node's data: it ends the node."""


@dataclass(slots=True, eq=False)
class Read:
    """`run` gets a read transaction on a worker thread and returns the serialized reply or raises Status.

    `deadline` is on Trio's clock. `min_revision` makes a local read wait for that revision
    (read-your-writes). `abandoned` is set by a caller that left. `confirms_only`: nothing is read; `done`
    gets b"" when the round has ended: whoever led when the read arrived was the leader still. `internal`
    ones are no client's and not counted.
    """

    run: Callable[[ReadTransaction], bytes]
    done: Callable[[bytes | Status], None] = lambda _: None
    linearizable: bool = True
    scan: bool = False
    min_revision: int = 0
    deadline: float = math.inf
    abandoned: bool = False
    confirms_only: bool = False
    internal: bool = False


@dataclass(slots=True)
class _Round:
    reads: list[Read]
    index: int | None = None


class _Queue:
    """Reads whose state is there, until a task takes them to a thread."""

    def __init__(self) -> None:
        self._reads: deque[Read] = deque()
        self._arrival = trio.lowlevel.ParkingLot()

    def put(self, read: Read) -> None:
        self._reads.append(read)
        self._arrival.unpark()

    def put_back(self, reads: Sequence[Read]) -> None:
        self._reads.extendleft(reversed(reads))

    async def take(self, limit: int) -> list[Read]:
        """Up to `limit` reads, at least one; waits for it."""
        while not self._reads:
            await self._arrival.park()
        return [self._reads.popleft() for _ in range(min(limit, len(self._reads)))]


@dataclass(slots=True)
class _Batch:
    """Reads on a worker thread, which writes `outcomes` (fewer than reads, where the bound on bytes was
    reached) and then `ended`.
    """

    reads: Sequence[Read]
    outcomes: list[bytes | Status | None] = field(default_factory=list)
    ended: bool = False


class Reads:
    """Invariant: a read is in `_arrived`, one of `_rounds`, `_behind`, a queue or a batch until its `done`,
    which is called once, or never when the read was abandoned.
    """

    def __init__(
        self, store: Store, current_revision: Callable[[ReadTransaction], int], wake: Callable[[], None]
    ) -> None:
        """`wake` is called when `next_due_at` has changed without the node's doing."""
        self.served = 0
        self._wake = wake
        self._store = store
        self._current_revision = current_revision
        self._pending = 0
        self._arrived: list[Read] = []
        self._rounds: dict[int, _Round] = {}
        self._behind: list[Read] = []
        self._points = _Queue()
        self._scans = _Queue()
        self._running: list[_Batch] = []
        self._last_token = 0
        self._retry_at = -math.inf
        self._expire_at = math.inf
        self._durable_applied_index = -1
        self._advances = 0

    def __len__(self) -> int:
        return self._pending

    @property
    def is_in_threads(self) -> bool:
        """Whether a thread still uses the store, be it one that was left behind at the end of `run`."""
        return any(not batch.ended for batch in self._running)

    def add(self, read: Read) -> None:
        """Takes the read, or answers it at once when too many are pending."""
        if self._pending >= config.MAX_PENDING_READS:
            read.done(Status(*errors.TOO_MANY_REQUESTS))
            return
        self._pending += 1
        if read.linearizable:
            self._wait(self._arrived, read)
        else:
            self._execute([read])

    def begin_round(self, raft: Raft) -> None:
        """One ReadIndex round for all that arrived; none while no leader is known."""
        if not self._arrived or raft.leader is None or trio.current_time() < self._retry_at:
            return
        self._last_token += 1
        self._rounds[self._last_token] = _Round(self._arrived)
        self._arrived = []
        raft.read_index(self._last_token)

    def round_ended(self, state: ReadState) -> None:
        """The round's index is known, or the round failed and its reads join a later one."""
        if state.index is None:
            failed = self._rounds.pop(state.token)
            self._arrived = failed.reads + self._arrived
            self._retry_at = trio.current_time() + config.READ_RETRY_S
        else:
            ended = self._rounds[state.token]
            ended.index = state.index
            confirmed = [read for read in ended.reads if read.confirms_only]
            if confirmed:
                ended.reads = [read for read in ended.reads if not read.confirms_only]
                for read in confirmed:
                    self._finish(read, b"")

    def release(self, applied_index: int, durable_applied_index: int) -> bool:
        """Sends off what the committed state covers. True when some read waits for nothing but a commit of
        what is applied.
        """
        if durable_applied_index != self._durable_applied_index:
            self._durable_applied_index = durable_applied_index
            self._advances += 1
            behind, self._behind = self._behind, []
            self._execute(behind)
        waiting = False
        for token, ended in list(self._rounds.items()):
            if ended.index is None:
                continue
            if ended.index <= durable_applied_index:
                del self._rounds[token]
                self._execute(ended.reads)
            elif ended.index <= applied_index:
                waiting = True
        return waiting

    def expire(self) -> None:
        """Answers the reads whose deadline passed while they waited for a leader, a round or a state."""
        now = trio.current_time()
        if now < self._expire_at:
            return
        self._expire_at = math.inf
        waiting = [(self._arrived, errors.TIMEOUT), (self._behind, errors.TIMEOUT_APPLIED_INDEX)]
        for ended in self._rounds.values():
            why = errors.TIMEOUT if ended.index is None else errors.TIMEOUT_APPLIED_INDEX
            waiting.append((ended.reads, why))
        for reads, why in waiting:
            before = reads[:]
            reads.clear()
            for read in before:
                if _is_over(read, now):
                    self._finish(read, Status(*why))
                else:
                    self._wait(reads, read)

    def next_due_at(self) -> float:
        """When something is to be done here though nothing happens: a failed round tried again, a deadline.
        Infinite when nothing waits for the clock.
        """
        retries = self._arrived and self._retry_at > trio.current_time()
        return min(self._retry_at, self._expire_at) if retries else self._expire_at

    async def run(self) -> None:
        """Executes reads until cancelled: point reads in batches, scans a few at a time beside them."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_queue, self._points, config.MAX_READ_BATCH)
            for _ in range(config.MAX_CONCURRENT_SCANS):
                nursery.start_soon(self._run_queue, self._scans, 1)

    def _wait(self, waiting: list[Read], read: Read) -> None:
        waiting.append(read)
        # Not for each deadline by itself, and now and then for those who left without one.
        now = trio.current_time()
        due_at = min(max(read.deadline, now + config.READ_RETRY_S), now + config.READ_SWEEP_S)
        self._expire_at = min(self._expire_at, due_at)

    def _execute(self, reads: Iterable[Read]) -> None:
        for read in reads:
            (self._scans if read.scan else self._points).put(read)

    async def _run_queue(self, queue: _Queue, limit: int) -> None:
        limiter = trio.CapacityLimiter(1)
        while True:
            reads = await queue.take(limit)
            now = trio.current_time()
            live = [read for read in reads if not _is_over(read, now)]
            for read in reads:
                if _is_over(read, now):
                    self._finish(read, Status(*errors.TIMEOUT))
            if live:
                queue.put_back(await self._execute_batch(live, limiter))

    async def _execute_batch(self, reads: list[Read], limiter: trio.CapacityLimiter) -> Sequence[Read]:
        """Answers the reads; returns those that the batch had no room for."""
        await trio.lowlevel.checkpoint_if_cancelled()
        advances = self._advances
        batch = _Batch(reads)
        self._running.append(batch)
        # A scan may outlast the time there is to stop.
        revision = await trio.to_thread.run_sync(
            self._execute_in_thread, batch, limiter=limiter, abandon_on_cancel=True
        )
        self._running.remove(batch)
        for read, outcome in zip(reads, batch.outcomes, strict=False):
            if outcome is not None:
                self.served += not read.internal
                self._finish(read, outcome)
                continue
            assert revision < read.min_revision, f"{read} put off at revision {revision}"
            if advances == self._advances:
                self._wait(self._behind, read)
                self._wake()
            else:  # the state has moved on since that transaction began
                self._execute([read])
        return reads[len(batch.outcomes) :]

    def _execute_in_thread(self, batch: _Batch) -> int:
        """Fills the batch's outcomes, None for a read that is behind its `min_revision`; returns the
        revision.
        """
        try:
            size_bytes = 0
            with self._store.read() as transaction:
                revision = self._current_revision(transaction)
                for read in batch.reads:
                    if size_bytes > config.MAX_READ_BATCH_BYTES:
                        break
                    outcome = None if revision < read.min_revision else _run(read, transaction)
                    batch.outcomes.append(outcome)
                    size_bytes += len(outcome) if isinstance(outcome, bytes) else 0
            return revision
        finally:
            batch.ended = True

    def _finish(self, read: Read, outcome: bytes | Status) -> None:
        self._pending -= 1
        if not read.abandoned:
            read.done(outcome)


async def answered(add: Callable[[Read], None], read: Read) -> bytes:
    """Hands the read over and waits for its answer, for a single task. Raises Status, at the latest at the
    read's deadline.
    """
    arrived = trio.Event()
    answers: list[bytes | Status] = []

    def done(answer: bytes | Status) -> None:
        answers.append(answer)
        arrived.set()

    read.done = done
    add(read)
    try:
        with trio.move_on_at(read.deadline):
            await arrived.wait()
    finally:
        read.abandoned = not answers
    if not answers:
        raise Status(*errors.TIMEOUT)
    if isinstance(answers[0], Status):
        raise answers[0]
    return answers[0]


def _is_over(read: Read, now: float) -> bool:
    return read.abandoned or read.deadline <= now


def _run(read: Read, transaction: ReadTransaction) -> bytes | Status:
    try:
        return read.run(transaction)
    except Status as refused:
        return refused
    except _STORE_FAILED:
        raise
    except Exception as error:
        # Its client would ask the next node, and end that one too.
        log.error("unexpected error in a read", exc_info=error)
        return Status(errors.UNKNOWN, f"unexpected {type(error).__name__} in the server, see its log")
