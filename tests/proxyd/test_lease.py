"""Leases through the proxy: grants exactly once, keepalives on one stream to whoever leads."""

import math
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from proto import errors
from proto.errors import Status
from proto.rpc_pb2 import LeaseGrantRequest, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseRevokeRequest
from proto.session_pb2 import Command
from proto.stream import StreamEnded, in_memory_pair
from proxyd import config
from tests.proxyd.conftest import FakeCall, Setting


def call(timeout_s: float = math.inf) -> Any:
    return FakeCall(trio.current_time() + timeout_s)


class _Call:
    """An in-memory stream as a call without a deadline."""

    def __init__(self, stream: Any) -> None:
        self.deadline = math.inf
        self.metadata = stream.metadata
        self.receive_all, self.send = stream.receive_all, stream.send


class KeepAliveClient:
    def __init__(self, setting: Setting) -> None:
        self.received: list[LeaseKeepAliveResponse] = []
        self._setting = setting
        self.stream, theirs = in_memory_pair()
        self.handler = setting.start(setting.proxy.lease.keep_alive, _Call(theirs))
        setting.nursery.start_soon(self._receive)

    async def _receive(self) -> None:
        try:
            while True:
                self.received += await self.stream.receive_all()
        except (StreamEnded, Status):
            return

    async def ask(self, *leases: int) -> None:
        for lease in leases:
            await self.stream.send(LeaseKeepAliveRequest(ID=lease))

    async def until_answered(self, count: int) -> list[tuple[int, int]]:
        await self._setting.until(lambda: len(self.received) >= count)
        return [(response.ID, response.TTL) for response in self.received]


async def test_grant_and_revoke_are_commands_of_a_session(
    autojump_clock: MockClock, setting: Setting
) -> None:
    """Hazard 87: a grant whose reply was lost is not made twice."""
    grant = LeaseGrantRequest(TTL=10).SerializeToString()
    await setting.proxy.lease.grant(grant, call())
    setting.cluster.nodes[1].forgets_replies = True
    revoke = setting.start(setting.proxy.lease.revoke, LeaseRevokeRequest(ID=7).SerializeToString(), call())
    await setting.until(lambda: len(setting.cluster.executed) == 2)
    setting.cluster.nodes[1].kill()
    setting.cluster.elect(2, term=2, told=(2, 3))
    await revoke.wait()
    assert len(setting.cluster.executed) == 2
    kinds = [
        command.kind
        for node in setting.cluster.nodes.values()
        for batch in node.batches
        for command in batch.commands
    ]
    assert kinds == [Command.REGISTER, Command.LEASE_GRANT, Command.LEASE_REVOKE, Command.LEASE_REVOKE]


async def test_keepalives_of_all_clients_share_one_stream(
    autojump_clock: MockClock, setting: Setting
) -> None:
    setting.cluster.leases = {number: number + 100 for number in range(1, 50)}
    clients = [KeepAliveClient(setting) for _ in range(5)]
    for number, client in enumerate(clients):
        await client.ask(number + 1, number + 11, 999)
    for number, client in enumerate(clients):
        assert await client.until_answered(3) == [
            (number + 1, number + 101),
            (number + 11, number + 111),
            (999, 0),
        ]
    assert setting.cluster.nodes[1].keep_alives.count(999) < 5
    assert not setting.cluster.nodes[2].keep_alives


async def test_keepalives_go_on_at_the_next_leader(autojump_clock: MockClock, setting: Setting) -> None:
    setting.cluster.leases = {1: 10, 2: 20}
    client = KeepAliveClient(setting)
    await client.ask(1)
    await client.until_answered(1)
    setting.cluster.nodes[1].deaf = True
    await client.ask(1, 2)
    await trio.sleep(0.2)
    again = KeepAliveClient(setting)
    await again.ask(1)
    await wait_all_tasks_blocked()
    setting.cluster.nodes[1].kill()
    setting.cluster.elect(3, term=2, told=(2, 3))
    assert await client.until_answered(3) == [(1, 10), (1, 10), (2, 20)]
    assert await again.until_answered(1) == [(1, 10)]
    assert client.received[-1].header.member_id == 3


async def test_a_deaf_former_leader_is_left(autojump_clock: MockClock, setting: Setting) -> None:
    setting.cluster.leases = {1: 10}
    client = KeepAliveClient(setting)
    setting.cluster.nodes[1].deaf = True
    await client.ask(1)
    await trio.sleep(0.2)
    setting.cluster.elect(2, term=2)
    assert await client.until_answered(1) == [(1, 10)]


async def test_keepalives_in_vain_end_the_stream(autojump_clock: MockClock, setting: Setting) -> None:
    for node in setting.cluster.nodes.values():
        node.kill()
    client = KeepAliveClient(setting)
    await client.ask(1)
    with pytest.raises(Status) as raised:
        await client.handler.wait()
    assert (raised.value.code, raised.value.text) == errors.NO_LEADER
    assert client.handler.took_s <= config.REQUEST_TIMEOUT_S + 1
    # Those who asked have given up, and so it is not asked any more.
    setting.cluster.nodes[2].up = setting.cluster.nodes[3].up = True
    setting.cluster.elect(2, term=2)
    await trio.sleep(1)
    assert setting.cluster.nodes[2].keep_alives == []


async def test_the_end_of_requests_ends_the_stream(autojump_clock: MockClock, setting: Setting) -> None:
    setting.cluster.leases = {1: 10}
    client = KeepAliveClient(setting)
    await client.ask(1)
    client.stream.close_sending()
    await client.handler.wait()
    assert await client.until_answered(1) == [(1, 10)]


async def test_too_many_keepalives(
    autojump_clock: MockClock, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "MAX_KEEP_ALIVES", 2)
    setting.cluster.nodes[1].deaf = True
    clients = [KeepAliveClient(setting) for _ in range(3)]
    for lease, client in enumerate(clients):
        await client.ask(lease)
    with pytest.raises(Status) as raised:
        await clients[-1].handler.wait()
    assert (raised.value.code, raised.value.text) == errors.TOO_MANY_REQUESTS


async def test_time_to_live_and_leases_are_the_leaders_word(
    autojump_clock: MockClock, setting: Setting
) -> None:
    for name in ("LeaseTimeToLive", "LeaseLeases"):
        for node in setting.cluster.nodes.values():
            word = f"{name} of {node.member_id}".encode()
            node.unary_replies[name] = lambda request, word=word: word  # type: ignore[misc]
    assert await setting.proxy.lease.time_to_live(b"", call()) == b"LeaseTimeToLive of 1"
    assert await setting.proxy.lease.leases(b"", call()) == b"LeaseLeases of 1"
