"""etcd's Maintenance and Cluster services, as far as a proxy can speak for a cluster.

`Status` is the leader's, `MemberList` any healthy node's. All else answers UNIMPLEMENTED: it is for one node
or changes the cluster, and belongs to a node's own address.
"""

from collections.abc import Callable

import trio
from google.protobuf.descriptor import MethodDescriptor

from proto import errors, rpc_pb2
from proto.bridge import Call, Service
from proto.errors import Status
from proxyd.dial import MEMBER_LIST, STATUS
from proxyd.endpoints import Endpoints
from proxyd.node_link import NodeLink, redial_pause_s
from proxyd.patience import check_leader_wanted, waiting_deadline, why_in_vain
from proxyd.table import LeaderTable, NodeView


class ClusterServices:
    """Handlers of etcdserverpb.Maintenance and etcdserverpb.Cluster."""

    def __init__(self, table: LeaderTable, endpoints: Endpoints) -> None:
        self._table = table
        self._endpoints = endpoints
        self._turn = 0

    def services(self) -> list[Service]:
        maintenance = rpc_pb2.DESCRIPTOR.services_by_name["Maintenance"]
        cluster = rpc_pb2.DESCRIPTOR.services_by_name["Cluster"]
        return [
            Service(maintenance, {"Status": self.status}, raw={"Status"}),
            Service(cluster, {"MemberList": self.member_list}, raw={"MemberList"}),
        ]

    async def status(self, request: bytes, call: Call) -> bytes:
        """The leader's. Without a leader any node's, which says so in `errors`, as a node of etcd would."""
        return await self._ask(STATUS, request, call, self._leader_first)

    async def member_list(self, request: bytes, call: Call) -> bytes:
        """From a healthy node; when no node can be reached, what the leader table last heard."""
        if not self._endpoints.links and self._table.members:
            return self._members_of_table().SerializeToString()
        return await self._ask(MEMBER_LIST, request, call, self._round_robin)

    async def _ask(
        self, method: MethodDescriptor, request: bytes, call: Call, order: Callable[[], list[NodeView]]
    ) -> bytes:
        """The first answer of the nodes in `order`; those that do not answer are passed over until the
        deadline."""
        check_leader_wanted(self._table, call.metadata)
        deadline = waiting_deadline(self._table, call.deadline)
        with trio.move_on_at(deadline):
            while True:
                for link in self._links(order()):
                    try:
                        timeout_s = max(0.001, deadline - trio.current_time())
                        reply: bytes = await link.unary(method, request, timeout_s, raw=True)
                    except Status as status:
                        if status.code not in (errors.UNAVAILABLE, errors.DEADLINE_EXCEEDED):
                            raise
                    else:
                        return reply
                with trio.move_on_after(redial_pause_s()):
                    await self._table.wait_change()
        raise Status(*why_in_vain(self._table), outcome=errors.NOT_DONE_OUTCOME)

    def _links(self, views: list[NodeView]) -> list[NodeLink]:
        links = self._endpoints.links
        return [links[view.address] for view in views if view.address in links]

    def _leader_first(self) -> list[NodeView]:
        leader = self._table.leader
        nodes = self._table.live_nodes()
        if leader is None:
            return nodes
        # While a leader is known only it will do: another node's numbers would be taken for the leader's.
        return [view for view in nodes if view.member_id == leader.member_id]

    def _round_robin(self) -> list[NodeView]:
        now = trio.current_time()
        nodes = sorted(self._table.live_nodes(), key=lambda view: not self._table.healthy(view, now))
        healthy = sum(self._table.healthy(view, now) for view in nodes)
        self._turn += 1
        start = self._turn % healthy if healthy else 0
        return nodes[start:healthy] + nodes[:start] + nodes[healthy:]

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
