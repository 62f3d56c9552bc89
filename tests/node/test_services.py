"""A node's services, as a client sees them: `raftd.server.run` on real gRPC and LMDB, one member or three."""

from pathlib import Path
from typing import Any

import pytest
import trio
from grpc_health.v1 import health_pb2

from proto import errors, rpc_pb2, session_pb2, table_pb2
from proto.errors import NOT_DONE_OUTCOME, UNKNOWN_OUTCOME, Status
from proto.shell import EXIT_OK
from proto.stream import StreamEnded
from raftd import config
from raftd.core.messages import AppendEntriesReply
from tests.node.serving import BOUND_S, KV, Member, Members, serving, until

MAINTENANCE = rpc_pb2.DESCRIPTOR.services_by_name["Maintenance"].methods_by_name
CLUSTER = rpc_pb2.DESCRIPTOR.services_by_name["Cluster"].methods_by_name
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].methods_by_name
TABLE = table_pb2.DESCRIPTOR.services_by_name["LeaderTable"].methods_by_name
SESSION = session_pb2.DESCRIPTOR.services_by_name["Session"].methods_by_name

Serving = health_pb2.HealthCheckResponse


async def refused(member: Member, *arguments: Any, **options: Any) -> tuple[int, str, str | None]:
    """Code, text and outcome of a call that fails."""
    with pytest.raises(Status) as raised:
        await member.call(*arguments, **options)
    return raised.value.code, raised.value.text, raised.value.outcome


async def test_writes_and_reads_through_every_node(tmp_path: Path) -> None:
    """A write that reaches a follower goes on to the leader in one hop; a read is linearizable anywhere."""
    async with serving(tmp_path, 3) as members:
        leader = await members.leader()
        for number, member in enumerate(members.all):
            key = b"k%d" % number
            reply = await member.put(key, b"v")
            assert reply.header.revision == 2 + number
            assert reply.header.member_id == member.node.raft.node_id, "the header is the answering node's"
            assert reply.header.raft_term == leader.node.raft.term
            for reader in members.all:
                assert await reader.get(key) == b"v"
        for member in members.all:
            txn = rpc_pb2.TxnRequest(
                compare=[rpc_pb2.Compare(key=b"k0", target=rpc_pb2.Compare.CREATE, create_revision=2)],
                success=[rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=b"k0"))],
            )
            read = await member.call(KV["Txn"], txn)
            assert read.succeeded
            assert read.responses[0].response_range.kvs[0].value == b"v"
            txn.success.add(request_put=rpc_pb2.PutRequest(key=b"other", value=b"w"))
            written = await member.call(KV["Txn"], txn)
            assert written.header.revision == read.header.revision + 1
            assert written.header.member_id == member.node.raft.node_id
        for number, member in enumerate(members.all):
            request = rpc_pb2.DeleteRangeRequest(key=b"k%d" % number, prev_kv=True)
            deleted = await member.call(KV["DeleteRange"], request)
            assert [kv.key for kv in deleted.prev_kvs] == [b"k%d" % number]
        assert len({member.node.raft.term for member in members.all}) == 1


async def test_bad_requests_get_etcds_words(tmp_path: Path) -> None:
    """Alike at the leader and through a follower; nothing is done, and the node goes on."""
    async with serving(tmp_path, 3) as members:
        leader, followers = await members.leader(), await members.followers()
        await leader.put(b"k", b"v")
        put, put_range, txn = rpc_pb2.PutRequest, rpc_pb2.RangeRequest, rpc_pb2.TxnRequest
        for member in (leader, followers[0]):
            assert await refused(member, KV["Put"], put(value=b"v")) == (
                *errors.KEY_NOT_PROVIDED,
                NOT_DONE_OUTCOME,
            )
            # Known only once it is applied, at the leader.
            assert await refused(member, KV["Put"], put(key=b"absent", ignore_value=True)) == (
                *errors.KEY_NOT_FOUND,
                NOT_DONE_OUTCOME,
            )
            large = put(key=b"k", value=bytes(1536 * 1024))
            assert await refused(member, KV["Put"], large) == (*errors.REQUEST_TOO_LARGE, NOT_DONE_OUTCOME)
            twice = txn(success=[rpc_pb2.RequestOp(request_put=put(key=b"k"))] * 2)
            assert (await refused(member, KV["Txn"], twice))[:2] == errors.DUPLICATE_KEY
            assert (await refused(member, KV["Range"], put_range()))[:2] == errors.KEY_NOT_PROVIDED
            future = put_range(key=b"k", revision=99)
            assert (await refused(member, KV["Range"], future))[:2] == errors.FUTURE_REVISION
            negative = await member.call(KV["Range"], put_range(key=b"k", limit=-1, revision=-1))
            assert [kv.value for kv in negative.kvs] == [b"v"]
            for method in ("Put", "Range", "Txn", "DeleteRange"):
                code, text, _ = await refused(member, KV[method], b"\xff\xff", raw=True)
                assert code == errors.INTERNAL
                assert "malformed" in text
            code, _, _ = await refused(member, KV["Put"], put(key=b"k", value=bytes(5 << 20)))
            assert code == errors.RESOURCE_EXHAUSTED
            assert await member.get(b"k") == b"v"
        assert leader.node.revision == 2


