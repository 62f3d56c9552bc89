"""What a node answers on its peer port: streams, forwarded commands, and who it is.

The port is open before the node knows its cluster, because forming the cluster needs it; until `join` only
`Identify` has an answer.
"""

import trio

from proto import errors, peer_pb2
from proto.call import Call
from proto.errors import NOT_DONE_OUTCOME, Status
from proto.service import Service
from raftd.kv.command import NewerFormat, decode_command
from raftd.leases import Leases
from raftd.peers.bootstrap import Introductions
from raftd.peers.links import PeerLinks, Plane
from raftd.proposals import Refusal
from raftd.services.requests import check_command
from raftd.services.writes import Writes


class PeerService:
    """Handlers of raftd.peer.Peer."""

    def __init__(self, introductions: Introductions) -> None:
        self._introductions = introductions
        self._links: PeerLinks | None = None
        self._writes: Writes | None = None
        self._leases: Leases | None = None

    def join(self, links: PeerLinks, writes: Writes, leases: Leases) -> None:
        """From now on this node takes part in its cluster."""
        self._links = links
        self._writes = writes
        self._leases = leases

    def service(self) -> Service:
        return Service(
            peer_pb2.DESCRIPTOR.services_by_name["Peer"],
            {
                "Control": self.control,
                "Data": self.data,
                "Forward": self.forward,
                "Leases": self.leases,
                "Identify": self._introductions.identify,
            },
        )

    async def control(self, call: Call) -> None:
        await self._joined_links().accept(Plane.CONTROL, call)

    async def data(self, call: Call) -> None:
        await self._joined_links().accept(Plane.DATA, call)

    async def forward(self, request: peer_pb2.ForwardRequest, call: Call) -> peer_pb2.ForwardReply:
        """Executes a command here, or says that this is not the leader: a command travels one hop, never
        two.
        """
        self._joined_links().check_forwarded(call.metadata)
        assert self._writes is not None, "links and writes come together"
        Reply = peer_pb2.ForwardReply
        deadline = trio.current_time() + request.remaining_ms / 1000
        try:
            check_command(*_kind_and_request(request.command))
            answer = await self._writes.execute_here(request.command, deadline)
        except Status as failed:
            outcome = {None: Reply.DECIDED, NOT_DONE_OUTCOME: Reply.NOT_DONE}.get(
                failed.outcome, Reply.UNKNOWN
            )
            return Reply(outcome=outcome, code=failed.code, text=failed.text)
        if answer is Refusal.OVERLOADED:
            code, text = errors.TOO_MANY_REQUESTS
            return Reply(outcome=Reply.NOT_DONE, code=code, text=text)
        if isinstance(answer, Refusal):
            return Reply(outcome=Reply.NOT_LEADER)
        return Reply(outcome=Reply.DECIDED, code=answer.code, text=answer.text, body=answer.body)

    async def leases(self, request: peer_pb2.LeasesRequest, call: Call) -> peer_pb2.LeasesReply:
        """Renews or tells as the leader, or says that this is not the leader. Raises Status."""
        self._joined_links().check_forwarded(call.metadata)
        assert self._leases is not None, "links and leases come together"
        deadline = trio.current_time() + request.remaining_ms / 1000
        ttls = await self._leases.times(request.ids, renew=request.renew, deadline=deadline)
        return peer_pb2.LeasesReply(not_leader=ttls is None, ttls=ttls or ())

    def _joined_links(self) -> PeerLinks:
        if self._links is None:
            raise Status(errors.UNAVAILABLE, "this node has not formed its cluster yet", NOT_DONE_OUTCOME)
        return self._links


def _kind_and_request(command: bytes) -> tuple[int, bytes]:
    try:
        decoded = decode_command(command)
    except NewerFormat as error:
        raise Status(errors.INVALID_ARGUMENT, f"not a command: {error}") from error
    return decoded.kind, decoded.request
