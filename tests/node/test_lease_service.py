"""The Lease service over gRPC: etcd's replies, through any node."""

from pathlib import Path
from typing import Any

import pytest

from proto import errors, rpc_pb2, session_pb2
from proto.errors import Status
from raftd.kv.limits import LIMITS
from tests.node.serving import Member, Members, serving

LEASE = rpc_pb2.DESCRIPTOR.services_by_name["Lease"].methods_by_name
KV = rpc_pb2.DESCRIPTOR.services_by_name["KV"].methods_by_name
MAINTENANCE = rpc_pb2.DESCRIPTOR.services_by_name["Maintenance"].methods_by_name
SESSION = session_pb2.DESCRIPTOR.services_by_name["Session"].methods_by_name["Stream"]
Kind = session_pb2.Command.Kind
MAX_TTL_S = LIMITS.max_lease_ttl_s


async def grant(member: Member, ttl_s: int = 60, lease: int = 0) -> rpc_pb2.LeaseGrantResponse:
    reply: rpc_pb2.LeaseGrantResponse = await member.call(
        LEASE["LeaseGrant"], rpc_pb2.LeaseGrantRequest(TTL=ttl_s, ID=lease)
    )
    return reply


async def keep_alive(member: Member, *leases: int) -> list[rpc_pb2.LeaseKeepAliveResponse]:
    found: list[rpc_pb2.LeaseKeepAliveResponse] = []
    async with member.channel.stream(LEASE["LeaseKeepAlive"]) as stream:
        for lease in leases:
            await stream.send(rpc_pb2.LeaseKeepAliveRequest(ID=lease))
        while len(found) < len(leases):
            found += await stream.receive_all()
    return found


async def time_to_live(member: Member, lease: int, *, keys: bool = False) -> rpc_pb2.LeaseTimeToLiveResponse:
    reply: rpc_pb2.LeaseTimeToLiveResponse = await member.call(
        LEASE["LeaseTimeToLive"], rpc_pb2.LeaseTimeToLiveRequest(ID=lease, keys=keys)
    )
    return reply


async def refused(member: Member, method: Any, request: Any) -> tuple[int, str]:
    with pytest.raises(Status) as raised:
        await member.call(method, request)
    assert raised.value.outcome == errors.NOT_DONE_OUTCOME
    return raised.value.code, raised.value.text


async def test_leases_through_every_node(tmp_path: Path) -> None:
    async with serving(tmp_path, 3) as members:
        for number, member in enumerate(members.all):
            lease = 100 + number
            granted = await grant(member, 60, lease)
            assert granted == rpc_pb2.LeaseGrantResponse(header=granted.header, ID=lease, TTL=60)
            assert granted.header.member_id == member.node.raft.node_id
            key = b"k%d" % number
            await member.call(KV["Put"], rpc_pb2.PutRequest(key=key, lease=lease))
            (kept,) = await keep_alive(member, lease)
            assert kept == rpc_pb2.LeaseKeepAliveResponse(header=kept.header, ID=lease, TTL=60)
            assert kept.header.member_id == member.node.raft.node_id
            asked = await time_to_live(member, lease, keys=True)
            assert (asked.ID, asked.grantedTTL, list(asked.keys)) == (lease, 60, [key])
            assert 0 < asked.TTL <= 60
            listed = await member.call(LEASE["LeaseLeases"], rpc_pb2.LeaseLeasesRequest())
            assert sorted(it.ID for it in listed.leases) == list(range(100, lease + 1))
        for member, lease in zip(members.all, (102, 101, 100), strict=True):
            await member.call(LEASE["LeaseRevoke"], rpc_pb2.LeaseRevokeRequest(ID=lease))
            assert await member.get(b"k%d" % (lease - 100)) is None


async def test_the_server_chooses_ids(tmp_path: Path) -> None:
    async with serving(tmp_path, 1) as members:
        chosen = [(await grant(members.all[0])).ID for _ in range(3)]
        assert len(set(chosen)) == 3
        assert all(lease > 0 for lease in chosen)


async def test_what_is_not_there(tmp_path: Path) -> None:
    async with serving(tmp_path, 3) as members:
        for member in members.all:
            assert [reply.TTL for reply in await keep_alive(member, 7, 8)] == [0, 0]
            asked = await time_to_live(member, 7, keys=True)
            assert (asked.ID, asked.TTL, asked.grantedTTL) == (7, -1, 0)
            assert asked.header.raft_term > 0
            revoke = rpc_pb2.LeaseRevokeRequest(ID=7)
            assert await refused(member, LEASE["LeaseRevoke"], revoke) == errors.LEASE_NOT_FOUND
            put = rpc_pb2.PutRequest(key=b"k", lease=7)
            assert await refused(member, KV["Put"], put) == errors.LEASE_NOT_FOUND


