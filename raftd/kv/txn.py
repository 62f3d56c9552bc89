"""Txn: compare, choose the branches, check every operation of the chosen path, and only then execute.

All compares, nested ones too, look at the state before the transaction; later operations see earlier writes.
The outer response's header has the revision, the header of a nested one is empty, as in etcd.
"""

from dataclasses import dataclass

from proto import kv_pb2, rpc_pb2
from proto.errors import COMPACTED, FUTURE_REVISION, KEY_NOT_FOUND, LEASE_NOT_FOUND, Status
from raftd.kv.mvcc import Interval, Store, View, interval
from raftd.kv.ranges import execute_range
from raftd.kv.writes import execute_delete_range, execute_put

_Compare = rpc_pb2.Compare


@dataclass(slots=True)
class _Path:
    """A transaction whose compares are decided. `nested` has one path per nested operation, in order."""

    succeeded: bool
    operations: list[rpc_pb2.RequestOp]
    nested: list["_Path"]


def execute_txn(view: View, request: rpc_pb2.TxnRequest) -> rpc_pb2.TxnResponse:
    """The response, with `header.revision`. `request` has passed `check_txn`. Raises Status, with nothing
    written.

    `view` is a `Store` for a transaction that may write; a plain `View` serves a read-only one.
    """
    path = _choose(view, request)
    _check_puts(view, path, [])
    _check_ranges(view, path)
    response = rpc_pb2.TxnResponse()
    _execute(view, path, response)
    response.header.revision = view.revision
    return response


def _choose(view: View, request: rpc_pb2.TxnRequest) -> _Path:
    succeeded = all(_holds(view, compare) for compare in request.compare)
    operations = list(request.success if succeeded else request.failure)
    nested = [
        _choose(view, operation.request_txn)
        for operation in operations
        if operation.WhichOneof("request") == "request_txn"
    ]
    return _Path(succeeded, operations, nested)


def _holds(view: View, compare: rpc_pb2.Compare) -> bool:
    _, key_values = view.select(compare.key, compare.range_end)
    if not key_values:
        # A missing key compares as zeros, but has no value: not even an empty one.
        return compare.target != _Compare.VALUE and _compare(compare, kv_pb2.KeyValue())
    return all(_compare(compare, key_value) for key_value in key_values)


def _compare(compare: rpc_pb2.Compare, key_value: kv_pb2.KeyValue) -> bool:
    """An operand of another target than the one named counts as absent: 0 or empty."""
    order = 0
    match compare.target:
        case _Compare.VALUE:
            order = (key_value.value > compare.value) - (key_value.value < compare.value)
        case _Compare.CREATE:
            order = _sign(key_value.create_revision - compare.create_revision)
        case _Compare.MOD:
            order = _sign(key_value.mod_revision - compare.mod_revision)
        case _Compare.VERSION:
            order = _sign(key_value.version - compare.version)
        case _Compare.LEASE:
            order = _sign(key_value.lease - compare.lease)
    match compare.result:
        case _Compare.EQUAL:
            return order == 0
        case _Compare.NOT_EQUAL:
            return order != 0
        case _Compare.GREATER:
            return order > 0
        case _Compare.LESS:
            return order < 0
    return True  # etcd's verdict on a result that it does not know


def _sign(difference: int) -> int:
    return (difference > 0) - (difference < 0)


def _check_puts(view: View, path: _Path, deleted: list[Interval]) -> None:
    """Every put of the path can be executed. `deleted` gathers what earlier operations will have deleted.

    etcd 3.4 lets a put follow a delete to "\\0" (no end) of the same key in one branch; with ignore_value
    it then panics. Here that put is refused like any other of an absent key.
    """
    nested = iter(path.nested)
    for operation in path.operations:
        match operation.WhichOneof("request"):
            case "request_put":
                request = operation.request_put
                if request.ignore_value or request.ignore_lease:
                    gone = any(keys.holds(request.key) for keys in deleted)
                    if gone or not view.exists(request.key):
                        raise Status(*KEY_NOT_FOUND)
                if not view.lease_exists(request.lease):
                    raise Status(*LEASE_NOT_FOUND)
            case "request_delete_range":
                delete = operation.request_delete_range
                keys = interval(delete.key, delete.range_end)
                deleted.append(keys or Interval(delete.key, delete.key + b"\x00"))
            case "request_txn":
                _check_puts(view, next(nested), deleted)


def _check_ranges(view: View, path: _Path) -> None:
    """Unlike a Range alone, one in a transaction is refused for a revision below "never compacted" (-1)."""
    nested = iter(path.nested)
    for operation in path.operations:
        match operation.WhichOneof("request"):
            case "request_range":
                revision = operation.request_range.revision
                if revision > view.revision:
                    raise Status(*FUTURE_REVISION)
                if revision != 0 and revision < view.compacted_revision:
                    raise Status(*COMPACTED)
            case "request_txn":
                _check_ranges(view, next(nested))


def _execute(view: View, path: _Path, response: rpc_pb2.TxnResponse) -> None:
    response.succeeded = path.succeeded
    nested = iter(path.nested)
    for operation in path.operations:
        answer = response.responses.add()
        match operation.WhichOneof("request"):
            case "request_range":
                answer.response_range.CopyFrom(execute_range(view, operation.request_range))
            case "request_put":
                assert isinstance(view, Store)
                execute_put(view, operation.request_put, answer.response_put)
            case "request_delete_range":
                assert isinstance(view, Store)
                execute_delete_range(view, operation.request_delete_range, answer.response_delete_range)
            case "request_txn":
                answer.response_txn.header.SetInParent()
                _execute(view, next(nested), answer.response_txn)
