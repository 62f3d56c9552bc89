"""etcd requests from Python values: what the client library and the command line both build.

Keys and values are bytes; a str stands for its UTF-8 encoding. Nothing is checked here that a server decides;
what is no request at all raises ValueError or TypeError.
"""

from collections.abc import Iterable, Mapping
from typing import Literal, TypeVar

from clientctl.config import TXN_NESTING_MAX
from proto.rpc_pb2 import (
    Compare,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RequestOp,
    TxnRequest,
    WatchCreateRequest,
)

Data = bytes | str
Consistency = Literal["linearizable", "serializable"]
SortTarget = Literal["key", "version", "create", "mod", "value"]
SortOrder = Literal["none", "ascend", "descend"]
CompareTarget = Literal["version", "create", "mod", "value", "lease"]
Comparison = Literal["=", "!=", "<", ">"]
WatchFilter = Literal["noput", "nodelete"]
_Value = TypeVar("_Value")
Operation = PutRequest | RangeRequest | DeleteRangeRequest | TxnRequest

_SORT_TARGETS = {
    "key": RangeRequest.KEY,
    "version": RangeRequest.VERSION,
    "create": RangeRequest.CREATE,
    "mod": RangeRequest.MOD,
    "value": RangeRequest.VALUE,
}
_SORT_ORDERS = {
    "none": RangeRequest.NONE,
    "ascend": RangeRequest.ASCEND,
    "descend": RangeRequest.DESCEND,
}
_FILTERS = {"noput": WatchCreateRequest.NOPUT, "nodelete": WatchCreateRequest.NODELETE}
_SERIALIZABLE = {"linearizable": False, "serializable": True}
_COMPARISONS = {
    "=": Compare.EQUAL,
    "!=": Compare.NOT_EQUAL,
    "<": Compare.LESS,
    ">": Compare.GREATER,
}


def prefix_end(prefix: bytes) -> bytes:
    r"""The first key after all that start with `prefix`; b"\0" (the end of the key space) when there is
    none.
    """
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else b"\0"


def key_range(key: Data, range_end: Data | None, *, prefix: bool, from_key: bool) -> tuple[bytes, bytes]:
    r"""`key` and `range_end` as etcd wants them. An empty key with `prefix` or `from_key` is every key."""
    if sum((range_end is not None, prefix, from_key)) > 1:
        raise ValueError("range_end, prefix and from_key exclude each other")
    start = to_bytes(key)
    if prefix:
        return (start, prefix_end(start)) if start else (b"\0", b"\0")
    if from_key:
        return start or b"\0", b"\0"
    return start, to_bytes(range_end) if range_end is not None else b""


def put_request(
    key: Data,
    value: Data = b"",
    *,
    prev_kv: bool = False,
    ignore_value: bool = False,
    ignore_lease: bool = False,
    lease: int = 0,
) -> PutRequest:
    """A put; arguments as in `Client.put`."""
    return PutRequest(
        key=to_bytes(key),
        value=to_bytes(value),
        prev_kv=prev_kv,
        ignore_value=ignore_value,
        ignore_lease=ignore_lease,
        lease=lease,
    )


def range_request(
    key: Data,
    range_end: Data | None = None,
    *,
    prefix: bool = False,
    from_key: bool = False,
    limit: int = 0,
    revision: int = 0,
    sort_by: SortTarget = "key",
    order: SortOrder = "none",
    consistency: Consistency = "linearizable",
    keys_only: bool = False,
    count_only: bool = False,
    min_mod_revision: int = 0,
    max_mod_revision: int = 0,
    min_create_revision: int = 0,
    max_create_revision: int = 0,
) -> RangeRequest:
    """A range; arguments as in `Client.get`."""
    start, end = key_range(key, range_end, prefix=prefix, from_key=from_key)
    return RangeRequest(
        key=start,
        range_end=end,
        limit=limit,
        revision=revision,
        sort_target=_choice("sort_by", _SORT_TARGETS, sort_by),
        sort_order=_choice("order", _SORT_ORDERS, order),
        serializable=_choice("consistency", _SERIALIZABLE, consistency),
        keys_only=keys_only,
        count_only=count_only,
        min_mod_revision=min_mod_revision,
        max_mod_revision=max_mod_revision,
        min_create_revision=min_create_revision,
        max_create_revision=max_create_revision,
    )


