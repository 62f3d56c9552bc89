"""How the nodes of a new cluster find each other: everybody tells everybody the identity of its data
directory.

An empty node does not vote until it has heard from *all* members of --initial-cluster: only
then does it know the cluster's id, which is a hash over their identities. A node whose data was wiped comes
with a new identity, finds a cluster that does not know it, and is told so (hazards 43, 77).
"""

from collections.abc import Mapping

import structlog
import trio

from proto import errors, peer_pb2
from proto.bridge import connect
from proto.call import Call
from proto.errors import Status
from raftd import config
from raftd.store import ClusterIdentity, Member, form_cluster

log = structlog.get_logger()

_IDENTIFY = peer_pb2.DESCRIPTOR.services_by_name["Peer"].methods_by_name["Identify"]


class FormationRefused(Exception):
    """This node and a peer cannot be in one cluster. `text` is one line for the operator."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


def address_of(url: str) -> str:
    """host:port of an http URL as the flags give them."""
    return url.split("://", 1)[-1].rstrip("/")


def canonical(initial_cluster: Mapping[str, str]) -> str:
    """--initial-cluster in one spelling, so that two nodes' flags can be compared."""
    return ",".join(f"{name}={url}" for name, url in sorted(initial_cluster.items()))


class Introductions:
    """This node's part of the exchange: `identify` answers, `form` asks."""

    def __init__(self, token: str, me: Member, initial_cluster: Mapping[str, str]) -> None:
        self._token = token
        self._me = me
        self._initial_cluster = initial_cluster
        self._cluster: ClusterIdentity | None = None

    def joined(self, cluster: ClusterIdentity) -> None:
        """From now on peers are told which cluster this node belongs to."""
        self._cluster = cluster

    async def identify(self, request: peer_pb2.IdentifyRequest, call: Call) -> peer_pb2.IdentifyReply:
        """Handler of Peer.Identify. Raises Status FAILED_PRECONDITION where the two do not belong
        together.
        """
        if reason := self._objection(request):
            log.warning("a node of another cluster asks", peer=request.name, reason=reason)
            raise Status(errors.FAILED_PRECONDITION, reason)
        return peer_pb2.IdentifyReply(
            name=self._me.name,
            member_id=self._me.id,
            peer_urls=self._me.peer_urls,
            client_urls=self._me.client_urls,
            cluster_id=self._cluster.cluster_id if self._cluster else 0,
        )

    def _objection(self, request: peer_pb2.IdentifyRequest) -> str | None:
        me = self._me.name
        if request.format != config.PEER_FORMAT:
            return f"node {me} speaks peer format {config.PEER_FORMAT}, not {request.format}"
        if request.cluster_token != self._token:
            return f"node {me} has --initial-cluster-token {self._token!r}, not {request.cluster_token!r}"
        if self._cluster is not None:
            known = {member.name: member.id for member in self._cluster.members}
            if request.name not in known:
                return f"node {request.name} is not a member of cluster {self._cluster.cluster_id:x}"
            if known[request.name] != request.member_id:
                return (
                    f"cluster {self._cluster.cluster_id:x} knows {request.name} as member "
                    f"{known[request.name]:x}, but its data directory is {request.member_id:x}: the data was "
                    "wiped or replaced; put the old directory back, or go on without this member"
                )
        elif request.initial_cluster != canonical(self._initial_cluster):
            mine = canonical(self._initial_cluster)
            return f"node {me} has --initial-cluster {mine!r}, not {request.initial_cluster!r}"
        if request.member_id == self._me.id and request.name != me:
            return f"nodes {me} and {request.name} have the same data directory identity: one is a copy"
        return None

    async def form(self) -> ClusterIdentity:
        """Asks all others until all have answered. Raises FormationRefused."""
        heard: dict[str, Member] = {self._me.name: self._me}
        belongs: dict[str, int] = {}
        async with trio.open_nursery() as nursery:
            for name, url in self._initial_cluster.items():
                if name != self._me.name:
                    nursery.start_soon(self._hear_from, name, address_of(url), heard, belongs)
        for member in heard.values():
            same = [other.name for other in heard.values() if other.id == member.id]
            if len(same) > 1:
                raise FormationRefused(
                    f"nodes {' and '.join(same)} have the same data directory identity: one is a copy"
                )
        cluster = form_cluster(self._token, heard.values())
        for name, cluster_id in belongs.items():
            if cluster_id not in (0, cluster.cluster_id):
                raise FormationRefused(
                    f"node {name} already belongs to cluster {cluster_id:x}, which this data directory "
                    f"({self._me.id:x}) is not part of: put the old directory back, or go on without this "
                    "member"
                )
        return cluster

    async def _hear_from(
        self, name: str, address: str, heard: dict[str, Member], belongs: dict[str, int]
    ) -> None:
        request = peer_pb2.IdentifyRequest(
            cluster_token=self._token,
            name=self._me.name,
            member_id=self._me.id,
            peer_urls=self._me.peer_urls,
            client_urls=self._me.client_urls,
            initial_cluster=canonical(self._initial_cluster),
            format=config.PEER_FORMAT,
        )
        log.info("waiting for a member to form the cluster", peer=name, address=address)
        while True:
            try:
                async with connect(address) as channel:
                    reply = await channel.unary(_IDENTIFY, request, timeout=config.IDENTIFY_TIMEOUT_S)
            except Status as failed:
                if failed.code == errors.FAILED_PRECONDITION:
                    raise FormationRefused(failed.text) from failed
                await trio.sleep(config.IDENTIFY_RETRY_S)
                continue
            if reply.name != name:
                raise FormationRefused(
                    f"{address} is {reply.name} and not {name}: --initial-cluster names the wrong address"
                )
            heard[name] = Member(
                reply.member_id, reply.name, tuple(reply.peer_urls), tuple(reply.client_urls)
            )
            belongs[name] = reply.cluster_id
            return
