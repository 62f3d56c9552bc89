"""Locks and elections over gRPC, on any node of three."""

from pathlib import Path

import pytest
import trio

from proto import election_pb2, errors, lock_pb2, rpc_pb2
from proto.errors import Status
from raftd.services.election import MISSING_LEADER_TEXT, NO_LEADER_TEXT, NOT_LEADER_TEXT
from tests.node.serving import BOUND_S, Member, serving, until

LOCK = lock_pb2.DESCRIPTOR.services_by_name["Lock"].methods_by_name
ELECTION = election_pb2.DESCRIPTOR.services_by_name["Election"].methods_by_name
LEASE = rpc_pb2.DESCRIPTOR.services_by_name["Lease"].methods_by_name


async def grant(member: Member, ttl_s: int = 60) -> int:
    reply: rpc_pb2.LeaseGrantResponse = await member.call(
        LEASE["LeaseGrant"], rpc_pb2.LeaseGrantRequest(TTL=ttl_s)
    )
    return reply.ID


async def revoke(member: Member, lease: int) -> None:
    await member.call(LEASE["LeaseRevoke"], rpc_pb2.LeaseRevokeRequest(ID=lease))


async def lock(member: Member, name: bytes, lease: int = 0) -> bytes:
    reply: lock_pb2.LockResponse = await member.call(
        LOCK["Lock"], lock_pb2.LockRequest(name=name, lease=lease)
    )
    return reply.key


async def unlock(member: Member, key: bytes) -> None:
    await member.call(LOCK["Unlock"], lock_pb2.UnlockRequest(key=key))


async def waiting(member: Member, name: bytes, count: int) -> None:
    """Until so many stand in the line."""
    request = rpc_pb2.RangeRequest(key=name + b"/", range_end=name + b"0", count_only=True)
    method = rpc_pb2.DESCRIPTOR.services_by_name["KV"].methods_by_name["Range"]
    with trio.fail_after(BOUND_S):
        while (await member.call(method, request)).count != count:
            with trio.move_on_after(0.01):
                await trio.sleep_forever()


async def test_one_holds_the_lock_and_the_others_wait_in_line(tmp_path: Path) -> None:
    async with serving(tmp_path, 3) as members:
        held: list[int] = []
        done: list[int] = []

        async def worker(number: int) -> None:
            member = members.all[number % 3]
            key = await lock(member, b"name", await grant(member))
            held.append(number)
            assert held == [number]
            await member.put(b"held", b"%d" % number)
            held.remove(number)
            done.append(number)
            await unlock(member, key)

        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(worker, number)
        assert sorted(done) == list(range(6))


async def test_a_lock_goes_on_with_the_end_of_its_lease(tmp_path: Path) -> None:
    async with serving(tmp_path, 3) as members:
        first, second, _ = members.all
        lease = await grant(first)
        key = await lock(first, b"name", lease)
        assert key == b"name/%x" % lease
        assert await lock(first, b"name", lease) == key, "it holds it already"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lock, second, b"name")
            await waiting(first, b"name", 2)
            await revoke(first, lease)
        await waiting(first, b"name", 1)


async def test_who_stops_waiting_leaves_the_line(tmp_path: Path) -> None:
    async with serving(tmp_path, 1) as members:
        (member,) = members.all
        await lock(member, b"name")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(lock, member, b"name")
            await waiting(member, b"name", 2)
            nursery.cancel_scope.cancel()
        await waiting(member, b"name", 1)


async def test_a_lock_under_a_lease_that_is_not_there(tmp_path: Path) -> None:
    async with serving(tmp_path, 1) as members:
        with pytest.raises(Status) as raised:
            await lock(members.all[0], b"name", 77)
        assert raised.value.args[:2] == errors.LEASE_NOT_FOUND


async def campaign(member: Member, value: bytes, lease: int) -> election_pb2.LeaderKey:
    request = election_pb2.CampaignRequest(name=b"e", lease=lease, value=value)
    reply: election_pb2.CampaignResponse = await member.call(ELECTION["Campaign"], request)
    return reply.leader


async def leader_value(member: Member) -> bytes:
    reply: election_pb2.LeaderResponse = await member.call(
        ELECTION["Leader"], election_pb2.LeaderRequest(name=b"e")
    )
    return reply.kv.value


async def test_an_election(tmp_path: Path) -> None:
    async with serving(tmp_path, 3) as members:
        first, second, third = members.all
        seen: list[bytes] = []

        async def observe() -> None:
            request = election_pb2.LeaderRequest(name=b"e")
            async with third.channel.stream(ELECTION["Observe"], request) as stream:
                while True:
                    seen.extend(reply.kv.value for reply in await stream.receive_all())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(observe)
            leader = await campaign(first, b"one", await grant(first))
            assert leader.key == b"e/%x" % leader.lease
            assert await leader_value(second) == b"one"
            await until(lambda: seen == [b"one"])
            nursery.start_soon(campaign, second, b"two", await grant(second))
            await waiting(first, b"e", 2)
            await first.call(
                ELECTION["Proclaim"], election_pb2.ProclaimRequest(leader=leader, value=b"one again")
            )
            assert await leader_value(third) == b"one again"
            await until(lambda: seen == [b"one", b"one again"])
            await first.call(ELECTION["Resign"], election_pb2.ResignRequest(leader=leader))
            await until(lambda: seen == [b"one", b"one again", b"two"])
            assert await leader_value(first) == b"two"
            nursery.cancel_scope.cancel()


async def test_what_elections_refuse(tmp_path: Path) -> None:
    async with serving(tmp_path, 1) as members:
        (member,) = members.all
        leader = election_pb2.LeaderKey(name=b"e", key=b"e/1", rev=5, lease=0)
        for method, request, text in (
            ("Leader", election_pb2.LeaderRequest(name=b"e"), NO_LEADER_TEXT),
            ("Proclaim", election_pb2.ProclaimRequest(leader=leader), NOT_LEADER_TEXT),
            ("Proclaim", election_pb2.ProclaimRequest(), MISSING_LEADER_TEXT),
            ("Resign", election_pb2.ResignRequest(), MISSING_LEADER_TEXT),
        ):
            with pytest.raises(Status) as raised:
                await member.call(ELECTION[method], request)
            assert raised.value.args[:2] == (errors.UNKNOWN, text)
        await member.call(ELECTION["Resign"], election_pb2.ResignRequest(leader=leader))
