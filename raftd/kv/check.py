"""What can be said of a request without looking at the state: etcd's checks, in etcd's order.

The services call these before they propose or read, so that a bad request costs no log entry; `apply` calls
them again, because what stands in the log was encoded by some node's bytes and not by this one's judgement.
Every function raises `Status` with etcd's code and text, or returns None.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterable

from proto import rpc_pb2
from proto.errors import (
    DUPLICATE_KEY,
    INVALID_SORT_OPTION,
    KEY_NOT_FOUND,
    KEY_NOT_PROVIDED,
    LEASE_PROVIDED,
    LEASE_TTL_TOO_LARGE,
    REQUEST_TOO_LARGE,
    TOO_MANY_OPERATIONS,
    VALUE_PROVIDED,
    Status,
)
from raftd.kv.limits import LIMITS, Limits

_SORT_ORDERS = frozenset(rpc_pb2.RangeRequest.SortOrder.values())
_SORT_TARGETS = frozenset(rpc_pb2.RangeRequest.SortTarget.values())


def check_range(request: rpc_pb2.RangeRequest) -> None:
    """A negative limit or revision is no error: etcd takes both for 0."""
    if not request.key:
        raise Status(*KEY_NOT_PROVIDED)
    if request.sort_order not in _SORT_ORDERS or request.sort_target not in _SORT_TARGETS:
        raise Status(*INVALID_SORT_OPTION)


def check_put(request: rpc_pb2.PutRequest, limits: Limits = LIMITS) -> None:
    _check_put_fields(request)
    check_size(request.ByteSize(), limits)


def check_delete_range(request: rpc_pb2.DeleteRangeRequest, limits: Limits = LIMITS) -> None:
    _check_delete_range_fields(request)
    check_size(request.ByteSize(), limits)


def check_txn(request: rpc_pb2.TxnRequest, limits: Limits = LIMITS) -> None:
    _check_txn_fields(request, limits.max_txn_operations)
    _check_overlaps(request.success)
    _check_overlaps(request.failure)
    if not is_read_only(request):
        check_size(request.ByteSize(), limits)


def check_lease_grant(request: rpc_pb2.LeaseGrantRequest, limits: Limits = LIMITS) -> None:
    """A TTL below the minimum, be it negative, is no error: it is raised."""
    if limits.max_lease_ttl_s < request.TTL:
        raise Status(*LEASE_TTL_TOO_LARGE)
    check_size(request.ByteSize(), limits)


def check_size(request_bytes: int, limits: Limits = LIMITS) -> None:
    """For requests that enter the log; a read may be larger, up to what the transport takes."""
    if request_bytes > limits.max_request_bytes:
        raise Status(*REQUEST_TOO_LARGE)


def is_read_only(request: rpc_pb2.TxnRequest) -> bool:
    """Whether no path through the transaction writes: then it is a read, and needs no log entry."""
    for operations in (request.success, request.failure):
        for operation in operations:
            which = operation.WhichOneof("request")
            if which == "request_txn":
                if not is_read_only(operation.request_txn):
                    return False
            elif which != "request_range":
                return False
    return True


def _check_put_fields(request: rpc_pb2.PutRequest) -> None:
    if not request.key:
        raise Status(*KEY_NOT_PROVIDED)
    if request.ignore_value and request.value:
        raise Status(*VALUE_PROVIDED)
    if request.ignore_lease and request.lease:
        raise Status(*LEASE_PROVIDED)


def _check_delete_range_fields(request: rpc_pb2.DeleteRangeRequest) -> None:
    if not request.key:
        raise Status(*KEY_NOT_PROVIDED)


def _check_txn_fields(request: rpc_pb2.TxnRequest, max_operations: int) -> None:
    operations = max(len(request.compare), len(request.success), len(request.failure))
    if operations > max_operations:
        raise Status(*TOO_MANY_OPERATIONS)
    for compare in request.compare:
        if not compare.key:
            raise Status(*KEY_NOT_PROVIDED)
    for branch in (request.success, request.failure):
        for operation in branch:
            _check_operation(operation, max_operations - operations)


def _check_operation(operation: rpc_pb2.RequestOp, max_operations: int) -> None:
    match operation.WhichOneof("request"):
        case "request_range":
            check_range(operation.request_range)
        case "request_put":
            _check_put_fields(operation.request_put)
        case "request_delete_range":
            _check_delete_range_fields(operation.request_delete_range)
        case "request_txn":
            _check_txn_fields(operation.request_txn, max_operations)
        case None:
            raise Status(*KEY_NOT_FOUND)  # etcd's answer to an empty operation


class _DeletedKeys:
    """A union of half-open intervals of keys, kept sorted and disjoint."""

    def __init__(self) -> None:
        self._starts: list[bytes] = []
        self._ends: list[bytes] = []

    def add(self, start: bytes, end: bytes) -> None:
        """etcd takes a range_end of "\\0" literally here, so such an interval is empty and overlaps
        nothing."""
        if end <= start:
            return
        first = bisect_left(self._ends, start)
        last = bisect_right(self._starts, end)
        if first < last:
            start = min(start, self._starts[first])
            end = max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def add_all(self, other: "_DeletedKeys") -> None:
        for start, end in zip(other._starts, other._ends, strict=True):
            self.add(start, end)

    def __contains__(self, key: bytes) -> bool:
        position = bisect_right(self._starts, key) - 1
        return position >= 0 and key < self._ends[position]


def _check_overlaps(branch: Iterable[rpc_pb2.RequestOp]) -> tuple[set[bytes], _DeletedKeys]:
    """No key may be put twice in one branch, nor be both put and deleted; what the branch puts and deletes.

    Nested transactions count as parts of the branch, the puts of their two branches exclude one another.
    """
    deleted = _DeletedKeys()
    for operation in branch:
        if operation.WhichOneof("request") == "request_delete_range":
            request = operation.request_delete_range
            deleted.add(request.key, request.range_end or request.key + b"\x00")
    puts: set[bytes] = set()
    for operation in branch:
        if operation.WhichOneof("request") == "request_txn":
            success_puts, success_deleted = _check_overlaps(operation.request_txn.success)
            failure_puts, failure_deleted = _check_overlaps(operation.request_txn.failure)
            nested = success_puts | failure_puts
            if not puts.isdisjoint(nested) or any(key in deleted for key in nested):
                raise Status(*DUPLICATE_KEY)
            puts |= nested
            deleted.add_all(success_deleted)
            deleted.add_all(failure_deleted)
    for operation in branch:
        if operation.WhichOneof("request") == "request_put":
            key = operation.request_put.key
            if key in puts or key in deleted:
                raise Status(*DUPLICATE_KEY)
            puts.add(key)
    return puts, deleted
