"""Put and DeleteRange, alone and inside a transaction. What can fail is checked before any write."""

from proto import rpc_pb2
from proto.errors import KEY_NOT_FOUND, LEASE_NOT_FOUND, Status
from raftd.kv.mvcc import Store


def check_put_alone(store: Store, request: rpc_pb2.PutRequest) -> None:
    """etcd looks for the lease first here, and for the key first inside a transaction."""
    if not store.lease_exists(request.lease):
        raise Status(*LEASE_NOT_FOUND)
    if (request.ignore_value or request.ignore_lease) and not store.exists(request.key):
        raise Status(*KEY_NOT_FOUND)


def execute_put(store: Store, request: rpc_pb2.PutRequest, response: rpc_pb2.PutResponse) -> None:
    """The checks have passed; fills `response`."""
    value, lease = request.value, request.lease
    if request.prev_kv or request.ignore_value or request.ignore_lease:
        previous = store.get(request.key)
        assert previous is not None or not (request.ignore_value or request.ignore_lease), request.key
        if previous is not None:
            if request.ignore_value:
                value = previous.value
            if request.ignore_lease:
                lease = previous.lease
            if request.prev_kv:
                response.prev_kv.CopyFrom(previous)
    response.header.revision = store.put(request.key, value, lease)


def execute_delete_range(
    store: Store, request: rpc_pb2.DeleteRangeRequest, response: rpc_pb2.DeleteRangeResponse
) -> None:
    """Fills `response`; `header.revision` moves only if something was deleted, here or earlier in the txn."""
    if request.prev_kv:
        response.prev_kvs.extend(store.select(request.key, request.range_end)[1])
    response.deleted = store.delete_range(request.key, request.range_end)
    response.header.revision = store.revision