async def test_what_cannot_be_granted(tmp_path: Path) -> None:
    async with serving(tmp_path, 1) as members:
        (member,) = members.all
        await grant(member, 60, 5)
        again = rpc_pb2.LeaseGrantRequest(TTL=60, ID=5)
        assert await refused(member, LEASE["LeaseGrant"], again) == errors.LEASE_EXISTS
        long = rpc_pb2.LeaseGrantRequest(TTL=MAX_TTL_S + 1)
        assert await refused(member, LEASE["LeaseGrant"], long) == errors.LEASE_TTL_TOO_LARGE
        for ttl_s in (-1, 0, 1):
            shortest = rpc_pb2.LeaseGrantResponse(ID=200 + ttl_s, TTL=LIMITS.min_lease_ttl_s)
            shortest.header.CopyFrom((granted := await grant(member, ttl_s, shortest.ID)).header)
            assert granted == shortest
        assert (await grant(member, MAX_TTL_S)).TTL == MAX_TTL_S


async def test_many_keep_alives_on_one_stream(tmp_path: Path) -> None:
    async with serving(tmp_path, 3) as members:
        follower = (await members.followers())[0]
        await grant(follower, 60, 3)
        replies = await keep_alive(follower, *range(1, 1001))
        assert [reply.ID for reply in replies] == list(range(1, 1001))
        assert {reply.ID for reply in replies if reply.TTL} == {3}


async def test_a_lease_in_a_session(tmp_path: Path) -> None:
    """The id is chosen once, before the log: a repeated command names the same lease (hazard 87)."""
    async with serving(tmp_path, 1) as members, members.all[0].channel.stream(SESSION) as stream:

        async def command(
            session: int, sequence: int, kind: "Kind.ValueType", request: bytes
        ) -> session_pb2.Result:
            sent = session_pb2.Command(sequence=sequence, kind=kind, request=request)
            batch = session_pb2.Batch(session=session, first_outstanding=1, commands=[sent])
            await stream.send(session_pb2.Request(batches=[batch]))
            while True:
                for reply in await stream.receive_all():
                    for result in reply.results:
                        assert isinstance(result, session_pb2.Result)
                        return result

        registered = await command(0, 1, Kind.REGISTER, b"")
        session = session_pb2.Registered.FromString(registered.body).session
        wanted = rpc_pb2.LeaseGrantRequest(TTL=60).SerializeToString()
        bodies = [(await command(session, 1, Kind.LEASE_GRANT, wanted)).body for _ in range(2)]
        first, second = (rpc_pb2.LeaseGrantResponse.FromString(body).ID for body in bodies)
        assert first == second > 0
        for kind in (Kind.LEASE_EXPIRE, Kind.COMPACT_STEP, Kind.ACKNOWLEDGE):
            assert (await command(session, 2, kind, b"")).code == errors.INVALID_ARGUMENT
        revoke = rpc_pb2.LeaseRevokeRequest(ID=first).SerializeToString()
        assert (await command(session, 3, Kind.LEASE_REVOKE, revoke)).code == errors.OK


async def hashes(members: Members, revision: int = 0) -> set[int]:
    request = rpc_pb2.HashKVRequest(revision=revision)
    return {(await member.call(MAINTENANCE["HashKV"], request)).hash for member in members.all}


async def test_compaction_and_hashes(tmp_path: Path) -> None:
    async with serving(tmp_path, 3) as members:
        for number in range(10):
            await members.all[number % 3].put(b"k", b"%d" % number)
        for member in members.all:
            await member.get(b"k")
        assert len(await hashes(members)) == 1
        before = await hashes(members, 8)
        compaction = rpc_pb2.CompactionRequest(revision=5, physical=True)
        assert (await members.all[1].call(KV["Compact"], compaction)).header.revision == 11
        for member in members.all:
            await member.get(b"k")
        assert await hashes(members, 8) != before
        assert len(await hashes(members, 8)) == 1
        for member in members.all:
            code_and_text = await refused(member, KV["Compact"], compaction)
            assert code_and_text == errors.COMPACTED
            compaction_ahead = rpc_pb2.CompactionRequest(revision=99)
            assert await refused(member, KV["Compact"], compaction_ahead) == errors.FUTURE_REVISION
            found = await member.call(MAINTENANCE["HashKV"], rpc_pb2.HashKVRequest())
            assert found.compact_revision == 5
            for method, request in (
                ("Hash", rpc_pb2.HashRequest()),
                ("Defragment", rpc_pb2.DefragmentRequest()),
            ):
                await member.call(MAINTENANCE[method], request)
            with pytest.raises(Status, match="required revision has been compacted"):
                await member.call(MAINTENANCE["HashKV"], rpc_pb2.HashKVRequest(revision=4))
