"""Which remote messages make sense at all. Those that do not are counted and dropped before they reach a
role.

This is about shape only; whether a message is stale or allowed now is decided where it is handled.
"""

from raftd.core.config import MAX_TERM_OR_INDEX
from raftd.core.messages import (
    AppendEntries,
    AppendEntriesReply,
    Heartbeat,
    Message,
    ReadIndexReply,
    RequestVote,
)


def is_malformed(message: Message) -> bool:
    """Whether no correct node could have sent this."""
    if not 0 < message.term <= MAX_TERM_OR_INDEX:
        return True
    match message:
        case AppendEntries():
            return not _is_sound_append(message)
        case AppendEntriesReply():
            indexes = (message.match_index, message.rejected_index, message.conflict_index)
            return not all(map(_is_index, indexes)) or not 0 <= message.conflict_term <= message.term
        case RequestVote():
            return not _is_position(message.last_log_index, message.last_log_term, message.term)
        case Heartbeat():
            return not _is_index(message.leader_commit) or message.round < 0
        case ReadIndexReply():
            return not _is_index(message.index)
        case _:
            return False


def _is_sound_append(message: AppendEntries) -> bool:
    if not _is_position(message.prev_log_index, message.prev_log_term, message.term):
        return False
    if not _is_index(message.leader_commit):
        return False
    index, term = message.prev_log_index, message.prev_log_term
    for entry in message.entries:
        if entry.index != index + 1 or not max(term, 1) <= entry.term <= message.term:
            return False
        index, term = entry.index, entry.term
    return True


def _is_position(index: int, term: int, message_term: int) -> bool:
    return _is_index(index) and 0 <= term <= message_term and (index == 0) == (term == 0)


def _is_index(index: int) -> bool:
    return 0 <= index <= MAX_TERM_OR_INDEX
