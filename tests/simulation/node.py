"""What `raftd.node` is to the core, without Trio: takes each Ready, writes, sends, applies, serves reads.

Each public method is one event of a history and one command of a golden script. It must not decide when
anything happens: the simulation's event loop or a script does.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Protocol

from raftd.core.config import RaftConfig
from raftd.core.messages import Entry, Envelope, HardState, Message
from raftd.core.proposal import Proposed
from raftd.core.raft import Raft
from raftd.core.ready import LogRead, ReadState, Ready
from tests.simulation.checker import Checker, digest_after, require
from tests.simulation.disk import Disk, Job

MakeRaft = Callable[[RaftConfig, Random, HardState, int, int, Sequence[Entry], int], Raft]


class Surroundings(Protocol):
    """Where a node's effects go: the simulation or a script."""

    def send(self, sender: "Node", envelope: Envelope) -> None: ...
    def wants_log(self, node: "Node", log_read: LogRead) -> None: ...
    def took(self, node: "Node", ready: Ready) -> None: ...
    def applied(self, node: "Node", entry: Entry) -> None: ...
    def read_done(self, node: "Node", token: int, index: int | None) -> None: ...


class Node:
    """One process and its disk. Invariant: `applied_index` ≥ `disk.applied_index`; both name a committed
    prefix."""

    def __init__(
        self,
        config: RaftConfig,
        seed: str,
        make_raft: MakeRaft,
        checker: Checker,
        surroundings: Surroundings,
        bootstrap: Sequence[Entry],
    ) -> None:
        self.node_id = config.node_id
        self.disk = Disk()
        self.starts = 0
        self.applied_index = 0
        self.digest = 0
        self._config = config
        self._seed = seed
        self._make_raft = make_raft
        self._checker = checker
        self._surroundings = surroundings
        self._raft: Raft | None = None
        self._waiting_reads: list[ReadState] = []
        if bootstrap:
            self.disk.hard_state = HardState(term=bootstrap[-1].term, voted_for=None)
            self.disk.log.extend(bootstrap)
            self.disk.applied_index = len(bootstrap)
            self.disk.applied_digest = checker.digests[len(bootstrap)]

    def __str__(self) -> str:
        return f"n{self.node_id}"

    @property
    def is_up(self) -> bool:
        return self._raft is not None

    @property
    def core(self) -> Raft:
        assert self._raft is not None, f"{self} is down"
        return self._raft

    def state(self) -> str:
        """Where this node stands, for a report."""
        if self._raft is None:
            return f"{self} down"
        raft = self._raft
        return (
            f"{self} {raft.role.value} term {raft.term} leader {raft.leader} last {raft.last_index} "
            f"commit {raft.commit_index} applied {self.applied_index}"
        )

    def start(self, base_index: int = 0) -> None:
        """Comes up from its disk; the core's window of the log begins after `base_index`."""
        disk = self.disk
        base_index = min(base_index, disk.applied_index)
        self.applied_index = disk.applied_index
        self.digest = disk.applied_digest
        self._raft = self._make_raft(
            self._config,
            Random(f"{self._seed}/{self.node_id}/{self.starts}"),
            disk.hard_state,
            base_index,
            disk.term_at(base_index),
            disk.log[base_index:],
            disk.applied_index,
        )
        self.starts += 1
        self._checker.started(self)

    def crash(self) -> bool:
        """Loses all that the disk had not synced; True when that was a write."""
        self._raft = None
        self._waiting_reads.clear()
        return self.disk.crash()

    def tick(self, ticks: int) -> None:
        self.core.tick(ticks)
        self._checker.stepped(self)

    def receive(self, sender: int, message: Message) -> None:
        self.core.step(sender, message)
        self._checker.stepped(self)

    def propose(self, payload: bytes) -> tuple[int, int] | None:
        """(index, term) of the new entry; None when refused."""
        answer = self.core.propose(payload)
        self._checker.stepped(self)
        return (answer.index, answer.term) if isinstance(answer, Proposed) else None

    def read(self, token: int) -> None:
        self.core.read_index(token)
        self._checker.stepped(self)

    def lose_stream(self, peer: int) -> None:
        self.core.leader_stream_broken(peer)
        self._checker.stepped(self)

    def restore_stream(self, peer: int) -> None:
        self.core.stream_restored(peer)
        self._checker.stepped(self)

    def transfer(self, to: int | None) -> bool:
        accepted = self.core.transfer_leadership(to)
        self._checker.stepped(self)
        return accepted

    def load_log(self, log_read: LogRead) -> None:
        """Answers a LogRead from what is durable, as the store's read transaction does."""
        log = self.disk.log
        first_index = log_read.first_index
        require(0 < first_index <= len(log), "LogRead", self, "asks for", first_index, "of durable", len(log))
        entries: list[Entry] = []
        size = 0
        for entry in log[first_index - 1 :]:
            size += len(entry.payload)
            if entries and size > log_read.max_bytes:
                break
            entries.append(entry)
        self.core.log_loaded(log_read.follower, self.disk.term_at(first_index - 1), entries)
        self._checker.stepped(self)

    def turn(self) -> bool:
        """Takes one Ready and starts all it asks for; False when there was none."""
        raft = self.core
        if not raft.has_ready():
            return False
        ready = raft.ready()
        self._checker.turned(self, ready)
        self._surroundings.took(self, ready)
        for envelope in ready.messages:
            self._depart(envelope)
        after = ready.messages_after_write
        if ready.hard_state is not None or ready.entries:
            self.disk.queued.append(Job(ready.hard_state, ready.entries, ready.committed, after))
        else:
            if ready.committed:
                self.disk.queued.append(Job(None, [], ready.committed, []))
            if after:
                unsynced = self.disk.last_unsynced()
                if unsynced is not None:
                    unsynced.after.extend(after)
                else:
                    for envelope in after:
                        self._depart(envelope)
        for log_read in ready.log_reads:
            self._surroundings.wants_log(self, log_read)
        if ready.reads:
            self._waiting_reads.extend(ready.reads)
            self._serve_reads()
        return True

    def write(self) -> None:
        """The writer takes all queued jobs into its transaction: what they apply is visible at once."""
        for job in self.disk.start_pass():
            for entry in job.committed:
                self.digest = digest_after(self.digest, entry)
                self.applied_index = entry.index
                self._checker.applied(self, entry, self.digest)
                self._surroundings.applied(self, entry)
            if job.committed:
                self.core.applied(self.applied_index)
                self._checker.stepped(self)
        if self._waiting_reads:
            self._serve_reads()

    def sync(self) -> None:
        """The writer's transaction is durable: what waited for it leaves."""
        raft = self.core
        for job in self.disk.sync(self.applied_index, self.digest):
            for envelope in job.after:
                self._depart(envelope)
            if job.entries:
                raft.written(job.entries[-1].index, job.entries[-1].term)
                self._checker.stepped(self)
            elif job.hard_state is not None:
                raft.written(0, 0)
                self._checker.stepped(self)

    def _depart(self, envelope: Envelope) -> None:
        self._checker.departs(self, envelope)
        self._surroundings.send(self, envelope)

    def _serve_reads(self) -> None:
        waiting = []
        for read in self._waiting_reads:
            if read.index is not None and read.index > self.applied_index:
                waiting.append(read)
            else:
                self._surroundings.read_done(self, read.token, read.index)
        self._waiting_reads = waiting
