"""From serialized etcd requests to what the node takes, alike for unary calls and for the session stream."""

import random
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from proto import errors, rpc_pb2, session_pb2
from proto.errors import Status
from raftd.kv import StateMachine
from raftd.kv.check import (
    check_delete_range,
    check_lease_grant,
    check_put,
    check_range,
    check_size,
    check_txn,
    is_read_only,
)
from raftd.reads import Read

Kind = session_pb2.Command.Kind

_Request = TypeVar("_Request", bound=Message)


def parse(request_type: type[_Request], serialized: bytes) -> _Request:
    """Raises Status for bytes that are not such a message."""
    request = request_type()
    try:
        request.ParseFromString(serialized)
    except DecodeError as error:
        raise Status(errors.INTERNAL, f"malformed {request_type.__name__}: {error}") from error
    return request


def check_command(kind: int, serialized: bytes) -> None:
    """Everything about a command that can be refused without the state (etcd's order of checks). Raises
    Status.
    """
    match kind:
        case Kind.PUT:
            check_put(parse(rpc_pb2.PutRequest, serialized))
        case Kind.DELETE_RANGE:
            check_delete_range(parse(rpc_pb2.DeleteRangeRequest, serialized))
        case Kind.TXN:
            check_txn(parse(rpc_pb2.TxnRequest, serialized))
        case Kind.COMPACT:
            parse(rpc_pb2.CompactionRequest, serialized)
        case Kind.LEASE_GRANT:
            check_lease_grant(parse(rpc_pb2.LeaseGrantRequest, serialized))
        case Kind.LEASE_REVOKE:
            parse(rpc_pb2.LeaseRevokeRequest, serialized)
        case Kind.REGISTER | Kind.CLOSE:
            pass
        case _:
            raise Status(errors.INVALID_ARGUMENT, f"a command of kind {kind} is not for clients to send")
    # Whatever it means: repeated and unknown fields go into the log as well, and no entry may get larger
    # than what a link carries (hazard 90).
    check_size(len(serialized))


def completed(kind: int, serialized: bytes) -> bytes:
    """The request as it goes into the log: a lease that the client has not named gets its id here, by the
    first node that sees it, because apply knows no chance. The request has passed `check_command`.
    """
    if kind == Kind.LEASE_GRANT:
        request = rpc_pb2.LeaseGrantRequest.FromString(serialized)
        if request.ID == 0:
            request.ID = random.randrange(1, 1 << 63)
            return request.SerializeToString()
    return serialized


def range_read(state_machine: StateMachine, request: rpc_pb2.RangeRequest) -> Read:
    """The read that answers a RangeRequest; `done` and `deadline` are the caller's to set. Raises Status."""
    check_range(request)
    return Read(
        lambda transaction: state_machine.range(transaction, request).SerializeToString(),
        linearizable=not request.serializable,
        scan=bool(request.range_end),
    )


def txn_read(state_machine: StateMachine, request: rpc_pb2.TxnRequest) -> Read:
    """The read that answers a TxnRequest that changes nothing. Raises Status."""
    check_txn(request)
    if not is_read_only(request):
        raise Status(errors.INVALID_ARGUMENT, "a transaction that writes is not a read")
    return Read(
        lambda transaction: state_machine.read_txn(transaction, request).SerializeToString(),
        linearizable=not _is_serializable(request),
        scan=True,
    )


def _is_serializable(request: rpc_pb2.TxnRequest) -> bool:
    """As in etcd: when each of its operations is a range that says so."""
    operations = [*request.success, *request.failure]
    return all(operation.request_range.serializable for operation in operations)
