"""etcd's Lock and Election services: carried to the leader, and on to the next one when it changes.

A call that names its lease stands in the queue under a key made of it, so it may be made again and finds its
place. Without one, the leader has made a lease that nobody here knows; then a loss on the way is told.
"""

from typing import Any, Final

from google.protobuf.message import DecodeError

from proto import election_pb2, errors, lock_pb2
from proto.bridge import Call, Service
from proto.election_pb2 import CampaignRequest, LeaderRequest, LeaderResponse
from proto.errors import Status
from proto.lock_pb2 import LockRequest
from proto.service import Handler
from proto.stream import StreamEnded
from proxyd.nodes import Nodes

_LOCK: Final = lock_pb2.DESCRIPTOR.services_by_name["Lock"]
_ELECTION: Final = election_pb2.DESCRIPTOR.services_by_name["Election"]
_OBSERVE: Final = _ELECTION.methods_by_name["Observe"]
_UNARY: Final = {
    _LOCK: ("Lock", "Unlock"),
    _ELECTION: ("Campaign", "Proclaim", "Leader", "Resign"),
}
_NAMES_LEASE: Final[dict[str, Any]] = {"Lock": LockRequest, "Campaign": CampaignRequest}


class Locks:
    """Handlers of v3lockpb.Lock and v3electionpb.Election."""

    def __init__(self, nodes: Nodes) -> None:
        self._nodes = nodes

    def services(self) -> list[Service]:
        services = []
        for service, names in _UNARY.items():
            handlers = {name: self._carry(service.methods_by_name[name]) for name in names}
            if service is _ELECTION:
                handlers["Observe"] = self.observe
            services.append(Service(service, handlers, raw=names))
        return services

    def _carry(self, method: Any) -> Handler:
        async def carry(request: bytes, call: Call) -> bytes:
            again = method.name not in _NAMES_LEASE or _has_lease(_NAMES_LEASE[method.name], request)
            return await self._nodes.call_leader(method, request, call, again=again)

        return carry

    async def observe(self, request: LeaderRequest, call: Call) -> None:
        """Until the client leaves. What it was shown it is not shown again by the next node."""
        shown_revision = 0
        while True:
            link = await self._nodes.leader_link(call)
            try:
                async with link.stream(_OBSERVE, request) as stream:
                    while True:
                        responses: list[LeaderResponse] = await stream.receive_all()
                        for response in responses:
                            if response.kv.mod_revision > shown_revision:
                                shown_revision = response.kv.mod_revision
                                await call.send(response)
            except StreamEnded:
                pass  # the node has left; the next one goes on
            except Status as status:
                if status.code != errors.UNAVAILABLE:
                    raise
            await self._nodes.wait_change()


def _has_lease(kind: Any, request: bytes) -> bool:
    try:
        return bool(kind.FromString(request).lease)
    except DecodeError as error:
        raise Status(errors.INTERNAL, f"malformed {kind.__name__}: {error}") from error
