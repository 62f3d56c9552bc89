"""What proxyd serves beside keys: the leader's status, the members, health, the table itself."""

import math
from typing import Any

import pytest
import trio
from grpc_health.v1.health_pb2 import HealthCheckRequest, HealthCheckResponse
from trio.testing import MockClock, wait_all_tasks_blocked

from proto import errors
from proto.errors import Status
from proto.rpc_pb2 import MemberListRequest, MemberListResponse, StatusResponse
from proto.stream import in_memory_pair
from proto.table_pb2 import TableUpdate, WatchTableRequest
from proxyd import config
from tests.proxyd.conftest import FakeCall, Setting


def call(timeout_s: float = math.inf) -> Any:
    return FakeCall(trio.current_time() + timeout_s)


async def test_status_is_the_leaders(autojump_clock: MockClock, setting: Setting) -> None:
    for _ in range(5):
        reply = StatusResponse.FromString(await setting.proxy.cluster.by_the_leader("Status")(b"", call()))
        assert reply.header.member_id == reply.leader == 1
    setting.cluster.elect(2, term=2)
    await wait_all_tasks_blocked()
    reply = StatusResponse.FromString(await setting.proxy.cluster.by_the_leader("Status")(b"", call()))
    assert reply.header.member_id == 2


async def test_status_without_a_leader_says_so(autojump_clock: MockClock, bare: Setting) -> None:
    await bare.until(lambda: len(bare.proxy.endpoints.links) == 3)
    await wait_all_tasks_blocked()
    reply = StatusResponse.FromString(await bare.proxy.cluster.by_the_leader("Status")(b"", call()))
    assert reply.leader == 0


async def test_status_waits_for_a_node(autojump_clock: MockClock, bare: Setting) -> None:
    for node in bare.cluster.nodes.values():
        node.kill()
    with pytest.raises(Status) as raised:
        await bare.proxy.cluster.by_the_leader("Status")(b"", call(1.0))
    assert (raised.value.code, raised.value.text) == errors.NO_LEADER
    status = bare.start(bare.proxy.cluster.by_the_leader("Status"), b"", call(5.0))
    await trio.sleep(0.5)
    bare.cluster.nodes[2].up = True
    await status.wait()


async def test_members_come_from_a_node_or_from_the_table(
    autojump_clock: MockClock, setting: Setting
) -> None:
    reply = MemberListResponse.FromString(await setting.proxy.cluster.member_list(b"", call()))
    assert reply.header.member_id in (1, 2, 3)
    assert [member.ID for member in reply.members] == [1, 2, 3]
    for node in setting.cluster.nodes.values():
        node.kill()
    await wait_all_tasks_blocked()
    reply = MemberListResponse.FromString(await setting.proxy.cluster.member_list(b"", call()))
    assert [(member.ID, member.name) for member in reply.members] == [(1, "n1"), (2, "n2"), (3, "n3")]
    assert reply.header.cluster_id == setting.cluster.cluster_id


async def test_a_linearizable_member_list_is_not_answered_from_memory(
    autojump_clock: MockClock, setting: Setting
) -> None:
    """Hazard 40: nobody is there to say that it still holds."""
    request = MemberListRequest(linearizable=True).SerializeToString()
    assert await setting.proxy.cluster.member_list(request, call())
    for node in setting.cluster.nodes.values():
        node.kill()
    await wait_all_tasks_blocked()
    for asked in (request, b"\xff"):
        with pytest.raises(Status) as raised:
            await setting.proxy.cluster.member_list(asked, call(1.0))
        assert raised.value.code == errors.UNAVAILABLE


async def test_health_is_serving_while_a_leader_is_known(autojump_clock: MockClock, bare: Setting) -> None:
    health = bare.proxy.health
    for service in ("", "etcdserverpb.KV"):
        assert (await health.check(HealthCheckRequest(service=service), call())).status == 2
    bare.cluster.elect(1, term=1)
    await bare.until(lambda: bare.proxy.table.leader)
    for service in ("", "etcdserverpb.KV"):
        assert (await health.check(HealthCheckRequest(service=service), call())).status == 1
    with pytest.raises(Status) as raised:
        await health.check(HealthCheckRequest(service="nonsense"), call())
    assert raised.value.code == errors.NOT_FOUND


