"""What stands in the log: the bytes of entries and commands, and what is too new for this program."""

import msgpack
import pytest

from proto import rpc_pb2, session_pb2
from raftd.core.messages import Entry, EntryKind
from raftd.kv.bodies import header_only, header_prefix
from raftd.kv.command import (
    Command,
    Kind,
    NewerFormat,
    Outcome,
    decode_command,
    decode_payload,
    encode_command,
    encode_payload,
)
from tests.kv.replica import Replica, put

U64 = (1 << 64) - 1


def test_kinds_and_outcomes_have_the_numbers_of_the_wire() -> None:
    kinds = {name: number for name, number in session_pb2.Command.Kind.items() if name != "NONE"}
    assert {kind.name: kind.value for kind in Kind} == kinds
    outcomes = dict(session_pb2.Result.Outcome.items())
    # NOT_DONE never comes out of the log: it says that a command did not enter it.
    assert {outcome.name: outcome.value for outcome in Outcome} == {
        name: number for name, number in outcomes.items() if name != "NOT_DONE"
    }


@pytest.mark.parametrize("number", [0, 1, 1 << 32, U64])
def test_a_payload_survives_its_encoding(number: int) -> None:
    commands = [encode_command(kind, number, number, bytes(range(256))) for kind in Kind]
    time_ms, decoded = decode_payload(encode_payload(number, commands))
    assert (time_ms, decoded) == (number, commands)
    assert [decode_command(command) for command in decoded] == [
        Command(kind, number, number, bytes(range(256))) for kind in Kind
    ]


def test_the_bytes_on_disk_are_fixed() -> None:
    """Another program version reads what this one wrote: a change of these bytes is a new format."""
    assert encode_command(Kind.PUT, 7, 300, b"r").hex() == "940107cd012cc40172"
    assert encode_payload(5, [b"c"]).hex() == "93010591c40163"


def test_a_newer_entry_stops_the_node() -> None:
    """A node that meets a newer entry than it knows stops, it never skips."""
    replica = Replica()
    before = replica.tables()
    newer_payload = msgpack.packb((2, 0, [], "something new"))
    known = encode_command(Kind.PUT, 0, 0, put(b"k"))
    newer_kind = msgpack.packb((1, 0, [known, msgpack.packb((99, 0, 0, b""))]))
    newer_command = msgpack.packb((1, 0, [msgpack.packb((1, 0, 0, b"", "something new"))]))
    for payload in (newer_payload, newer_kind, newer_command):
        with pytest.raises(NewerFormat):
            replica.apply_entry(Entry(2, 1, EntryKind.COMMANDS, payload))
    assert replica.tables() == before


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x94",
        b"random bytes",
        *(
            msgpack.packb(fields)
            for fields in [
                1,
                (),
                (1, 0, 0),
                (0, 0, 0, b""),
                (99, 0, 0, b""),
                (1, -1, 0, b""),
                (1, 0, -1, b""),
                (1, 0.0, 0, b""),
                (True, 0, 0, b""),
                (1, 0, 0, "text"),
                (1, None, 0, b""),
                ({}, 0, 0, b""),
                (1, 0, 0, b"", b""),
            ]
        ),
    ],
)
def test_what_is_no_command_never_enters_the_log(data: bytes) -> None:
    """The node that takes a command from a peer decodes it first: in the log it would stop every node."""
    with pytest.raises(NewerFormat):
        decode_command(data)


def test_no_command_that_a_client_can_send_stops_a_node() -> None:
    """Every kind, with and without a session, known or not, with any bytes for a request."""
    replica = Replica()
    session = replica.register()
    for kind in Kind:
        for of_session in (0, session, U64):
            for sequence in (0, U64):
                for request in (b"", b"\xff", put(b"k")):
                    (result,) = replica.apply((kind, of_session, sequence, request))
                    if of_session == U64 and kind is not Kind.REGISTER:
                        assert result.outcome is Outcome.SESSION_EXPIRED
    (result,) = replica.apply((Kind.CLOSE, 0, 0, b""))
    assert result.outcome is Outcome.SESSION_EXPIRED, "there is no session 0"


def test_entries_without_commands_change_nothing() -> None:
    replica = Replica()
    before = replica.tables()
    assert replica.apply_entry(Entry(1, 1, EntryKind.MEMBERSHIP, b"members")) == []
    assert replica.apply_entry(Entry(2, 1, EntryKind.NOOP, b"")) == []
    assert replica.tables() == before


def test_bytes_that_are_no_request_are_refused_by_their_result() -> None:
    replica = Replica()
    session = replica.register()
    results = replica.apply(
        (Kind.PUT, 0, 0, b"\xff\xff\xff"),
        (Kind.TXN, session, 1, b"\x0a"),
        (Kind.PUT, session, 2, put(b"k")),
        (Kind.TXN, session, 1, b"\x0a"),
    )
    assert [(result.code, result.outcome) for result in results] == [
        (3, Outcome.DECIDED),
        (3, Outcome.DECIDED),
        (0, Outcome.DECIDED),
        (3, Outcome.DECIDED),
    ]
    assert rpc_pb2.PutResponse.FromString(results[2].body).header.revision == 2


@pytest.mark.parametrize("revision", [1, 2, 127, 128, 16_383, 16_384, (1 << 63) - 1])
def test_a_composed_body_is_a_response(revision: int) -> None:
    response = rpc_pb2.PutResponse.FromString(header_only(revision))
    expected = rpc_pb2.PutResponse()
    expected.header.revision = revision
    assert response == expected
    assert header_only(revision) == expected.SerializeToString()


def test_the_answering_node_completes_the_header_by_concatenation() -> None:
    body = header_prefix(cluster_id=U64, member_id=1 << 63, raft_term=3) + header_only(9)
    response = rpc_pb2.PutResponse.FromString(body)
    header = rpc_pb2.ResponseHeader(cluster_id=U64, member_id=1 << 63, revision=9, raft_term=3)
    assert response == rpc_pb2.PutResponse(header=header)
