"""etcd's Lease service on a node, leader or not.

Grant and revoke are commands in the log; keepalives and the time left are the leader's word, which the log
knows nothing of.
"""

from collections.abc import Callable

from proto import rpc_pb2, session_pb2
from proto.call import Call
from proto.service import Service
from proto.stream import StreamEnded
from raftd import config
from raftd.kv import StateMachine
from raftd.kv.lessor import UNKNOWN_LEASE_TTL_S
from raftd.reads import Read
from raftd.services.header import Headers
from raftd.services.lease_times import LeaseTimes
from raftd.services.requests import parse
from raftd.services.unary import Unary
from raftd.services.writes import Writes

Kind = session_pb2.Command.Kind


class Lease:
    """Handlers of etcdserverpb.Lease. Those that are one write or one read are served raw."""

    def __init__(
        self,
        unary: Unary,
        writes: Writes,
        renewals: LeaseTimes,
        questions: LeaseTimes,
        state_machine: StateMachine,
        headers: Headers,
        applied_revision: Callable[[], int],
    ) -> None:
        self._unary = unary
        self._writes = writes
        self._renewals = renewals
        self._questions = questions
        self._state_machine = state_machine
        self._headers = headers
        self._applied_revision = applied_revision

    def service(self) -> Service:
        return Service(
            rpc_pb2.DESCRIPTOR.services_by_name["Lease"],
            {
                "LeaseGrant": self.grant,
                "LeaseRevoke": self.revoke,
                "LeaseKeepAlive": self.keep_alive,
                "LeaseTimeToLive": self.time_to_live,
                "LeaseLeases": self.leases,
            },
            raw={"LeaseGrant", "LeaseRevoke", "LeaseLeases"},
        )

    async def grant(self, request: bytes, call: Call) -> bytes:
        self._unary.check_leader_wanted(call)
        return await self._unary.write(Kind.LEASE_GRANT, request, call.deadline)

    async def revoke(self, request: bytes, call: Call) -> bytes:
        self._unary.check_leader_wanted(call)
        return await self._unary.write(Kind.LEASE_REVOKE, request, call.deadline)

    async def keep_alive(self, call: Call) -> None:
        """Until the client ends its side; a lease that is not there is answered with a TTL of 0."""
        try:
            while True:
                requests = await call.receive_all()
                for start in range(0, len(requests), config.MAX_LEASE_BATCH):
                    await self._renew(requests[start : start + config.MAX_LEASE_BATCH], call)
        except StreamEnded:
            return

    async def _renew(self, requests: list[rpc_pb2.LeaseKeepAliveRequest], call: Call) -> None:
        # Taken before: a lease that was alive at a revision may not be seen alive at a later one.
        header = self._headers.header(self._applied_revision())
        deadline = self._writes.deadline(call.deadline)
        ttls = await self._renewals.ask([request.ID for request in requests], deadline)
        for request, ttl in zip(requests, ttls, strict=True):
            await call.send(rpc_pb2.LeaseKeepAliveResponse(header=header, ID=request.ID, TTL=ttl))

    async def time_to_live(
        self, request: rpc_pb2.LeaseTimeToLiveRequest, call: Call
    ) -> rpc_pb2.LeaseTimeToLiveResponse:
        self._unary.check_leader_wanted(call)
        read = Read(
            lambda transaction: self._state_machine.lease_time_to_live(
                transaction, request
            ).SerializeToString(),
            scan=request.keys,
        )
        found = parse(rpc_pb2.LeaseTimeToLiveResponse, await self._unary.read(read, call.deadline))
        if found.TTL == UNKNOWN_LEASE_TTL_S:
            return found
        (left_s,) = await self._questions.ask([request.ID], self._writes.deadline(call.deadline))
        if left_s == UNKNOWN_LEASE_TTL_S:  # its time was over just now
            return rpc_pb2.LeaseTimeToLiveResponse(
                header=found.header, ID=request.ID, TTL=UNKNOWN_LEASE_TTL_S
            )
        found.TTL = left_s
        return found

    async def leases(self, request: bytes, call: Call) -> bytes:
        self._unary.check_leader_wanted(call)
        read = Read(
            lambda transaction: self._state_machine.lease_leases(transaction).SerializeToString(), scan=True
        )
        return await self._unary.read(read, call.deadline)
