"""etcd's Maintenance and Cluster services, as far as a proxy can speak for a cluster.

`MemberList` is any healthy node's, the rest the leader's: its status, its alarms, the hash of its keys. All
else answers UNIMPLEMENTED: it is for one node or changes the cluster, and belongs to a node's own address.
"""

from google.protobuf.message import DecodeError

from proto import rpc_pb2
from proto.bridge import Call, Service
from proto.service import Handler
from proxyd.dial import MEMBER_LIST
from proxyd.endpoints import Endpoints
from proxyd.nodes import Nodes
from proxyd.table import LeaderTable

_MAINTENANCE = rpc_pb2.DESCRIPTOR.services_by_name["Maintenance"]
_BY_THE_LEADER = ("Status", "Alarm", "Hash", "HashKV", "Defragment")


class ClusterServices:
    """Handlers of etcdserverpb.Maintenance and etcdserverpb.Cluster."""

    def __init__(self, table: LeaderTable, endpoints: Endpoints, nodes: Nodes) -> None:
        self._table = table
        self._endpoints = endpoints
        self._nodes = nodes

    def services(self) -> list[Service]:
        cluster = rpc_pb2.DESCRIPTOR.services_by_name["Cluster"]
        return [
            Service(
                _MAINTENANCE, {name: self.by_the_leader(name) for name in _BY_THE_LEADER}, raw=_BY_THE_LEADER
            ),
            Service(cluster, {"MemberList": self.member_list}, raw={"MemberList"}),
        ]

    def by_the_leader(self, name: str) -> Handler:
        """The handler of a method of Maintenance. Without a leader any node answers; `Status` then says so in
        `errors`, as a node of etcd would."""
        method = _MAINTENANCE.methods_by_name[name]

        async def ask(request: bytes, call: Call) -> bytes:
            return await self._nodes.ask_leader(method, request, call)

        return ask

    async def member_list(self, request: bytes, call: Call) -> bytes:
        """From a healthy node; when no node can be reached, what the leader table last heard, unless the
        caller wants to know what holds now."""
        if not self._endpoints.links and self._table.members and not _is_linearizable(request):
            return self._members_of_table().SerializeToString()
        return await self._nodes.ask_any(MEMBER_LIST, request, call)

    def _members_of_table(self) -> rpc_pb2.MemberListResponse:
        header = rpc_pb2.ResponseHeader(
            cluster_id=self._table.cluster_id,
            raft_term=self._table.term,
            revision=self._table.revision,
        )
        members = [
            rpc_pb2.Member(
                ID=member.id,
                name=member.name,
                peerURLs=member.peer_urls,
                clientURLs=member.client_urls,
            )
            for member in self._table.members
        ]
        return rpc_pb2.MemberListResponse(header=header, members=members)


def _is_linearizable(request: bytes) -> bool:
    """Malformed requests are for raftd to refuse."""
    try:
        return rpc_pb2.MemberListRequest.FromString(request).linearizable
    except DecodeError:
        return True
