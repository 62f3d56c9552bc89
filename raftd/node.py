"""The node: Raft, the store and the links joined into one loop, on the Trio thread.

A *turn* takes all that arrived (messages, ticks, completed writes, proposals, reads), steps Raft, and hands
on what became due: messages to the links, writes to the writer thread, results to whoever waits. One task
owns Raft; nothing here awaits in the middle of a turn, so no lock is needed (hazards 7, 81). What may leave
before a write and what only after it is written in `raftd.core.ready`; this module obeys it.
"""

import contextlib
import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import NoReturn, Protocol

import structlog
import trio

from raftd.core.config import RaftConfig
from raftd.core.messages import Entry, EntryKind, Envelope, Message
from raftd.core.raft import Raft
from raftd.core.ready import LogRead, Ready, Role, SoftState
from raftd.kv import StateMachine
from raftd.kv.command import Applied, decode_payload
from raftd.proposals import Proposals, Submission
from raftd.reads import Read, Reads
from raftd.store import Recovered, Store, WriteJob, WriteTransaction
from raftd.writing import NodeWriter, Report, StartWriter

log = structlog.get_logger()


class Links(Protocol):
    """How messages leave. A message that cannot be sent now is dropped: Raft repeats what matters."""

    def send(self, envelopes: Sequence[Envelope]) -> None: ...


@dataclass(slots=True)
class _Write:
    """A write under way and the messages that wait for it."""

    last_index: int
    last_term: int
    messages: list[Envelope]


