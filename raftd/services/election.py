"""etcd's Election service: candidates stand in a line of keys, and who stands first leads."""

import math

from proto import election_pb2, errors, kv_pb2, rpc_pb2
from proto.call import Call
from proto.errors import Status
from proto.service import Service
from raftd.services.line import Lines, Place, keys_of

NOT_LEADER_TEXT = "election: not leader"
NO_LEADER_TEXT = "election: no leader"
MISSING_LEADER_TEXT = '"leader" field must be provided'


class Election:
    """Handlers of v3electionpb.Election."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def service(self) -> Service:
        return Service(
            election_pb2.DESCRIPTOR.services_by_name["Election"],
            {
                "Campaign": self.campaign,
                "Proclaim": self.proclaim,
                "Leader": self.leader,
                "Observe": self.observe,
                "Resign": self.resign,
            },
        )

    async def campaign(
        self, request: election_pb2.CampaignRequest, call: Call
    ) -> election_pb2.CampaignResponse:
        lines = self._lines
        lease = await lines.lease(request.lease, call)
        place = await lines.enter(request.name, lease, request.value, call)
        if place.value != request.value:
            await self._proclaim(place, request.value, call)
        await lines.wait_for_turn(request.name, place, call)
        return election_pb2.CampaignResponse(
            header=place.header,
            leader=election_pb2.LeaderKey(
                name=request.name, key=place.key, rev=place.revision, lease=place.lease
            ),
        )

    async def _proclaim(self, place: Place, value: bytes, call: Call) -> None:
        if not await self._lines.change(place.key, place.revision, place.lease, value, call.deadline):
            raise Status(errors.UNKNOWN, NOT_LEADER_TEXT)

    async def proclaim(
        self, request: election_pb2.ProclaimRequest, call: Call
    ) -> election_pb2.ProclaimResponse:
        leader = _leader_of(request)
        place = Place(leader.key, leader.rev, rpc_pb2.ResponseHeader(), b"", leader.lease)
        await self._proclaim(place, request.value, call)
        header, _ = await self._lines.first(leader.name, call.deadline)
        return election_pb2.ProclaimResponse(header=header)

    async def leader(self, request: election_pb2.LeaderRequest, call: Call) -> election_pb2.LeaderResponse:
        header, found = await self._lines.first(request.name, call.deadline)
        if found is None:
            raise Status(errors.UNKNOWN, NO_LEADER_TEXT)
        return election_pb2.LeaderResponse(header=header, kv=found)

    async def resign(self, request: election_pb2.ResignRequest, call: Call) -> election_pb2.ResignResponse:
        leader = _leader_of(request)
        header = await self._lines.leave(leader.key, leader.rev, call.deadline)
        return election_pb2.ResignResponse(header=header)

    async def observe(self, request: election_pb2.LeaderRequest, call: Call) -> None:
        while True:
            header, found = await self._lines.first(request.name, math.inf)
            if found is None:
                await self._first_candidate(request.name, header.revision + 1)
            else:
                await call.send(election_pb2.LeaderResponse(header=header, kv=found))
                await self._follow(found, header, call)

    async def _first_candidate(self, name: bytes, start_revision: int) -> None:
        async with self._lines.watching(*keys_of(name), start_revision) as events:
            while True:
                reply = await events.receive()
                if reply.events or reply.canceled:
                    return

    async def _follow(self, leader: kv_pb2.KeyValue, header: rpc_pb2.ResponseHeader, call: Call) -> None:
        """Sends each value of this leader until it leads no more."""
        async with self._lines.watching(leader.key, b"", header.revision + 1) as events:
            while True:
                reply = await events.receive()
                for event in reply.events:
                    if event.type == event.DELETE:
                        return
                    header.revision = event.kv.mod_revision
                    await call.send(election_pb2.LeaderResponse(header=header, kv=event.kv))
                if reply.canceled:
                    return


def _leader_of(request: election_pb2.ProclaimRequest | election_pb2.ResignRequest) -> election_pb2.LeaderKey:
    if not request.HasField("leader"):
        raise Status(errors.UNKNOWN, MISSING_LEADER_TEXT)
    return request.leader