async def test_what_means_little_may_still_be_too_large(tmp_path: Path) -> None:
    """Hazard 90: a field given twice counts once, but both stand in the log; an entry that no link carries
    would stop all writes for ever.
    """
    value = rpc_pb2.PutRequest(value=bytes(1 << 20)).SerializeToString()
    again = rpc_pb2.PutRequest(key=b"k", value=b"v").SerializeToString()
    unknown_field = b"\xa2\x3f" + b"\x80\x80\x80\x01" + bytes(2 << 20)
    async with serving(tmp_path, 1) as members:
        (member,) = members.all
        for method, request in (("Put", 3 * value + again), ("Compact", unknown_field)):
            answer = await refused(member, KV[method], request, raw=True)
            assert answer == (*errors.REQUEST_TOO_LARGE, NOT_DONE_OUTCOME)


async def test_an_unknown_method_says_so(tmp_path: Path) -> None:
    async with serving(tmp_path, 1) as members:
        (member,) = members.all
        for path in ("/etcdserverpb.KV/Increment", "/nobody.Knows/It"):
            code, _, _ = await refused(member, path, b"")
            assert code == errors.UNIMPLEMENTED


async def without_leader(members: Members) -> Member:
    """Stops two of three; the survivor soon knows no leader."""
    survivor, *others = members.all
    for member in others:
        await member.stop()
        assert member.status == EXIT_OK
    await until(lambda: survivor.node.soft_state.leader is None)
    return survivor


async def test_one_node_left_of_three(tmp_path: Path) -> None:
    """Writes and linearizable reads fail at their deadline, in etcd's words; serializable reads go on."""
    async with serving(tmp_path, 3) as members:
        await members.all[0].put(b"k", b"v")
        await members.all[0].get(b"k")
        survivor = await without_leader(members)
        node = survivor.node
        assert await survivor.get(b"k", serializable=True) == b"v"
        put, get = rpc_pb2.PutRequest(key=b"k", value=b"w"), rpc_pb2.RangeRequest(key=b"k")
        assert await refused(survivor, KV["Put"], put, timeout=1) == (*errors.NO_LEADER, NOT_DONE_OUTCOME)
        assert (await refused(survivor, KV["Range"], get, timeout=1))[:2] == errors.TIMEOUT
        impatient = {"hasleader": "true"}
        assert (await refused(survivor, KV["Put"], put, metadata=impatient))[:2] == errors.NO_LEADER
        assert (await refused(survivor, KV["Range"], get, metadata=impatient))[:2] == errors.NO_LEADER
        assert (await refused(survivor, KV["Txn"], rpc_pb2.TxnRequest(), metadata=impatient))[
            :2
        ] == errors.NO_LEADER
        status = await survivor.call(MAINTENANCE["Status"], rpc_pb2.StatusRequest())
        assert (status.leader, list(status.errors)) == (0, [errors.NO_LEADER[1]])
        health = await survivor.call(HEALTH["Check"], health_pb2.HealthCheckRequest())
        assert health.status == Serving.NOT_SERVING
        # Those that leave while they wait leave nothing behind.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(survivor.get, b"k")
            nursery.start_soon(survivor.put, b"k", b"w")
            await until(lambda: len(node.reads) == 1)
            nursery.cancel_scope.cancel()
        await until(lambda: len(node.reads) == 0)
        # And what waits is served when the others come back.
        async with trio.open_nursery() as nursery:
            nursery.start_soon(survivor.put, b"k", b"patient")
            for member in members.all[1:]:
                members.start(member)
        assert await survivor.get(b"k") == b"patient"


