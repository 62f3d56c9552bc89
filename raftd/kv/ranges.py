"""Range: etcd 3.4's order of limit, filters and sort, which decides what `count` and `more` say.

Without sort order and filters the limit is applied while reading, otherwise at the very end. `count` is
always the number of keys in the range, before any filter. A sort target without an order means ascending,
but then the limit has been applied in the order of the keys already: so does etcd, and clients see it.
"""

from collections.abc import Callable
from typing import Any, Final

from proto import kv_pb2, rpc_pb2
from raftd.kv.mvcc import View

_Request = rpc_pb2.RangeRequest

_SORT_KEYS: Final[dict[int, Callable[[kv_pb2.KeyValue], Any]]] = {
    _Request.KEY: lambda kv: kv.key,
    _Request.VERSION: lambda kv: kv.version,
    _Request.CREATE: lambda kv: kv.create_revision,
    _Request.MOD: lambda kv: kv.mod_revision,
    _Request.VALUE: lambda kv: kv.value,
}


def execute_range(view: View, request: rpc_pb2.RangeRequest) -> rpc_pb2.RangeResponse:
    """The response, with `header.revision`. `request` has passed `check_range`. Raises Status (revisions)."""
    has_filter = (
        request.min_mod_revision
        or request.max_mod_revision
        or request.min_create_revision
        or request.max_create_revision
    )
    limit = (
        request.limit if request.limit > 0 and not has_filter and request.sort_order == _Request.NONE else 0
    )
    count, key_values = view.select(
        request.key,
        request.range_end,
        revision=request.revision,
        limit=limit + 1 if limit else 0,  # one more, to know of `more`
        count_only=request.count_only,
    )
    if has_filter:
        key_values = [kv for kv in key_values if _passes(kv, request)]
    _sort(key_values, request)
    response = rpc_pb2.RangeResponse(count=count)
    response.header.revision = view.revision
    if 0 < request.limit < len(key_values):
        del key_values[request.limit :]
        response.more = True
    if request.keys_only:
        for key_value in key_values:
            key_value.ClearField("value")
    response.kvs.extend(key_values)
    return response


def _passes(kv: kv_pb2.KeyValue, request: rpc_pb2.RangeRequest) -> bool:
    """A bound of 0 is none; etcd tells "no bound" from no other value, so a negative one does filter."""
    return not (
        (request.max_mod_revision and kv.mod_revision > request.max_mod_revision)
        or (request.min_mod_revision and kv.mod_revision < request.min_mod_revision)
        or (request.max_create_revision and kv.create_revision > request.max_create_revision)
        or (request.min_create_revision and kv.create_revision < request.min_create_revision)
    )


def _sort(key_values: list[kv_pb2.KeyValue], request: rpc_pb2.RangeRequest) -> None:
    """Stable: equal ones stay in order of their keys, ascending and descending alike."""
    if request.sort_order == _Request.NONE and request.sort_target == _Request.KEY:
        return  # as they were read
    key_values.sort(key=_SORT_KEYS[request.sort_target], reverse=request.sort_order == _Request.DESCEND)
