"""How proxyd reaches a node: the seam between its logic and `proto.bridge`.

In production `Dial` is a fresh, isolated bridge channel; in tests it leads to fake nodes on in-memory
streams. What the rest of proxyd knows of a connection is what stands here.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, Protocol

from google.protobuf.descriptor import MethodDescriptor

from proto import rpc_pb2, session_pb2, table_pb2
from proto.stream import MessageStream

WATCH_TABLE: Final = table_pb2.DESCRIPTOR.services_by_name["LeaderTable"].methods_by_name["Watch"]
SESSION_STREAM: Final = session_pb2.DESCRIPTOR.services_by_name["Session"].methods_by_name["Stream"]
MEMBER_LIST: Final = rpc_pb2.DESCRIPTOR.services_by_name["Cluster"].methods_by_name["MemberList"]
WATCH: Final = rpc_pb2.DESCRIPTOR.services_by_name["Watch"].methods_by_name["Watch"]

PROXY_METADATA: Final = "raftd-proxy"
"""On a proxyd's LeaderTable.Watch: the random id of the process that watches. The loop guard (hazard 88)."""


class Channel(Protocol):
    """A connection to one node."""

    async def unary(
        self,
        method: MethodDescriptor,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        raw: bool = False,
    ) -> Any:
        """One call. Raises Status."""

    def stream(
        self,
        method: MethodDescriptor,
        request: Any = None,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> AbstractAsyncContextManager[MessageStream]:
        """A stream that ends with the context. Failures may come from entering it or from the stream."""


Dial = Callable[[str], AbstractAsyncContextManager[Channel]]
"""Opens a fresh connection to an address ("host:port")."""


def address_of_url(url: str) -> str:
    """ "http://host:port" as the members advertise it → "host:port" as it is dialled."""
    _, separator, rest = url.partition("://")
    return (rest if separator else url).rstrip("/")