async def test_an_unknown_outcome_is_said_to_be_unknown(tmp_path: Path) -> None:
    """Hazards 82, 87: what stands in a log when the time is over may yet be done."""
    async with serving(tmp_path, 3) as members:
        leader, followers = await members.leader(), await members.followers()
        for follower in followers:
            follower.kept_back.add(AppendEntriesReply)
        put = rpc_pb2.PutRequest(key=b"k", value=b"v")
        for member in (leader, followers[0]):
            answer = await refused(member, KV["Put"], put, timeout=1)
            assert answer == (*errors.TIMEOUT, UNKNOWN_OUTCOME)
        assert await leader.get(b"k", serializable=True) is None
        for follower in followers:
            follower.kept_back.clear()
        await until(lambda: leader.node.revision == 3)
        await until(lambda: len(leader.node._proposals) == 0)


async def test_too_many_writes_are_refused_and_not_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hazard 95: shed before the log, alike for those that were forwarded; then it goes on as before."""
    monkeypatch.setattr(config, "MAX_PENDING_COMMANDS", 4)
    async with serving(tmp_path, 3) as members:
        leader, followers = await members.leader(), await members.followers()
        for follower in followers:
            follower.kept_back.add(AppendEntriesReply)
        async with trio.open_nursery() as nursery:
            for number in range(4):
                nursery.start_soon(leader.put, b"k%d" % number, b"v")
            await until(lambda: len(leader.node._proposals) == 4)
            put = rpc_pb2.PutRequest(key=b"refused")
            for member in (leader, followers[0]):
                answer = await refused(member, KV["Put"], put)
                assert answer == (*errors.TOO_MANY_REQUESTS, NOT_DONE_OUTCOME)
            for follower in followers:
                follower.kept_back.clear()
        assert await leader.get(b"refused") is None
        assert leader.node.revision == 5
        assert len(leader.node._proposals) == 0
        await followers[0].put(b"after", b"v")


async def test_a_client_that_vanishes_leaves_nothing(tmp_path: Path) -> None:
    async with serving(tmp_path, 3) as members:
        leader, followers = await members.leader(), await members.followers()
        for follower in followers:
            follower.kept_back.add(AppendEntriesReply)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(leader.put, b"one", b"v")
            nursery.start_soon(followers[0].put, b"two", b"v")
            await until(lambda: len(leader.node._proposals) == 2)
            nursery.cancel_scope.cancel()
        for follower in followers:
            follower.kept_back.clear()
        await until(lambda: len(leader.node._proposals) == 0)
        assert await followers[0].get(b"two") == b"v", "it stood in the log: cancelled is not undone"


async def test_how_a_node_is(tmp_path: Path) -> None:
    async with serving(tmp_path, 3) as members:
        leader, followers = await members.leader(), await members.followers()
        reply = await leader.put(b"k", b"v")
        served: dict[str, int] = {}
        for member in members.all:
            await member.get(b"k")
            status = await member.call(MAINTENANCE["Status"], rpc_pb2.StatusRequest())
            assert status.version == "3.5.0"
            assert status.leader == leader.node.raft.node_id
            assert status.header.member_id == member.node.raft.node_id
            assert status.header.revision == reply.header.revision
            assert (status.raftTerm, list(status.errors)) == (reply.header.raft_term, [])
            assert status.raftIndex >= status.raftAppliedIndex > 0
            assert status.dbSize > 0
            listed = await member.call(CLUSTER["MemberList"], rpc_pb2.MemberListRequest())
            assert {it.ID: (it.name, *it.peerURLs, *it.clientURLs) for it in listed.members} == {
                it.node.raft.node_id: (
                    it.configuration.name,
                    *it.configuration.peer_urls,
                    *it.configuration.client_urls,
                )
                for it in members.all
            }
            for name in ("", "etcdserverpb.KV"):
                health = await member.call(HEALTH["Check"], health_pb2.HealthCheckRequest(service=name))
                assert health.status == Serving.SERVING
            code, _, _ = await refused(member, HEALTH["Check"], health_pb2.HealthCheckRequest(service="x"))
            assert code == errors.NOT_FOUND
            alarms = rpc_pb2.AlarmRequest(action=rpc_pb2.AlarmRequest.GET)
            assert not (await member.call(MAINTENANCE["Alarm"], alarms)).alarms
            counted = await member.call(TABLE["Counters"], table_pb2.CountersRequest())
            served[member.configuration.name] = counted.counters["reads_served"]
            assert counted.counters["reads_served"] >= 1
        assert await followers[0].get(b"k") == b"v"
        counted = await followers[0].call(TABLE["Counters"], table_pb2.CountersRequest())
        assert counted.counters["reads_served"] == served[followers[0].configuration.name] + 1


async def test_leadership_is_moved_where_it_was_asked_to(tmp_path: Path) -> None:
    async with serving(tmp_path, 3) as members:
        leader, followers = await members.leader(), await members.followers()
        move = MAINTENANCE["MoveLeader"]

        def to(member_id: int) -> rpc_pb2.MoveLeaderRequest:
            return rpc_pb2.MoveLeaderRequest(targetID=member_id)

        target = followers[1].node.raft.node_id
        assert (await refused(followers[0], move, to(target)))[:2] == errors.NOT_LEADER
        assert (await refused(leader, move, to(99)))[:2] == errors.BAD_LEADER_TRANSFEREE
        await leader.call(move, to(leader.node.raft.node_id))
        assert leader.node.leads
        await leader.call(move, to(target))
        assert (await members.leader()).node.raft.node_id == target
        await leader.put(b"k", b"v")


class Updates:
    """A watch of one node's leader table, newest view last."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self.seen: list[table_pb2.TableUpdate] = []

    async def until(self, wanted: Any) -> table_pb2.TableUpdate:
        with trio.fail_after(BOUND_S):
            while not (found := [update for update in self.seen if wanted(update)]):
                self.seen += await self._stream.receive_all()
        return found[-1]