class Node:
    """Owns Raft for the life of the process. All methods are called on the Trio thread and return at once.

    Invariant: `_writing` holds, in order, the jobs with term, vote or entries that the writer has not
    reported durable.
    """

    def __init__(
        self,
        raft_config: RaftConfig,
        recovered: Recovered,
        store: Store,
        start_writer: StartWriter,
        state_machine: StateMachine,
        links: Links,
        seed: random.Random,
    ) -> None:
        self.raft = Raft(
            raft_config,
            seed,
            recovered.hard_state,
            recovered.base_index,
            recovered.base_term,
            recovered.entries,
            recovered.applied_index,
        )
        self.soft_state = SoftState(self.raft.role, self.raft.term, self.raft.leader)
        self.soft_state_changed = trio.Event()
        self.leaving = False
        self.applied_index = recovered.applied_index
        self.durable_applied_index = recovered.applied_index
        self.reads = Reads(store, state_machine.current_revision, lambda: self._awake.set())
        self.writer_hangs = False
        """After `run`: a sync did not end in time."""
        self._config = raft_config
        self._store = store
        self.state_machine = state_machine
        self._links = links
        self._proposals = Proposals()
        self._start_writer = start_writer
        self._writer: NodeWriter | None = None
        self._writing: deque[_Write] = deque()
        self._arrived: list[Callable[[], None]] = []
        self._awake = trio.Event()
        self._ticked_at = 0.0
        with store.read() as reader:
            self._cluster_time_ms = state_machine.cluster_time_ms(reader)
            self.revision = state_machine.current_revision(reader)
            self.compacted_revision = state_machine.compacted_revision(reader)
            self.compaction_pending = state_machine.compaction_pending(reader)
        self.durable_revision = self.revision
        """What any transaction that begins now can see, at least."""
        self.revision_committed = trio.Event()
        """Set, and replaced, when `durable_revision` has grown."""
        self.applied: list[Callable[[Entry, Applied], None]] = []
        """Called for every entry when it is applied, on the Trio thread."""
        self.before_apply: list[Callable[[WriteTransaction, Entry], None]] = []
        """Called for every entry before it is applied, on the writer's thread; they may read only."""
        self._uncommitted: deque[tuple[int, int]] = deque()
        self._in_office_since = 0.0
        self._commit_asked_index = 0
        self._last_commands: Entry | None = None
        self._log = log.bind(node=f"{raft_config.node_id:x}")

    # What the rest of the process asks for.

    def receive(self, sender: int, messages: Sequence[Message]) -> None:
        """Messages from another node, in the order of their stream."""
        self._arrived.extend(partial(self.raft.step, sender, message) for message in messages)
        self._awake.set()

    def stream_broken(self, peer: int) -> None:
        """The control stream from `peer` ended: it may be gone."""
        self._arrived.append(partial(self.raft.leader_stream_broken, peer))
        self._awake.set()

    def stream_restored(self, peer: int) -> None:
        """A new data stream to `peer` has begun; what the old one carried may be lost."""
        self._arrived.append(partial(self.raft.stream_restored, peer))
        self._awake.set()

    def submit(self, submission: Submission) -> None:
        """Takes commands for the log; their `done` is called in a later turn, or at once when refused."""
        self._proposals.add(submission)
        self._awake.set()

    def withdraw(self, submission: Submission) -> bool:
        """Takes back what was submitted. True: it surely was not and will not be done."""
        return self._proposals.withdraw(submission)

    def read(self, read: Read) -> None:
        """Takes a read; its `done` is called in a later turn, or at once when refused."""
        self.reads.add(read)
        self._awake.set()

    def transfer_leadership(self, to: int | None = None) -> None:
        """Thesis §3.10; `to` None means the follower that is furthest."""
        self._arrived.append(lambda: void(self.raft.transfer_leadership(to)))
        self._awake.set()

    def leave(self) -> None:
        """Shows in the leader table that this node is about to stop."""
        self.leaving = True
        self._announce()

    @property
    def has_left_store(self) -> bool:
        """After `run`: whether no thread of this node uses the store any more."""
        return not self.writer_hangs and not self.reads.is_in_threads

    @property
    def leads(self) -> bool:
        return self.soft_state.role is Role.LEADER

    # The loop.

    async def run(self) -> NoReturn:
        """Turns until cancelled. Raises what ended the writer: `Fenced` when the store failed, and then the
        node must stop for good.
        """
        self._ticked_at = self._in_office_since = trio.current_time()
        entry_queue = trio.lowlevel.current_trio_token()

        def done(reports: list[Report]) -> None:
            with contextlib.suppress(trio.RunFinishedError):
                entry_queue.run_sync_soon(self._reported, reports)

        writer = self._writer = self._start_writer(self._apply, done)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.reads.run)
                while True:
                    await self._sleep()
                    self._turn(nursery)
        finally:
            with trio.CancelScope(shield=True):
                self.writer_hangs = not await writer.close()

    async def _sleep(self) -> None:
        due_s = self.raft.ticks_until_due() * self._config.tick_ms / 1000
        due_at = min(self._ticked_at + due_s, self.reads.next_due_at())
        with trio.move_on_at(due_at):
            await self._awake.wait()
        self._awake = trio.Event()

    def _turn(self, nursery: trio.Nursery) -> None:
        arrived, self._arrived = self._arrived, []
        for happen in arrived:
            happen()
        self._tick()
        self._proposals.propose(self.raft, self.cluster_time_ms())
        self.reads.begin_round(self.raft)
        while self.raft.has_ready():
            self._act_on(self.raft.ready(), nursery)
        if (
            self.reads.release(self.applied_index, self.durable_applied_index)
            and self._commit_asked_index < self.applied_index
        ):
            self._commit_asked_index = self.applied_index
            self._submit(WriteJob(commit_now=True))

    def _tick(self) -> None:
        now = trio.current_time()
        # Rounded a little up: a wake-up at exactly the tick that is due must find it due.
        ticks = int((now - self._ticked_at) * 1000 / self._config.tick_ms + 1e-6)
        if ticks:
            self._ticked_at += ticks * self._config.tick_ms / 1000
            self.raft.tick(ticks)
        self.reads.expire()

    def _act_on(self, ready: Ready, nursery: trio.Nursery) -> None:
        if ready.soft_state is not None:
            self._change_soft_state(ready.soft_state)
        self._links.send(ready.messages)
        job = WriteJob(ready.hard_state, ready.entries, ready.committed)
        if _must_be_durable(job):
            index, term = (ready.entries[-1].index, ready.entries[-1].term) if ready.entries else (0, 0)
            self._writing.append(_Write(index, term, ready.messages_after_write))
            self._submit(job)
        else:
            if job.committed:
                self._submit(job)
            if self._writing:
                self._writing[-1].messages.extend(ready.messages_after_write)
            else:
                self._links.send(ready.messages_after_write)
        for state in ready.reads:
            self.reads.round_ended(state)
        for log_read in ready.log_reads:
            nursery.start_soon(self._load_log, log_read)

    def _submit(self, job: WriteJob) -> None:
        assert self._writer is not None, "the writer starts before the first turn"
        self._writer.submit(job)

    def _reported(self, reports: Sequence[Report]) -> None:
        self._arrived.extend(partial(self._take_report, report) for report in reports)
        self._awake.set()

    def _take_report(self, report: Report) -> None:
        if isinstance(report, Exception):
            raise report
        for entry, applied in report.results:
            self._applied(entry, applied)
        self._take_up_durable(report.durable_applied_index)
        if report.durable and _must_be_durable(report.job):
            write = self._writing.popleft()
            self._links.send(write.messages)
            self.raft.written(write.last_index, write.last_term)

    def _take_up_durable(self, durable_applied_index: int) -> None:
        self.durable_applied_index = durable_applied_index
        reached = self.durable_revision
        while self._uncommitted and self._uncommitted[0][0] <= durable_applied_index:
            _, reached = self._uncommitted.popleft()
        if reached > self.durable_revision:
            self.durable_revision = reached
            committed, self.revision_committed = self.revision_committed, trio.Event()
            committed.set()

    def _apply(self, transaction: WriteTransaction, entry: Entry) -> Applied:
        """On the writer's thread."""
        for prepare in self.before_apply:
            prepare(transaction, entry)
        return self.state_machine.apply(transaction, entry)

    def _applied(self, entry: Entry, applied: Applied) -> None:
        self.applied_index = entry.index
        self.compacted_revision = applied.compacted_revision
        self.compaction_pending = applied.compaction_pending
        if applied.revision != self.revision:
            self.revision = applied.revision
            self._uncommitted.append((entry.index, applied.revision))
        if entry.kind is EntryKind.COMMANDS:
            self._last_commands = entry
        elif self.leads:
            self._take_up_cluster_time(self.cluster_time_ms())
        for follow in self.applied:
            follow(entry, applied)
        self._proposals.applied(entry, applied.results)
        self.raft.applied(entry.index)

    async def _load_log(self, log_read: LogRead) -> None:
        prev_term, entries = await trio.to_thread.run_sync(
            self._store.load_entries, log_read.first_index, log_read.max_bytes
        )
        self._arrived.append(partial(self.raft.log_loaded, log_read.follower, prev_term, entries))
        self._awake.set()

    # Cluster time: it stands in the log and never goes back; a leader proposes the last value
    # plus its own monotonic time in office. What it took for the last value is corrected by the no-op of its
    # term: by then all earlier entries are applied.

    def cluster_time_ms(self) -> int:
        """While this node leads, as of the no-op of its term."""
        return self._cluster_time_ms + int((trio.current_time() - self._in_office_since) * 1000)

    def _take_up_cluster_time(self, reached_ms: int) -> None:
        if self._last_commands is not None:
            last_ms, _ = decode_payload(self._last_commands.payload)
            reached_ms = max(reached_ms, last_ms)
        self._cluster_time_ms = reached_ms
        self._in_office_since = trio.current_time()

    def _change_soft_state(self, soft_state: SoftState) -> None:
        previous, self.soft_state = self.soft_state, soft_state
        if soft_state.role is Role.LEADER and previous.role is not Role.LEADER:
            self._take_up_cluster_time(self._cluster_time_ms)
        self._announce()
        self._log.info(
            "role changed" if soft_state.role is not previous.role else "leader changed",
            role=soft_state.role.value,
            term=soft_state.term,
            leader=f"{soft_state.leader:x}" if soft_state.leader is not None else None,
        )

    def _announce(self) -> None:
        changed, self.soft_state_changed = self.soft_state_changed, trio.Event()
        changed.set()


def _must_be_durable(job: WriteJob) -> bool:
    return job.hard_state is not None or bool(job.entries)


def void(_: object) -> None:
    """Drops a value where a callback must return none."""
