"""Reads on their way to a safe state (thesis §6.4), and their execution off the Trio thread.

A linearizable read waits for a ReadIndex round that begins after it arrived, then until the state at that
index is applied *and committed to disk here*, because a read transaction sees only what is committed.
All reads that gathered share one round, one transaction and one thread hop. `raftd.node` feeds
this and owns Raft; services call `Reads.add`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import trio

from proto import errors
from proto.errors import Status
from raftd import config
from raftd.core.raft import Raft
from raftd.core.ready import ReadState
from raftd.store import ReadTransaction, Store


@dataclass(slots=True)
class Read:
    """`run` gets a read transaction on a worker thread and returns the serialized reply or raises Status.

    `deadline` is on Trio's clock. `min_revision` makes a local read wait for that revision
    (read-your-writes). `abandoned` is set by a caller that left.
    """

    run: Callable[[ReadTransaction], bytes]
    done: Callable[[bytes | Status], None] = lambda _: None
    linearizable: bool = True
    scan: bool = False
    min_revision: int = 0
    deadline: float = math.inf
    abandoned: bool = False


@dataclass(slots=True)
class _Round:
    reads: list[Read]
    index: int | None = None


@dataclass(slots=True)
class Reads:
    """Invariant: a read is in `_arrived`, one of `_rounds`, `_behind` or an execution queue until its
    `done`.
    """

    store: Store
    current_revision: Callable[[ReadTransaction], int]
    node_id: int
    served: int = 0
    _arrived: list[Read] = field(default_factory=list)
    _rounds: dict[int, _Round] = field(default_factory=dict)
    _behind: list[Read] = field(default_factory=list)
    _points: "list[Read]" = field(default_factory=list)
    _scans: "list[Read]" = field(default_factory=list)
    _points_wake: trio.Event = field(default_factory=trio.Event)
    _scans_wake: trio.Event = field(default_factory=trio.Event)
    _last_token: int = 0
    _pending: int = 0
    _retry_at: float = -math.inf
    _releases: int = 0

    def __len__(self) -> int:
        return self._pending

    def add(self, read: Read) -> None:
        """Takes the read, or answers it at once when too many are pending."""
        if self._pending >= config.MAX_PENDING_READS:
            read.done(Status(*errors.TOO_MANY_REQUESTS))
            return
        self._pending += 1
        if read.linearizable:
            self._arrived.append(read)
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
            self._rounds[state.token].index = state.index

    def release(self, durable_applied_index: int) -> bool:
        """Sends off what the committed state covers. True when some read waits for a commit of what is
        applied.
        """
        waiting = False
        for token in list(self._rounds):
            index = self._rounds[token].index
            if index is None:
                continue
            if index <= durable_applied_index:
                self._execute(self._rounds.pop(token).reads)
            else:
                waiting = True
        self._releases += 1
        if self._behind:
            behind, self._behind = self._behind, []
            self._execute(behind)
        return waiting

    def expire(self) -> None:
        """Answers the reads whose deadline passed while they waited for a leader, a round or a revision."""
        now = trio.current_time()
        waiting = [self._arrived, self._behind, *(ended.reads for ended in self._rounds.values())]
        for reads in waiting:
            kept = []
            for read in reads:
                if read.abandoned or read.deadline <= now:
                    self._finish(read, Status(*errors.TIMEOUT))
                else:
                    kept.append(read)
            reads[:] = kept

    def next_retry_s(self) -> float:
        """Seconds until a failed round may be tried again; infinite when nothing waits for that."""
        return max(0.0, self._retry_at - trio.current_time()) if self._arrived else math.inf

    async def run(self) -> None:
        """Executes reads until cancelled: point reads in batches, scans a few at a time beside them."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._run_points)
            limiter = trio.CapacityLimiter(config.MAX_CONCURRENT_SCANS)
            for _ in range(config.MAX_CONCURRENT_SCANS):
                nursery.start_soon(self._run_scans, limiter)

    def _execute(self, reads: Sequence[Read]) -> None:
        for read in reads:
            (self._scans if read.scan else self._points).append(read)
        self._points_wake.set()
        self._scans_wake.set()

    async def _run_points(self) -> None:
        limiter = trio.CapacityLimiter(1)
        while True:
            await self._points_wake.wait()
            batch = self._points[: config.MAX_READ_BATCH]
            del self._points[: config.MAX_READ_BATCH]
            if not self._points:
                self._points_wake = trio.Event()
            if batch:
                await self._execute_batch(batch, limiter)

    async def _run_scans(self, limiter: trio.CapacityLimiter) -> None:
        while True:
            await self._scans_wake.wait()
            if not self._scans:
                self._scans_wake = trio.Event()
                continue
            await self._execute_batch([self._scans.pop(0)], limiter)

    async def _execute_batch(self, batch: Sequence[Read], limiter: trio.CapacityLimiter) -> None:
        releases = self._releases
        revision, outcomes = await trio.to_thread.run_sync(self._execute_in_thread, batch, limiter=limiter)
        for read, outcome in zip(batch, outcomes, strict=True):
            if outcome is None:
                assert revision < read.min_revision, f"{read} put off at revision {revision}"
                if releases == self._releases:
                    self._behind.append(read)
                else:  # the state has moved on since that transaction began
                    self._execute([read])
            else:
                self._finish(read, outcome)
                self.served += 1

    def _execute_in_thread(self, batch: Sequence[Read]) -> tuple[int, list[bytes | Status | None]]:
        outcomes: list[bytes | Status | None] = []
        with self.store.read() as transaction:
            revision = self.current_revision(transaction)
            for read in batch:
                if revision < read.min_revision:
                    outcomes.append(None)
                    continue
                try:
                    outcomes.append(read.run(transaction))
                except Status as refused:
                    outcomes.append(refused)
        return revision, outcomes

    def _finish(self, read: Read, outcome: bytes | Status) -> None:
        self._pending -= 1
        if not read.abandoned:
            read.done(outcome)