async def test_health_watchers_are_told_of_each_transition(
    autojump_clock: MockClock, setting: Setting
) -> None:
    ours, theirs = in_memory_pair()
    setting.start(setting.proxy.health.watch, HealthCheckRequest(), theirs)
    seen: list[int] = []

    async def receive() -> None:
        while True:
            seen.extend(response.status for response in await ours.receive_all())

    setting.nursery.start_soon(receive)
    await trio.sleep(1)
    assert seen == [HealthCheckResponse.SERVING]
    setting.cluster.elect(0, term=1)
    await trio.sleep(1)
    setting.cluster.elect(2, term=2)
    await trio.sleep(1)
    assert seen == [
        HealthCheckResponse.SERVING,
        HealthCheckResponse.NOT_SERVING,
        HealthCheckResponse.SERVING,
    ]


class Watcher:
    """A client that watches the table through the proxy."""

    def __init__(self, setting: Setting) -> None:
        self.updates: list[TableUpdate] = []
        self.times: list[float] = []
        self._ours, theirs = in_memory_pair({})
        self.handler = setting.start(setting.proxy.table_service.watch, WatchTableRequest(), theirs)
        setting.nursery.start_soon(self._receive)

    async def _receive(self) -> None:
        while True:
            self.updates += await self._ours.receive_all()
            self.times.append(trio.current_time())


async def test_clients_watch_the_table_through_the_proxy(autojump_clock: MockClock, setting: Setting) -> None:
    watcher = Watcher(setting)
    await wait_all_tasks_blocked()
    first = watcher.updates[0]
    assert (first.leader, first.term, first.member_id) == (1, 1, 0)
    assert [member.name for member in first.members] == ["n1", "n2", "n3"]
    before = trio.current_time()
    setting.cluster.elect(3, term=2)
    await setting.until(lambda: watcher.updates[-1].leader == 3)
    assert trio.current_time() - before <= 0.001
    assert not watcher.updates[-1].members


async def test_watchers_get_a_heartbeat(autojump_clock: MockClock, setting: Setting) -> None:
    watcher = Watcher(setting)
    await trio.sleep(1.05)
    assert len(watcher.updates) == 11


async def test_a_watching_proxy_is_refused(autojump_clock: MockClock, setting: Setting) -> None:
    """Hazard 88: neither another proxy nor this one itself may take it for a node."""
    for proxy_id, text in (
        ("someone else", "a proxyd cannot be an endpoint of a proxyd"),
        (setting.proxy.id, "a proxyd cannot be its own endpoint"),
    ):
        _, theirs = in_memory_pair({"raftd-proxy": proxy_id})
        with pytest.raises(Status) as raised:
            await setting.proxy.table_service.watch(WatchTableRequest(), theirs)  # type: ignore[arg-type]
        assert (raised.value.code, raised.value.text) == (errors.FAILED_PRECONDITION, text)


async def test_watchers_are_bounded(
    autojump_clock: MockClock, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hazard 95."""
    monkeypatch.setattr(config, "MAX_TABLE_WATCHERS", 1)
    first = Watcher(setting)
    await wait_all_tasks_blocked()
    second = Watcher(setting)
    with pytest.raises(Status) as raised:
        await second.handler.wait()
    assert (raised.value.code, raised.value.text) == errors.TOO_MANY_REQUESTS
    first.handler.scope.cancel()
    await first.handler.done.wait()
    third = Watcher(setting)
    await wait_all_tasks_blocked()
    assert third.updates


@pytest.mark.parametrize("name", ["Alarm", "Hash", "HashKV", "Defragment"])
async def test_the_leader_speaks_for_the_cluster(
    autojump_clock: MockClock, setting: Setting, name: str
) -> None:
    setting.cluster.nodes[1].unary_replies[name] = lambda request: b"1:" + request
    setting.cluster.nodes[2].unary_replies[name] = lambda request: b"2:" + request
    ask = setting.proxy.cluster.by_the_leader(name)
    assert await ask(b"x", call()) == b"1:x"
    setting.cluster.nodes[1].kill()
    asked = setting.start(ask, b"x", call())
    await trio.sleep(0.5)
    setting.cluster.elect(2, term=2, told=(2, 3))
    assert await asked.wait() == b"2:x"
