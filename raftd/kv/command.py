"""What stands in a log entry of kind COMMANDS, and what comes of it: commands and results.

A payload is msgpack `[format, cluster_time_ms, [command, ...]]`, a command msgpack
`[kind, session, sequence, request]`. A command is encoded once, by the first node that receives it, and
travels as bytes to the disk of every node. Nothing here executes one; `raftd.kv.machine` does, `raftd.node`
encodes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from raftd.kv.limits import MAX_COMMANDS_PER_ENTRY
from raftd.kv.records import pack, unpack

PAYLOAD_FORMAT: Final = 1


class Kind(IntEnum):
    """The numbers are those of `session_pb2.Command.Kind`, on the wire and on disk."""

    PUT = 1
    DELETE_RANGE = 2
    TXN = 3
    COMPACT = 4
    REGISTER = 5
    CLOSE = 6
    ACKNOWLEDGE = 7


class Outcome(IntEnum):
    """What a result's code says of the command's fate; the numbers of `session_pb2.Result.Outcome`."""

    DECIDED = 0
    """Code 0 is done; any other code changed nothing."""
    UNKNOWN = 2
    """This sending was not executed, or its reply is gone: the text says what is known."""
    SESSION_EXPIRED = 3
    """The session is not known (any more); this sending did nothing."""


class NewerFormat(Exception):
    """An entry needs a newer program. The node stops; it never skips what it does not understand."""


class Command(NamedTuple):
    kind: int
    session: int
    """0: without a session, executed once per appearance in the log."""
    sequence: int
    """The command's number in its session; for ACKNOWLEDGE the first outstanding number."""
    request: bytes
    """The serialized etcd request, as the client sent it."""


@dataclass(slots=True)
class Result:
    """One command's result, the same on every node.

    `body` is the serialized etcd response whose header carries the revision alone; the answering node puts
    its own `raftd.kv.bodies.header_prefix` in front.
    """

    code: int
    text: str
    body: bytes
    outcome: Outcome
    session: int
    sequence: int


def encode_command(kind: int, session: int, sequence: int, request: bytes) -> bytes:
    assert Kind(kind), kind
    return pack((int(kind), session, sequence, request))


def decode_command(data: bytes) -> Command:
    """Raises NewerFormat for a command of another shape: nobody encodes one by mistake."""
    fields = unpack(data)
    if type(fields) is not list or len(fields) != 4:
        raise NewerFormat(f"a command of unknown shape: {data[:32]!r}")
    return Command._make(fields)


def encode_payload(cluster_time_ms: int, commands: Sequence[bytes]) -> bytes:
    """`cluster_time_ms` is the proposer's cluster time; `apply` never lets the replicated one go back."""
    assert 0 < len(commands) <= MAX_COMMANDS_PER_ENTRY, len(commands)
    assert cluster_time_ms >= 0, cluster_time_ms
    return pack((PAYLOAD_FORMAT, cluster_time_ms, commands))


def decode_payload(payload: bytes) -> tuple[int, list[bytes]]:
    """Cluster time in milliseconds and the encoded commands. Raises NewerFormat."""
    fields = unpack(payload)
    if fields[0] != PAYLOAD_FORMAT:
        raise NewerFormat(f"log entry of format {fields[0]}, this program knows {PAYLOAD_FORMAT}")
    _, cluster_time_ms, commands = fields
    return cluster_time_ms, commands
