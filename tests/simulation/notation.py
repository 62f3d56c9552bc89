"""How nodes, entries, messages and events read in traces: one notation for golden scripts and simulation.

A node is `n1`, an entry `5@2` (index@term) with its payload in quotes, a message `m7` (the seventh sent).
"""

from raftd.core.messages import (
    AppendEntries,
    AppendEntriesReply,
    Entry,
    EntryKind,
    HardState,
    Heartbeat,
    HeartbeatReply,
    Message,
    ReadIndex,
    ReadIndexReply,
    RequestVote,
    RequestVoteReply,
    TimeoutNow,
)


def entry_text(entry: Entry) -> str:
    if entry.kind is EntryKind.COMMANDS:
        return f'{entry.index}@{entry.term}"{entry.payload.decode("ascii", "replace")}"'
    if entry.kind is EntryKind.NOOP:
        return f"{entry.index}@{entry.term}"
    return f"{entry.index}@{entry.term}{entry.kind.name.lower()}"


def entries_text(entries: list[Entry] | tuple[Entry, ...]) -> str:
    return "[" + " ".join(entry_text(entry) for entry in entries) + "]"


def hard_state_text(hard_state: HardState) -> str:
    vote = "-" if hard_state.voted_for is None else f"n{hard_state.voted_for}"
    return f"term={hard_state.term} vote={vote}"


def _append_reply_text(message: AppendEntriesReply) -> str:
    if message.success:
        return f"AppendEntriesReply match={message.match_index}"
    conflict = f"{message.conflict_index}@{message.conflict_term}"
    return f"AppendEntriesReply refused={message.rejected_index} conflict={conflict}"


def message_text(message: Message) -> str:
    """What a message says, without its term (which stands beside its sender)."""
    match message:
        case RequestVote():
            name = "PreVote" if message.pre_vote else "RequestVote"
            by_transfer = " by-transfer" if message.leadership_transfer else ""
            return f"{name} last={message.last_log_index}@{message.last_log_term}{by_transfer}"
        case RequestVoteReply():
            name = "PreVoteReply" if message.pre_vote else "RequestVoteReply"
            return f"{name} {'granted' if message.granted else 'refused'}"
        case AppendEntries():
            base = f"{message.prev_log_index}@{message.prev_log_term}"
            entries = f" {entries_text(message.entries)}" if message.entries else ""
            return f"AppendEntries base={base}{entries} commit={message.leader_commit}"
        case AppendEntriesReply():
            return _append_reply_text(message)
        case Heartbeat():
            return f"Heartbeat commit={message.leader_commit} round={message.round}"
        case HeartbeatReply():
            return f"HeartbeatReply round={message.round}"
        case ReadIndex():
            return f"ReadIndex nonce={message.nonce}"
        case ReadIndexReply():
            answer = "refused" if message.refused else f"index={message.index}"
            return f"ReadIndexReply nonce={message.nonce} {answer}"
        case TimeoutNow():
            return "TimeoutNow"


def envelope_text(number: int, sender: int, to: int, message: Message) -> str:
    return f"m{number} n{sender}@{message.term} → n{to} {message_text(message)}"
