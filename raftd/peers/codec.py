"""Raft's messages on the wire: `raftd.core.messages` ↔ `proto/peer.proto`.

What comes from the network is checked here for form only (known kind, indexes that fit, contiguous
entries); whether it makes sense is for the core to say. A malformed message raises `MalformedMessage` and
reaches no core.
"""

from collections.abc import Sequence
from itertools import pairwise

from proto import peer_pb2 as pb
from raftd.core import messages as raft


class MalformedMessage(Exception):
    """The text says what is wrong with the message."""


def encode(messages: Sequence[raft.Message]) -> pb.Batch:
    """Gathers messages to one receiver into one stream message, in order."""
    batch = pb.Batch()
    for message in messages:
        _encode_one(batch.messages.add(), message)
    return batch


def decode(batch: pb.Batch) -> list[raft.Message]:
    """Raises MalformedMessage."""
    return [_decode_one(wire) for wire in batch.messages]


def _encode_one(wire: pb.Message, message: raft.Message) -> None:
    wire.term = message.term
    match message:
        case raft.AppendEntries():
            append = wire.append_entries
            append.prev_log_index = message.prev_log_index
            append.prev_log_term = message.prev_log_term
            append.leader_commit = message.leader_commit
            append.SetInParent()
            for entry in message.entries:
                append.entries.add(
                    index=entry.index,
                    term=entry.term,
                    kind=pb.Entry.Kind.ValueType(entry.kind),
                    payload=entry.payload,
                )
        case raft.AppendEntriesReply():
            wire.append_entries_reply.CopyFrom(
                pb.AppendEntriesReply(
                    success=message.success,
                    match_index=message.match_index,
                    rejected_index=message.rejected_index,
                    conflict_index=message.conflict_index,
                    conflict_term=message.conflict_term,
                )
            )
        case raft.Heartbeat():
            wire.heartbeat.CopyFrom(pb.Heartbeat(leader_commit=message.leader_commit, round=message.round))
        case raft.HeartbeatReply():
            wire.heartbeat_reply.CopyFrom(pb.HeartbeatReply(round=message.round))
        case raft.ReadIndex():
            wire.read_index.CopyFrom(pb.ReadIndex(nonce=message.nonce))
        case raft.ReadIndexReply():
            wire.read_index_reply.CopyFrom(
                pb.ReadIndexReply(nonce=message.nonce, index=message.index, refused=message.refused)
            )
        case raft.RequestVote():
            wire.request_vote.CopyFrom(
                pb.RequestVote(
                    last_log_index=message.last_log_index,
                    last_log_term=message.last_log_term,
                    pre_vote=message.pre_vote,
                    leadership_transfer=message.leadership_transfer,
                )
            )
        case raft.RequestVoteReply():
            wire.request_vote_reply.CopyFrom(
                pb.RequestVoteReply(granted=message.granted, pre_vote=message.pre_vote)
            )
        case raft.TimeoutNow():
            wire.timeout_now.SetInParent()


def _decode_one(wire: pb.Message) -> raft.Message:
    term = wire.term
    match wire.WhichOneof("body"):
        case "append_entries":
            append = wire.append_entries
            return raft.AppendEntries(
                term,
                append.prev_log_index,
                append.prev_log_term,
                append.leader_commit,
                _decode_entries(append),
            )
        case "append_entries_reply":
            reply = wire.append_entries_reply
            return raft.AppendEntriesReply(
                term,
                reply.success,
                reply.match_index,
                reply.rejected_index,
                reply.conflict_index,
                reply.conflict_term,
            )
        case "heartbeat":
            return raft.Heartbeat(term, wire.heartbeat.leader_commit, wire.heartbeat.round)
        case "heartbeat_reply":
            return raft.HeartbeatReply(term, wire.heartbeat_reply.round)
        case "read_index":
            return raft.ReadIndex(term, wire.read_index.nonce)
        case "read_index_reply":
            read = wire.read_index_reply
            return raft.ReadIndexReply(term, read.nonce, read.index, read.refused)
        case "request_vote":
            vote = wire.request_vote
            return raft.RequestVote(
                term,
                vote.last_log_index,
                vote.last_log_term,
                vote.pre_vote,
                vote.leadership_transfer,
            )
        case "request_vote_reply":
            granted = wire.request_vote_reply
            return raft.RequestVoteReply(term, granted.granted, granted.pre_vote)
        case "timeout_now":
            return raft.TimeoutNow(term)
    raise MalformedMessage("a message of a kind this version does not know")


def _decode_entries(append: pb.AppendEntries) -> tuple[raft.Entry, ...]:
    try:
        entries = tuple(
            raft.Entry(entry.index, entry.term, raft.EntryKind(entry.kind), entry.payload)
            for entry in append.entries
        )
    except ValueError as error:
        raise MalformedMessage(f"an entry of a kind this version does not know: {error}") from error
    if entries and entries[0].index != append.prev_log_index + 1:
        raise MalformedMessage(
            f"entries start at {entries[0].index} after prev_log_index {append.prev_log_index}"
        )
    for earlier, later in pairwise(entries):
        if later.index != earlier.index + 1:
            raise MalformedMessage(f"entry {later.index} follows entry {earlier.index}")
    return entries
