"""etcd's Lease service. Grant and revoke are commands in proxyd's sessions, so exactly once; the rest is the
leader's word, asked for again when it fails.
"""

from contextlib import suppress

from proto import rpc_pb2
from proto.bridge import Call, Service
from proto.session_pb2 import Command
from proto.stream import StreamEnded
from proxyd.keep_alives import KeepAlives
from proxyd.nodes import Nodes
from proxyd.patience import check_leader_wanted, waiting_deadline
from proxyd.table import LeaderTable
from proxyd.writes import Writes

_LEASE = rpc_pb2.DESCRIPTOR.services_by_name["Lease"]
_TIME_TO_LIVE = _LEASE.methods_by_name["LeaseTimeToLive"]
_LEASES = _LEASE.methods_by_name["LeaseLeases"]


class Lease:
    """Handlers of etcdserverpb.Lease."""

    def __init__(self, table: LeaderTable, writes: Writes, nodes: Nodes, keep_alives: KeepAlives) -> None:
        self._table = table
        self._writes = writes
        self._nodes = nodes
        self._keep_alives = keep_alives

    def service(self) -> Service:
        return Service(
            _LEASE,
            {
                "LeaseGrant": self.grant,
                "LeaseRevoke": self.revoke,
                "LeaseKeepAlive": self.keep_alive,
                "LeaseTimeToLive": self.time_to_live,
                "LeaseLeases": self.leases,
            },
            raw={"LeaseGrant", "LeaseRevoke", "LeaseTimeToLive", "LeaseLeases"},
        )

    async def grant(self, request: bytes, call: Call) -> bytes:
        return await self._write(Command.LEASE_GRANT, request, call)

    async def revoke(self, request: bytes, call: Call) -> bytes:
        return await self._write(Command.LEASE_REVOKE, request, call)

    async def time_to_live(self, request: bytes, call: Call) -> bytes:
        return await self._nodes.ask_leader(_TIME_TO_LIVE, request, call)

    async def leases(self, request: bytes, call: Call) -> bytes:
        return await self._nodes.ask_leader(_LEASES, request, call)

    async def keep_alive(self, call: Call) -> None:
        """Answers in the order of the requests, until the client ends its side."""
        with suppress(StreamEnded):
            while True:
                requests: list[rpc_pb2.LeaseKeepAliveRequest] = await call.receive_all()
                check_leader_wanted(self._table, call.metadata)
                deadline = waiting_deadline(self._table, call.deadline)
                asked = [self._keep_alives.ask(request.ID) for request in requests]
                for question in asked:
                    await call.send(await self._keep_alives.answer(question, deadline))

    async def _write(self, kind: Command.Kind.ValueType, request: bytes, call: Call) -> bytes:
        check_leader_wanted(self._table, call.metadata)
        return await self._writes.execute(kind, request, waiting_deadline(self._table, call.deadline))
