"""What every role shares: Figure 2's state of all servers, the clock in ticks, and what waits for the
next Ready.

It does not know which role the node plays. `Raft` owns one and lends it to the role objects.
"""

from collections import Counter, deque
from dataclasses import dataclass
from random import Random

from raftd.core.config import RaftConfig
from raftd.core.log import Log
from raftd.core.messages import Entry, Envelope, HardState, Message
from raftd.core.ready import LogRead, ReadState


@dataclass(slots=True)
class _Write:
    """A write that the outside was asked for. `durable_index` sinks when a later write cuts its entries."""

    index: int
    term: int
    durable_index: int
    hard_state: HardState


class Replica:
    """Term, vote, log, clock and outbox.

    Invariants: the term never falls; within a term the vote is set at most once (§5.2); a message that
    speaks of a term or vote not yet on disk never leaves before it is (hazards 1–4).
    """

    __slots__ = (
        "_messages",
        "_messages_after_write",
        "_sync_started_tick",
        "_writes",
        "config",
        "durable_hard_state",
        "hard_state",
        "ignored",
        "log",
        "log_reads",
        "node_id",
        "now",
        "peers",
        "random",
        "reads",
        "syncing_index",
        "writing_hard_state",
    )

    def __init__(self, config: RaftConfig, random: Random, hard_state: HardState, log: Log) -> None:
        self.config = config
        self.node_id = config.node_id
        self.peers = config.peers
        self.random = random
        self.now = 0
        self.log = log
        self.hard_state = hard_state
        self.writing_hard_state = hard_state
        self.durable_hard_state = hard_state
        self._writes: deque[_Write] = deque()
        self._sync_started_tick = 0
        self.syncing_index = 0
        """The last entry of the sync under way, while there is one."""
        self._messages: list[Envelope] = []
        self._messages_after_write: list[Envelope] = []
        self.reads: list[ReadState] = []
        self.log_reads: list[LogRead] = []
        self.ignored: Counter[str] = Counter()
        """Remote messages that were dropped, by reason."""

    @property
    def term(self) -> int:
        return self.hard_state.term

    def set_term_and_vote(self, term: int, voted_for: int | None) -> None:
        """Both always change together (hazard 1)."""
        old = self.hard_state
        assert term >= old.term, f"term {old.term} → {term}"
        assert term > old.term or old.voted_for in (None, voted_for), (
            f"vote {old.voted_for} → {voted_for} within term {term}"
        )
        if (term, voted_for) != (old.term, old.voted_for):
            self.hard_state = HardState(term, voted_for)

    def election_timeout(self) -> int:
        """A fresh random wait, in ticks: equal timers would split votes for ever (§5.2, hazard 17)."""
        timeout = self.config.election_timeout_ticks
        return self.random.randrange(timeout, 2 * timeout)

    def send(self, to: int, message: Message) -> None:
        """At once, unless it would tell of a term that is not on disk yet."""
        if self.hard_state is self.durable_hard_state:
            self._messages.append(Envelope(to, message))
        else:
            self._messages_after_write.append(Envelope(to, message))

    def send_after_write(self, to: int, message: Message) -> None:
        """For what depends on all that is in the log, the term and the vote so far."""
        self._messages_after_write.append(Envelope(to, message))

    def finish_read(self, token: int, index: int | None) -> None:
        self.reads.append(ReadState(token, index))

    def ignore(self, reason: str) -> None:
        self.ignored[reason] += 1

    def take_messages(self) -> tuple[list[Envelope], list[Envelope]]:
        """(at once, after the write)."""
        taken = self._messages, self._messages_after_write
        self._messages, self._messages_after_write = [], []
        return taken

    def has_output(self) -> bool:
        log = self.log
        return bool(
            self._messages
            or self._messages_after_write
            or self.reads
            or self.log_reads
            or self.hard_state is not self.writing_hard_state
            or log.writing_index < log.last_index
            or log.applying_index < log.commit_index
        )

    def begin_write(self) -> tuple[HardState | None, list[Entry]]:
        """What the next write must hold; it is under way from now on."""
        changed = self.hard_state is not self.writing_hard_state
        entries = self.log.take_unwritten()
        if changed or entries:
            index, term = (entries[-1].index, entries[-1].term) if entries else (0, 0)
            self._writes.append(_Write(index, term, index, self.hard_state))
            if len(self._writes) == 1:
                self._begin_sync()
        self.writing_hard_state = self.hard_state
        return (self.hard_state if changed else None), entries

    def entries_cut(self, first_index: int) -> None:
        """Entries from `first_index` on were replaced: no write under way makes them durable any more,
        even if an entry with the same index and term returns later (the ABA race of hazard 27)."""
        for write in self._writes:
            write.durable_index = min(write.durable_index, first_index - 1)

    def finish_write(self, index: int, term: int) -> None:
        """The oldest write under way that ended with this entry, and all before it, are durable."""
        assert any(write.index == index and write.term == term for write in self._writes), (
            f"no write under way ends with entry {index} of term {term}"
        )
        while True:
            write = self._writes.popleft()
            self.log.mark_durable(write.durable_index)
            self.durable_hard_state = write.hard_state
            if write.index == index and write.term == term:
                break
        if self._writes:
            self._begin_sync()

    def _begin_sync(self) -> None:
        """Group commit: what was asked for by the end of one sync goes into the next."""
        self._sync_started_tick = self.now
        self.syncing_index = self.log.writing_index

    def sync_age_ticks(self) -> int:
        """How long the sync under way has lasted; 0 when there is none."""
        return self.now - self._sync_started_tick if self._writes else 0

    def is_sync_overdue(self) -> bool:
        """Whether the sync under way has lasted an election timeout (hazard 18)."""
        return self.sync_age_ticks() >= self.config.election_timeout_ticks
