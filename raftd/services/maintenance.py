"""etcd's Maintenance service, as far as it exists: how this node is, no alarms, nothing to defragment, and
handing leadership on.
"""

from typing import Final

import trio

from proto import errors, rpc_pb2
from proto.call import Call
from proto.errors import Status
from proto.service import Service
from raftd.node import Node
from raftd.services.header import Headers
from raftd.services.writes import Writes
from raftd.store import Store

API_VERSION: Final = "3.5.0"
"""What clients are told of the API: three plain numbers, because Patroni and others parse them."""


class Maintenance:
    def __init__(
        self,
        node: Node,
        writes: Writes,
        headers: Headers,
        store: Store,
    ) -> None:
        self._node = node
        self._writes = writes
        self._headers = headers
        self._store = store

    def service(self) -> Service:
        return Service(
            rpc_pb2.DESCRIPTOR.services_by_name["Maintenance"],
            {"Status": self.status, "Alarm": self.alarm, "MoveLeader": self.move_leader},
        )

    async def status(self, request: rpc_pb2.StatusRequest, call: Call) -> rpc_pb2.StatusResponse:
        leader = self._node.soft_state.leader
        size_bytes = self._store.size_bytes()
        return rpc_pb2.StatusResponse(
            header=self._headers.header(self._node.revision),
            version=API_VERSION,
            dbSize=size_bytes,
            dbSizeInUse=size_bytes,
            leader=leader or 0,
            raftIndex=self._node.raft.commit_index,
            raftTerm=self._node.raft.term,
            raftAppliedIndex=self._node.applied_index,
            errors=[] if leader else [errors.NO_LEADER[1]],
        )

    async def alarm(self, request: rpc_pb2.AlarmRequest, call: Call) -> rpc_pb2.AlarmResponse:
        if request.action != rpc_pb2.AlarmRequest.GET:
            raise Status(errors.UNIMPLEMENTED, "raftd raises no alarms yet: they come with the storage quota")
        return rpc_pb2.AlarmResponse(header=self._headers.header())

    async def move_leader(self, request: rpc_pb2.MoveLeaderRequest, call: Call) -> rpc_pb2.MoveLeaderResponse:
        if not self._node.leads:
            raise Status(*errors.NOT_LEADER)
        if request.targetID not in self._node.raft.voters:
            raise Status(*errors.BAD_LEADER_TRANSFEREE)
        if request.targetID == self._node.soft_state.leader:
            return rpc_pb2.MoveLeaderResponse()
        self._node.transfer_leadership(request.targetID)
        with trio.move_on_at(self._writes.deadline(call.deadline)):
            while self._node.soft_state.leader != request.targetID:
                await self._node.soft_state_changed.wait()
            return rpc_pb2.MoveLeaderResponse()
        raise Status(*errors.TIMEOUT)
