"""etcd's Cluster service: who the members are. Changing them comes with membership change; until then those
calls answer UNIMPLEMENTED by having no handler.
"""

from proto import rpc_pb2
from proto.call import Call
from proto.service import Service
from raftd.services.header import Headers
from raftd.store import ClusterIdentity


class Cluster:
    def __init__(self, headers: Headers, cluster: ClusterIdentity) -> None:
        self._headers = headers
        self._members = [
            rpc_pb2.Member(
                ID=member.id,
                name=member.name,
                peerURLs=member.peer_urls,
                clientURLs=member.client_urls,
            )
            for member in cluster.members
        ]

    def service(self) -> Service:
        return Service(rpc_pb2.DESCRIPTOR.services_by_name["Cluster"], {"MemberList": self.member_list})

    async def member_list(self, request: rpc_pb2.MemberListRequest, call: Call) -> rpc_pb2.MemberListResponse:
        return rpc_pb2.MemberListResponse(header=self._headers.header(), members=self._members)
