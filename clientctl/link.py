"""What the client needs of a connection, and the real one.

`Link` is satisfied by the bridge's `Channel`; tests put in-memory streams behind it.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Protocol

from google.protobuf.descriptor import MethodDescriptor

from proto import rpc_pb2, session_pb2, table_pb2
from proto.stream import MessageStream


class Link(Protocol):
    """A connection to one server. Calls raise `proto.errors.Status`."""

    async def unary(
        self,
        method: MethodDescriptor,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Any:
        """Call a unary method; `timeout` in seconds."""

    def stream(
        self, method: MethodDescriptor, request: Any = None, *, metadata: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[MessageStream]:
        """Call a streaming method; leaving ends the call."""


Dial = Callable[[str], AbstractAsyncContextManager[Link]]
"""From an address (`host:port`) to a connection."""


def dial(address: str) -> AbstractAsyncContextManager[Link]:
    """A fresh connection, so that nobody's earlier failure delays it: grpc redials a known address late."""
    # Here, because it takes grpc and asyncio along, which usage errors and --help can do without.
    from proto.bridge import connect

    return connect(address, isolated=True)


def _methods(services: Any, name: str) -> Mapping[str, MethodDescriptor]:
    methods: Mapping[str, MethodDescriptor] = services[name].methods_by_name
    return methods


KV = _methods(rpc_pb2.DESCRIPTOR.services_by_name, "KV")
WATCH = _methods(rpc_pb2.DESCRIPTOR.services_by_name, "Watch")
LEASE = _methods(rpc_pb2.DESCRIPTOR.services_by_name, "Lease")
CLUSTER = _methods(rpc_pb2.DESCRIPTOR.services_by_name, "Cluster")
MAINTENANCE = _methods(rpc_pb2.DESCRIPTOR.services_by_name, "Maintenance")
SESSION = _methods(session_pb2.DESCRIPTOR.services_by_name, "Session")
LEADER_TABLE = _methods(table_pb2.DESCRIPTOR.services_by_name, "LeaderTable")

METHOD_OF: Mapping[type, MethodDescriptor] = {
    rpc_pb2.PutRequest: KV["Put"],
    rpc_pb2.RangeRequest: KV["Range"],
    rpc_pb2.DeleteRangeRequest: KV["DeleteRange"],
    rpc_pb2.TxnRequest: KV["Txn"],
    rpc_pb2.CompactionRequest: KV["Compact"],
    rpc_pb2.LeaseGrantRequest: LEASE["LeaseGrant"],
    rpc_pb2.LeaseRevokeRequest: LEASE["LeaseRevoke"],
    rpc_pb2.LeaseTimeToLiveRequest: LEASE["LeaseTimeToLive"],
    rpc_pb2.LeaseLeasesRequest: LEASE["LeaseLeases"],
}
"""The unary method that takes a request."""
