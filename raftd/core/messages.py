"""What Raft nodes say to each other, as plain values.

Terms, fields and rules are those of the Raft paper (Figure 2) and of the thesis (§6.4 reads, §9.6 PreVote,
§3.10 leadership transfer). Heartbeats are a message of their own, apart from AppendEntries, so that they
never wait behind entries. Nothing here knows how a message travels; `raftd.peers.codec` puts it on the
wire.

Node ids are unsigned 64-bit integers, never 0. Terms and indexes start at 1; 0 stands for "before the log".
"""

from dataclasses import dataclass
from enum import IntEnum


class EntryKind(IntEnum):
    """What an entry's payload is; the numbers are those of the wire and of the disk."""

    NOOP = 0
    COMMANDS = 1
    MEMBERSHIP = 2


@dataclass(frozen=True, slots=True)
class Entry:
    """One log record. Raft never looks into `payload`."""

    index: int
    term: int
    kind: EntryKind
    payload: bytes


@dataclass(frozen=True, slots=True)
class HardState:
    """What must be durable before a reply may depend on it: always written together (hazard 1)."""

    term: int
    voted_for: int | None


@dataclass(frozen=True, slots=True)
class RequestVote:
    """§5.2, §5.4.1. With `pre_vote` (thesis §9.6) `term` is the one the sender would campaign for."""

    term: int
    last_log_index: int
    last_log_term: int
    pre_vote: bool
    leadership_transfer: bool


@dataclass(frozen=True, slots=True)
class RequestVoteReply:
    """`term` is the voter's, but for a granted PreVote: then it repeats the term asked for."""

    term: int
    granted: bool
    pre_vote: bool


@dataclass(frozen=True, slots=True)
class AppendEntries:
    """§5.3. Without entries it is a probe for the place where the logs part."""

    term: int
    prev_log_index: int
    prev_log_term: int
    leader_commit: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class AppendEntriesReply:
    """On success `match_index` is durable at the sender and equal to the leader's log up to there.

    On refusal `rejected_index` names the append (its prev_log_index), `conflict_index` and `conflict_term`
    where to look next (§5.3: the first index of the conflicting term; term 0 when the follower's log is too
    short).
    """

    term: int
    success: bool
    match_index: int
    rejected_index: int
    conflict_index: int
    conflict_term: int


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Leadership, commit index (never above what the receiver is known to match) and a ReadIndex round."""

    term: int
    leader_commit: int
    round: int


@dataclass(frozen=True, slots=True)
class HeartbeatReply:
    term: int
    round: int


@dataclass(frozen=True, slots=True)
class ReadIndex:
    """A follower asks the leader for a safe read index (thesis §6.4); `nonce` is never reused (hazard 37)."""

    term: int
    nonce: int


@dataclass(frozen=True, slots=True)
class ReadIndexReply:
    """`refused` when the sender does not lead (any more); else everything committed before the request is ≤
    `index`.
    """

    term: int
    nonce: int
    index: int
    refused: bool


@dataclass(frozen=True, slots=True)
class TimeoutNow:
    """Thesis §3.10: the leader asks its successor to campaign at once."""

    term: int


Message = (
    RequestVote
    | RequestVoteReply
    | AppendEntries
    | AppendEntriesReply
    | Heartbeat
    | HeartbeatReply
    | ReadIndex
    | ReadIndexReply
    | TimeoutNow
)

REPLIES = (RequestVoteReply, AppendEntriesReply, HeartbeatReply, ReadIndexReply)
"""These return on the stream that brought what they answer; all others go out on a stream the sender
dialled.
"""

BULK = (AppendEntries, AppendEntriesReply)
"""These travel on the data stream; all others on the control stream."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message and its receiver."""

    to: int
    message: Message