async def test_the_leader_table_is_pushed(tmp_path: Path) -> None:
    """The current view at once, with the members; each change; a sign of life in between; that it leaves."""
    async with serving(tmp_path, 3) as members:
        leader, followers = await members.leader(), await members.followers()
        watched = followers[0]
        request = table_pb2.WatchTableRequest()
        async with watched.channel.stream(TABLE["Watch"], request) as stream:
            table = Updates(stream)
            first = await table.until(lambda update: True)
            assert (first.leader, first.term) == (leader.node.raft.node_id, leader.node.raft.term)
            assert {member.id for member in first.members} == set(watched.node.raft.voters)
            assert first.member_id == watched.node.raft.node_id
            assert first.election_timeout_ms == 300
            before = len(table.seen)
            while len(table.seen) < before + 2:
                table.seen += await stream.receive_all()
            assert not table.seen[-1].members
            await leader.put(b"k", b"v")
            await table.until(lambda update: update.revision == 2)
            target = watched.node.raft.node_id
            await leader.call(MAINTENANCE["MoveLeader"], rpc_pb2.MoveLeaderRequest(targetID=target))
            moved = await table.until(lambda update: update.leader == target)
            assert moved.term > first.term
            watched.process.shutdown_requested.set()
            leaving = await table.until(lambda update: update.leaving)
            assert leaving.member_id == target
            with pytest.raises(Status) as ended:
                await table.until(lambda update: False)
            assert ended.value.code == errors.UNAVAILABLE


async def test_health_is_watched(tmp_path: Path) -> None:
    async with serving(tmp_path, 3) as members:
        survivor = members.all[0]
        request = health_pb2.HealthCheckRequest()
        async with survivor.channel.stream(HEALTH["Watch"], request) as stream:
            said = [reply.status for reply in await stream.receive_all()]
            assert said == [Serving.SERVING]
            await without_leader(members)
            with trio.fail_after(BOUND_S):
                while Serving.NOT_SERVING not in said:
                    said += [reply.status for reply in await stream.receive_all()]


async def test_a_stop_lets_calls_finish_and_ends_streams(tmp_path: Path) -> None:
    async with serving(tmp_path, 3) as members:
        leader, followers = await members.leader(), await members.followers()
        stopping = followers[0]
        for follower in followers:
            follower.kept_back.add(AppendEntriesReply)
        async with stopping.channel.stream(SESSION["Stream"]) as stream, trio.open_nursery() as nursery:
            await stream.send(session_pb2.Request(batches=[session_pb2.Batch()]))
            await stream.receive_all()
            nursery.start_soon(stopping.put, b"k", b"v")
            await until(lambda: len(leader.node._proposals) == 1)
            stopping.process.shutdown_requested.set()
            with pytest.raises((Status, StreamEnded)), trio.fail_after(BOUND_S):
                await stream.receive_all()
            for follower in followers:
                follower.kept_back.clear()
        await stopping.ended.wait()
        assert stopping.status == EXIT_OK
        assert await leader.get(b"k") == b"v"


async def test_a_leader_that_stops_hands_over(tmp_path: Path) -> None:
    async with serving(tmp_path, 3) as members:
        old = await members.leader()
        term = old.node.raft.term
        await old.put(b"k", b"v")
        await old.stop()
        assert old.status == EXIT_OK
        new = await members.leader()
        assert new.node.raft.term == term + 1, "nobody waited for an election"
        assert await new.get(b"k") == b"v"
        members.start(old)
        await old.process.is_ready.wait()
        assert await old.get(b"k") == b"v"