def delete_request(
    key: Data,
    range_end: Data | None = None,
    *,
    prefix: bool = False,
    from_key: bool = False,
    prev_kv: bool = False,
) -> DeleteRangeRequest:
    """A delete; arguments as in `Client.delete`."""
    start, end = key_range(key, range_end, prefix=prefix, from_key=from_key)
    return DeleteRangeRequest(key=start, range_end=end, prev_kv=prev_kv)


def watch_request(
    key: Data,
    range_end: Data | None = None,
    *,
    prefix: bool = False,
    from_key: bool = False,
    start_revision: int = 0,
    prev_kv: bool = False,
    filters: Iterable[WatchFilter] = (),
    progress_notify: bool = False,
    fragment: bool = False,
) -> WatchCreateRequest:
    """A watch; arguments as in `Client.watch`."""
    start, end = key_range(key, range_end, prefix=prefix, from_key=from_key)
    return WatchCreateRequest(
        key=start,
        range_end=end,
        start_revision=start_revision,
        prev_kv=prev_kv,
        filters=[_choice("filters", _FILTERS, name) for name in filters],
        progress_notify=progress_notify,
        fragment=fragment,
    )


def compare(key: Data, target: CompareTarget, comparison: Comparison, value: int | Data) -> Compare:
    """One condition of a transaction, such as `compare("k", "version", "=", 0)`: the key does not exist.

    `value` is a number for every target but "value", which takes bytes or str.
    """
    result, start = _choice("comparison", _COMPARISONS, comparison), to_bytes(key)
    if target == "value":
        if isinstance(value, int):
            raise TypeError("a value is compared with bytes or str")
        return Compare(result=result, target=Compare.VALUE, key=start, value=to_bytes(value))
    if not isinstance(value, int):
        raise TypeError(f"a key's {target} is compared with a number")
    match target:
        case "version":
            return Compare(result=result, target=Compare.VERSION, key=start, version=value)
        case "create":
            return Compare(result=result, target=Compare.CREATE, key=start, create_revision=value)
        case "mod":
            return Compare(result=result, target=Compare.MOD, key=start, mod_revision=value)
        case "lease":
            return Compare(result=result, target=Compare.LEASE, key=start, lease=value)
        case _:
            raise ValueError(f"target: {target!r} is none of version, create, mod, value, lease")


def txn_request(
    conditions: Iterable[Compare], success: Iterable[Operation] = (), failure: Iterable[Operation] = ()
) -> TxnRequest:
    """A transaction: the operations of `success` when all `conditions` hold, those of `failure` otherwise.
    They may be transactions, TXN_NESTING_MAX within one another."""
    return TxnRequest(
        compare=conditions,
        success=[_request_op(operation) for operation in success],
        failure=[_request_op(operation) for operation in failure],
    )


def is_read_only(request: TxnRequest) -> bool:
    """Whether no branch of the transaction writes."""
    return all(
        operation.WhichOneof("request") == "request_range"
        or (operation.WhichOneof("request") == "request_txn" and is_read_only(operation.request_txn))
        for operation in (*request.success, *request.failure)
    )


def to_bytes(data: Data) -> bytes:
    """A str as UTF-8; surrogate escapes, with which a command line carries other bytes, become those
    bytes.
    """
    if isinstance(data, str):
        return data.encode("utf-8", "surrogateescape")
    if not isinstance(data, bytes):
        raise TypeError(f"keys and values are bytes or str, and not {type(data).__name__}")
    return data


def check_nesting(request: TxnRequest, above: int = 0) -> None:
    """Raises ValueError when the transactions in `request` and the `above` around it are too many within one
    another."""
    if above > TXN_NESTING_MAX:
        raise ValueError(f"more than {TXN_NESTING_MAX} transactions within one another")
    for operation in (*request.success, *request.failure):
        if operation.WhichOneof("request") == "request_txn":
            check_nesting(operation.request_txn, above + 1)


def _choice(name: str, values: Mapping[str, _Value], choice: str) -> _Value:
    if choice not in values:
        raise ValueError(f"{name}: {choice!r} is none of {', '.join(values)}")
    return values[choice]


def _request_op(operation: Operation) -> RequestOp:
    match operation:
        case PutRequest():
            return RequestOp(request_put=operation)
        case RangeRequest():
            return RequestOp(request_range=operation)
        case DeleteRangeRequest():
            return RequestOp(request_delete_range=operation)
        case TxnRequest():
            check_nesting(operation, 1)
            return RequestOp(request_txn=operation)
        case _:
            raise TypeError(f"{type(operation).__name__} is no operation of a transaction")
