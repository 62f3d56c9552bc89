"""etcd's Maintenance service, as far as it exists: how this node is, sums over its state, no alarms, nothing
to defragment, and handing leadership on.
"""

from typing import Final

import trio

from proto import errors, rpc_pb2
from proto.call import Call
from proto.errors import Status
from proto.service import Service
from raftd.kv import StateMachine
from raftd.node import Node
from raftd.reads import Read
from raftd.services.header import Headers
from raftd.services.requests import parse
from raftd.services.unary import Unary
from raftd.services.writes import Writes
from raftd.store import Store

API_VERSION: Final = "3.5.0"
"""What clients are told of the API: three plain numbers, because Patroni and others parse them."""


class Maintenance:
    def __init__(
        self,
        node: Node,
        writes: Writes,
        unary: Unary,
        state_machine: StateMachine,
        headers: Headers,
        store: Store,
    ) -> None:
        self._node = node
        self._writes = writes
        self._unary = unary
        self._state_machine = state_machine
        self._headers = headers
        self._store = store
        self._hashing = trio.Lock()
        """A sum reads the whole store: one at a time, or they would take all threads from the scans."""

    def service(self) -> Service:
        return Service(
            rpc_pb2.DESCRIPTOR.services_by_name["Maintenance"],
            {
                "Status": self.status,
                "Alarm": self.alarm,
                "Defragment": self.defragment,
                "Hash": self.hash,
                "HashKV": self.hash_kv,
                "MoveLeader": self.move_leader,
            },
            raw={"Hash", "HashKV"},
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
        """No alarm is ever raised, so there are none to list, and to clear one changes nothing."""
        if request.action == rpc_pb2.AlarmRequest.ACTIVATE:
            raise Status(errors.UNIMPLEMENTED, "raftd has no alarms yet: they come with the storage quota")
        return rpc_pb2.AlarmResponse(header=self._headers.header(self._node.revision))

    async def defragment(self, request: rpc_pb2.DefragmentRequest, call: Call) -> rpc_pb2.DefragmentResponse:
        """LMDB uses freed pages again by itself, so there is nothing to do."""
        return rpc_pb2.DefragmentResponse()

    async def hash(self, request: bytes, call: Call) -> bytes:
        return await self._sum(
            Read(lambda reader: self._state_machine.hash(reader).SerializeToString()), call
        )

    async def hash_kv(self, request: bytes, call: Call) -> bytes:
        parsed = parse(rpc_pb2.HashKVRequest, request)
        read = Read(lambda reader: self._state_machine.hash_kv(reader, parsed).SerializeToString())
        return await self._sum(read, call)

    async def _sum(self, read: Read, call: Call) -> bytes:
        """Of this node's own state, whatever the others have, as in etcd: to be compared with theirs."""
        read.linearizable, read.scan = False, True
        read.min_revision = self._node.revision
        async with self._hashing:
            return await self._unary.read(read, call.deadline)

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
