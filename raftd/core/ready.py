"""What the core asks of the outside after it has been stepped: the contract between Raft and the node.

The node takes one `Ready` per turn and does, in this order or with the allowed overlap:

1. sends `messages` at once (a leader's AppendEntries may travel while its own disk writes, thesis §10.2.1);
2. writes `hard_state` and `entries` durably, in one transaction, in the order in which Readys were taken;
3. after that write is durable, sends `messages_after_write` and calls `Raft.written(...)`;
4. applies `committed`, in order, each once, and then calls `Raft.applied(index)`;
5. serves each read in `reads` once its index is applied;
6. loads each of `log_reads` from the store and answers with `Raft.log_loaded(...)`.

When `hard_state` is None and `entries` is empty there is nothing to wait for; `messages_after_write` still
wait for all *earlier* writes, because they may speak of them.
"""

from dataclasses import dataclass, field
from enum import Enum

from raftd.core.messages import Entry, Envelope, HardState


class Role(Enum):
    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"


@dataclass(frozen=True, slots=True)
class SoftState:
    """Volatile facts that the node logs and the leader table shows. `leader` is None when none is known."""

    role: Role
    term: int
    leader: int | None


@dataclass(frozen=True, slots=True)
class ReadState:
    """A read that is safe once `index` is applied. `index` None: it failed, nothing is known; ask again."""

    token: int
    index: int | None


@dataclass(frozen=True, slots=True)
class LogRead:
    """A follower needs entries from `first_index` on, which the core no longer holds in memory."""

    follower: int
    first_index: int
    max_bytes: int


@dataclass(slots=True)
class Ready:
    """Everything that has become due since the last one. `entries` replace all that the log holds from
    `entries[0].index` on."""

    hard_state: HardState | None = None
    entries: list[Entry] = field(default_factory=list)
    messages: list[Envelope] = field(default_factory=list)
    messages_after_write: list[Envelope] = field(default_factory=list)
    committed: list[Entry] = field(default_factory=list)
    reads: list[ReadState] = field(default_factory=list)
    log_reads: list[LogRead] = field(default_factory=list)
    soft_state: SoftState | None = None
    """Set when it changed."""
