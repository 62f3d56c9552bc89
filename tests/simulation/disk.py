"""A node's disk as the core may rely on it: what was synced survives a crash, what was not is gone.

It must not know Raft. `tests.simulation.node` submits one job for each Ready, in order; a pass of the
writer takes all that are queued (group commit) and a later sync makes that pass durable as a whole, as
LMDB's transaction does.
"""

from dataclasses import dataclass, field

from raftd.core.messages import Entry, Envelope, HardState


@dataclass(slots=True)
class Job:
    """What one Ready asks of the disk. `after` are the messages that must wait for it."""

    hard_state: HardState | None
    entries: list[Entry]
    committed: list[Entry]
    after: list[Envelope]

    @property
    def must_sync(self) -> bool:
        return self.hard_state is not None or bool(self.entries)


@dataclass(slots=True)
class Disk:
    """Invariant: `log[i]` has index i + 1; `applied_index` ≤ len(log). Both are what survives a crash."""

    hard_state: HardState = field(default_factory=lambda: HardState(term=0, voted_for=None))
    log: list[Entry] = field(default_factory=list)
    applied_index: int = 0
    applied_digest: int = 0
    queued: list[Job] = field(default_factory=list)
    running: list[Job] = field(default_factory=list)

    def term_at(self, index: int) -> int:
        return self.log[index - 1].term if index else 0

    def last_unsynced(self) -> Job | None:
        """The newest write that is not durable yet; nothing that speaks of it may leave before it is."""
        for jobs in (self.queued, self.running):
            for job in reversed(jobs):
                if job.must_sync:
                    return job
        return None

    def start_pass(self) -> list[Job]:
        """The jobs the writer now executes in its open transaction; durable at the next `sync`."""
        jobs, self.queued = self.queued, []
        self.running.extend(jobs)
        return jobs

    def needs_sync(self) -> bool:
        return any(job.must_sync for job in self.running)

    def sync(self, applied_index: int, applied_digest: int) -> list[Job]:
        """Makes all that was executed durable, together with how far the state machine had come."""
        jobs, self.running = self.running, []
        for job in jobs:
            if job.hard_state is not None:
                self.hard_state = job.hard_state
            if job.entries:
                first_index = job.entries[0].index
                assert first_index <= len(self.log) + 1, f"gap: {first_index} after {len(self.log)}"
                del self.log[first_index - 1 :]
                self.log.extend(job.entries)
        self.applied_index = applied_index
        self.applied_digest = applied_digest
        return jobs

    def crash(self) -> bool:
        """Loses what was not durable; True when that was a write."""
        lost = self.last_unsynced() is not None
        self.queued.clear()
        self.running.clear()
        return lost
