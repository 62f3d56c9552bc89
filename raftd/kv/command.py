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

from msgpack import UnpackException

from raftd.kv.leases import LeaseChange
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
    LEASE_GRANT = 8
    LEASE_REVOKE = 9
    LEASE_EXPIRE = 10
    COMPACT_STEP = 11


class Outcome(IntEnum):
    """What a result's code says of the command's fate; the numbers of `session_pb2.Result.Outcome`."""

    DECIDED = 0
    """Code 0 is done; any other code changed nothing."""
    UNKNOWN = 2
    """This sending was not executed, or its reply is gone: the text says what is known."""
    SESSION_EXPIRED = 3
    """The session is not known (any more); this sending did nothing."""


_KINDS: Final = frozenset(map(int, Kind))


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


_COMMAND_TYPES: Final = (int, int, int, bytes)


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


@dataclass(frozen=True, slots=True)
class Applied:
    """What one entry did: one result per command, in order, and what follows from it for the node."""

    results: Sequence[Result]
    first_revision: int
    """The entry made the revisions from this one to `revision`; none, when it lies above that one."""
    revision: int
    """The store's revision after the entry."""
    compacted_revision: int
    compaction_pending: bool
    """Old versions are still there: the leader proposes a COMPACT_STEP, and the next one after that."""
    lease_changes: Sequence[LeaseChange]
    """In order: a lease may be granted, revoked and granted again by one entry."""


def encode_command(kind: int, session: int, sequence: int, request: bytes) -> bytes:
    assert Kind(kind), kind
    return pack((int(kind), session, sequence, request))


def decode_command(data: bytes) -> Command:
    """Raises NewerFormat for whatever this program does not know: kinds, shapes, bytes that are no command.

    A node that takes a command from another one calls this before it proposes: what the log holds is
    applied by all nodes, and one that cannot be applied stops them all.
    """
    try:
        fields = unpack(data)
    except (ValueError, UnpackException) as error:
        raise NewerFormat(f"not a command: {data[:32]!r}") from error
    if type(fields) is not list or tuple(map(type, fields)) != _COMMAND_TYPES:
        raise NewerFormat(f"a command of unknown shape: {data[:32]!r}")
    command = Command._make(fields)
    if command.kind not in _KINDS:
        raise NewerFormat(f"a command of kind {command.kind}, which this program does not know")
    if command.session < 0 or command.sequence < 0:
        raise NewerFormat(f"a command of session {command.session}, sequence {command.sequence}")
    return command


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
