"""The one thread that writes: group commit of log, vote and applied entries.

It owns every write transaction from begin to commit, because an LMDB transaction must not change threads
(hazard 68). While one commit syncs, jobs gather in the queue; the next commit takes them all. A job's log
entries and vote are written, then its committed entries applied, in one transaction. Applied results are
reported *before* the sync: a majority already has those entries on disk, so a put waits for one sync and
not for two (that a single node does not commit before its own sync, hazard 32, is the core's
duty). What is applied is seen by readers only after the commit, which comes at once when log or vote
changed and else within `APPLY_COMMIT_DELAY_MS`.

The first error ends the thread and is the last thing reported: `Fenced` for a storage error, after which
nothing may be acknowledged (hazard 61); anything else is a programmer's mistake or an entry that this
program must not apply. Knows nothing of Raft and nothing of Trio; the node hands in a `done` that carries
reports to its own thread.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from raftd.core.messages import Entry, HardState
from raftd.store.limits import APPLY_COMMIT_DELAY_MS, MAX_JOBS_PER_COMMIT, MAX_QUEUED_JOBS
from raftd.store.store import Store
from raftd.store.transaction import WriteTransaction

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class WriteJob:
    """One turn's work. `entries` replace the log from their first index on; `committed` are applied, in
    order; `commit_now` asks for a commit that nothing else in it causes; `token` is the node's own."""

    hard_state: HardState | None = None
    entries: Sequence[Entry] = ()
    committed: Sequence[Entry] = ()
    commit_now: bool = False
    token: Any = None


@dataclass(frozen=True, slots=True)
class Completion(Generic[T]):
    """A report on a job. A job with `committed` entries is reported first when they are applied, with their
    results and `durable` False; every job is reported with `durable` True, without results, once it and all
    jobs before it are on disk. `durable_applied_index` is the index up to which readers see the state."""

    job: WriteJob
    results: tuple[tuple[Entry, T], ...]
    durable: bool
    applied_index: int
    durable_applied_index: int


class Writer(Generic[T]):
    """Invariants: jobs run in the order of `submit`; reports come in that order; after an error nothing
    more is written and nothing more reported."""

    def __init__(
        self,
        store: Store,
        apply: Callable[[WriteTransaction, Entry], T],
        done: Callable[[list[Completion[T] | Exception]], None],
        *,
        apply_commit_delay_ms: float = APPLY_COMMIT_DELAY_MS,
    ) -> None:
        """Start the thread. `apply` and `done` are called on it; `done` must not block."""
        self._store = store
        self._apply = apply
        self._done = done
        self._apply_commit_delay_s = apply_commit_delay_ms / 1000
        self._queue: queue.SimpleQueue[WriteJob | None] = queue.SimpleQueue()
        self._transaction: WriteTransaction | None = None
        self._uncommitted: list[WriteJob] = []
        self._commit_due: float | None = None
        self._must_commit = False
        self._closing = False
        self._durable_applied_index = store.state.applied_index
        # A daemon, so that a sync that hangs for ever does not keep the process from ending (hazard 18).
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def submit(self, job: WriteJob) -> None:
        """Queue a job; never blocks. After an error it is dropped: the error has been reported."""
        assert self._queue.qsize() < MAX_QUEUED_JOBS, "the node outran its own bound"
        self._queue.put(job)

    def close(self) -> None:
        """Finish and commit what was submitted, then end the thread. Blocks; idempotent."""
        self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            while not self._closing:
                self._turn()
        except Exception as error:
            if self._transaction is not None:
                # Here and not in `Store.close`: the transaction must end on this thread (hazard 68).
                self._transaction.lmdb.abort()
            self._done([error])

    def _turn(self) -> None:
        jobs = self._take()
        with self._store.storage_errors():
            applied = [self._run_job(job) for job in jobs]
        if any(applied):
            self._done([report for report in applied if report is not None])
        if self._uncommitted and self._is_commit_due():
            with self._store.storage_errors():
                self._commit()
            durable = self._uncommitted
            self._uncommitted = []
            self._done([self._completion(job, (), durable=True) for job in durable])

    def _take(self) -> list[WriteJob]:
        """All that is queued, up to the bound; waits for the first, but not beyond the time a commit is
        due."""
        jobs: list[WriteJob] = []
        try:
            if self._commit_due is None:
                job = self._queue.get()
            else:
                job = self._queue.get(timeout=max(0.0, self._commit_due - time.monotonic()))
            while job is not None:
                jobs.append(job)
                if len(jobs) == MAX_JOBS_PER_COMMIT:
                    return jobs
                job = self._queue.get_nowait()
            self._closing = True
        except queue.Empty:
            pass  # taken all there is
        return jobs

    def _run_job(self, job: WriteJob) -> Completion[T] | None:
        transaction = self._transaction
        if transaction is None:
            transaction = self._transaction = self._store.begin_write()
        self._uncommitted.append(job)
        if job.hard_state is not None:
            self._store.set_hard_state(transaction, job.hard_state)
        if job.entries:
            self._store.append(transaction, job.entries)
        if job.hard_state is not None or job.entries or job.commit_now:
            self._must_commit = True
        if not job.committed:
            return None
        if self._commit_due is None:
            self._commit_due = time.monotonic() + self._apply_commit_delay_s
        state = self._store.state
        results: list[tuple[Entry, T]] = []
        for entry in job.committed:
            assert entry.index == state.applied_index + 1, (entry.index, state.applied_index)
            results.append((entry, self._apply(transaction, entry)))
            state.applied_index = entry.index
        return self._completion(job, tuple(results), durable=False)

    def _is_commit_due(self) -> bool:
        """Also when nothing that was run changed anything: then a commit costs nothing."""
        return (
            self._must_commit
            or self._closing
            or self._commit_due is None
            or time.monotonic() >= self._commit_due
        )

    def _commit(self) -> None:
        assert self._transaction is not None
        self._store.commit(self._transaction)
        self._transaction = None
        self._must_commit = False
        self._commit_due = None
        self._durable_applied_index = self._store.state.applied_index

    def _completion(
        self, job: WriteJob, results: tuple[tuple[Entry, T], ...], durable: bool
    ) -> Completion[T]:
        return Completion(job, results, durable, self._store.state.applied_index, self._durable_applied_index)
