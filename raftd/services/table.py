"""The leader table as this node sees it, pushed to every proxy and client that watches.

A change is sent the moment the node knows it; between changes a heartbeat tells that the node is alive and
how far it has applied.
"""

from collections.abc import Callable

import trio

from proto import table_pb2
from proto.call import Call
from proto.service import Service
from raftd import config
from raftd.node import Node
from raftd.store import ClusterIdentity


class LeaderTable:
    """Handlers of raftd.table.LeaderTable. `counters` names what this process has counted."""

    def __init__(
        self,
        node: Node,
        cluster: ClusterIdentity,
        election_timeout_ms: int,
        counters: Callable[[], dict[str, int]],
    ) -> None:
        self._node = node
        self._cluster = cluster
        self._election_timeout_ms = election_timeout_ms
        self._counters = counters

    def service(self) -> Service:
        return Service(
            table_pb2.DESCRIPTOR.services_by_name["LeaderTable"],
            {"Watch": self.watch, "Counters": self.counters},
        )

    async def watch(self, request: table_pb2.WatchTableRequest, call: Call) -> None:
        update = self._view()
        update.members.extend(
            table_pb2.TableMember(
                id=member.id,
                name=member.name,
                client_urls=member.client_urls,
                peer_urls=member.peer_urls,
            )
            for member in self._cluster.members
        )
        while True:
            changed = self._node.soft_state_changed
            await call.send(update)
            with trio.move_on_after(config.TABLE_HEARTBEAT_S):
                await changed.wait()
            update = self._view()

    async def counters(self, request: table_pb2.CountersRequest, call: Call) -> table_pb2.CountersReply:
        return table_pb2.CountersReply(counters=self._counters())

    def _view(self) -> table_pb2.TableUpdate:
        state = self._node.soft_state
        return table_pb2.TableUpdate(
            cluster_id=self._cluster.cluster_id,
            member_id=self._node.raft.node_id,
            term=state.term,
            leader=state.leader or 0,
            commit_index=self._node.raft.commit_index,
            applied_index=self._node.applied_index,
            revision=self._node.revision,
            leaving=self._node.leaving,
            election_timeout_ms=self._election_timeout_ms,
        )
