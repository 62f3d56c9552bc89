"""Raft's messages survive the wire, and what is malformed is named and goes no further."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proto import peer_pb2
from raftd.core import messages as raft
from raftd.peers.codec import MalformedMessage, decode, encode

number = st.integers(0, 2**63 - 1)
flag = st.booleans()


@st.composite
def append_entries(draw: st.DrawFn) -> raft.AppendEntries:
    term, previous = draw(number), draw(st.integers(0, 2**60))
    payloads = draw(st.lists(st.binary(max_size=20), max_size=4))
    kinds = st.sampled_from(raft.EntryKind)
    entries = tuple(
        raft.Entry(previous + 1 + offset, draw(number), draw(kinds), payload)
        for offset, payload in enumerate(payloads)
    )
    return raft.AppendEntries(term, previous, draw(number), draw(number), entries)


message = st.one_of(
    append_entries(),
    st.builds(raft.AppendEntriesReply, number, flag, number, number, number, number),
    st.builds(raft.Heartbeat, number, number, number),
    st.builds(raft.HeartbeatReply, number, number),
    st.builds(raft.ReadIndex, number, number),
    st.builds(raft.ReadIndexReply, number, number, number, flag),
    st.builds(raft.RequestVote, number, number, number, flag, flag),
    st.builds(raft.RequestVoteReply, number, flag, flag),
    st.builds(raft.TimeoutNow, number),
)


@given(st.lists(message, max_size=5))
def test_messages_survive_the_wire(messages: list[raft.Message]) -> None:
    wire = encode(messages).SerializeToString()
    assert decode(peer_pb2.Batch.FromString(wire)) == messages


KIND_OF_LATER = peer_pb2.Entry.Kind.ValueType(9)


def one(**body: object) -> peer_pb2.Batch:
    return peer_pb2.Batch(messages=[peer_pb2.Message(term=1, **body)])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("batch", "reason"),
    [
        (one(), "kind this version does not know"),
        (
            one(append_entries=peer_pb2.AppendEntries(prev_log_index=4, entries=[peer_pb2.Entry(index=6)])),
            "start at 6 after prev_log_index 4",
        ),
        (
            one(
                append_entries=peer_pb2.AppendEntries(
                    entries=[peer_pb2.Entry(index=1), peer_pb2.Entry(index=3)]
                )
            ),
            "entry 3 follows entry 1",
        ),
        (
            one(append_entries=peer_pb2.AppendEntries(entries=[peer_pb2.Entry(index=1, kind=KIND_OF_LATER)])),
            "entry of a kind this version",
        ),
    ],
)
def test_malformed_messages_are_named(batch: peer_pb2.Batch, reason: str) -> None:
    """Hazard 28: one bad peer must not crash this node."""
    with pytest.raises(MalformedMessage, match=reason):
        decode(batch)
