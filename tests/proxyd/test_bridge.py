"""A whole proxyd on the real bridge and the real clock, in front of fake nodes that really listen."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import structlog
import structlog.testing
import trio
from grpc_health.v1 import health_pb2

from proto import errors, rpc_pb2, session_pb2
from proto.bridge import AddressInUse, Channel, connect, serve
from proto.configuration import load
from proto.errors import Status
from proto.rpc_pb2 import PutRequest, PutResponse, RangeRequest, RangeResponse, StatusRequest
from proto.session_pb2 import Batch, Command, Request
from proto.shell import Shell
from proxyd import main
from proxyd.options import ProxyConfiguration
from tests.proxyd.fake_nodes import FakeCluster

BOUND_S = 30
"""For what happens in milliseconds."""

KV = rpc_pb2.DESCRIPTOR.services_by_name["KV"].methods_by_name
MAINTENANCE = rpc_pb2.DESCRIPTOR.services_by_name["Maintenance"].methods_by_name
CHECK = health_pb2.DESCRIPTOR.services_by_name["Health"].methods_by_name["Check"]
STREAM = session_pb2.DESCRIPTOR.services_by_name["Session"].methods_by_name["Stream"]


class RunningProxy:
    def __init__(self, nursery: trio.Nursery, log: list[Any]) -> None:
        self.nursery = nursery
        self.log = log
        self.shell = Shell({})
        self.status: int | None = None
        self.ended = trio.Event()
        self.address = ""

    async def start(self, endpoints: list[str], listen: str = "127.0.0.1:0") -> None:
        arguments = [f"--endpoints={','.join(endpoints)}", f"--listen-addr={listen}"]
        configuration = load(ProxyConfiguration, "proxyd", "0", "", arguments, {})
        port = await self.nursery.start(partial(self._run, configuration))
        self.address = f"127.0.0.1:{port}"

    async def _run(self, configuration: ProxyConfiguration, *, task_status: trio.TaskStatus[int]) -> None:
        self.status = await main.run(configuration, self.shell, task_status=task_status)
        self.ended.set()


async def until(condition: Callable[[], Any]) -> None:
    with trio.fail_after(BOUND_S):
        while not condition():  # noqa: ASYNC110 - any state of any fake
            await trio.sleep(0.005)


@asynccontextmanager
async def cluster_and_proxy() -> AsyncIterator[tuple[FakeCluster, RunningProxy]]:
    cluster = FakeCluster()
    with structlog.testing.capture_logs() as log:
        async with trio.open_nursery() as cluster.nursery:
            for node in cluster.nodes.values():
                (port,) = await cluster.nursery.start(serve, ["127.0.0.1:0"], node.services())
                node.address = f"127.0.0.1:{port}"
            cluster.elect(1, term=1)
            proxy = RunningProxy(cluster.nursery, log)
            await proxy.start(cluster.addresses)
            yield cluster, proxy
            cluster.nursery.cancel_scope.cancel()


async def put(channel: Channel, key: bytes) -> PutResponse:
    reply = await channel.unary(KV["Put"], PutRequest(key=key), timeout=BOUND_S)
    assert isinstance(reply, PutResponse)
    return reply


async def test_writes_reads_and_a_new_leader() -> None:
    async with cluster_and_proxy() as (cluster, proxy), connect(proxy.address) as channel:
        assert (await put(channel, b"k")).header.member_id == 1
        for _ in range(20):
            reply = await channel.unary(KV["Range"], RangeRequest(key=b"k"), timeout=BOUND_S)
            assert isinstance(reply, RangeResponse)
            assert reply.header.member_id in (2, 3)
        cluster.elect(2, term=2)
        await until(lambda: [entry for entry in proxy.log if entry.get("leader") == "n2"])
        assert (await put(channel, b"k")).header.member_id == 2
        assert len(cluster.executed) == 2


async def test_a_relayed_session_stream() -> None:
    async with cluster_and_proxy() as (_, proxy), connect(proxy.address) as channel:
        async with channel.stream(STREAM) as stream:
            register = Command(sequence=1, kind=Command.REGISTER)
            await stream.send(Request(batches=[Batch(commands=[register])]))
            with trio.fail_after(BOUND_S):
                (reply,) = await stream.receive_all()
            assert reply.results[0].code == errors.OK


async def test_what_is_not_implemented_says_so() -> None:
    async with cluster_and_proxy() as (_, proxy), connect(proxy.address) as channel:
        for method, request in (
            (MAINTENANCE["MoveLeader"], rpc_pb2.MoveLeaderRequest()),
            (MAINTENANCE["Downgrade"], rpc_pb2.DowngradeRequest()),
        ):
            with pytest.raises(Status) as raised:
                await channel.unary(method, request, timeout=BOUND_S)
            assert raised.value.code == errors.UNIMPLEMENTED
            assert method.name in raised.value.text


async def test_a_proxyd_is_no_endpoint_of_a_proxyd() -> None:
    """Hazard 88: it is named in the log, serves nothing, and no request goes in circles."""
    async with cluster_and_proxy() as (cluster, proxy):
        second = RunningProxy(cluster.nursery, proxy.log)
        await second.start([proxy.address])
        await until(lambda: [entry for entry in proxy.log if entry["event"] == "endpoint refused"])
        (entry,) = [entry for entry in proxy.log if entry["event"] == "endpoint refused"]
        assert entry["address"] == proxy.address
        assert entry["reason"] == "a proxyd cannot be an endpoint of a proxyd"
        async with connect(second.address) as channel:
            health = await channel.unary(CHECK, health_pb2.HealthCheckRequest(), timeout=BOUND_S)
            assert health.status == health_pb2.HealthCheckResponse.NOT_SERVING
            with pytest.raises(Status) as raised:
                await channel.unary(MAINTENANCE["Status"], StatusRequest(), timeout=BOUND_S)
            assert raised.value.code == errors.FAILED_PRECONDITION
            assert f"{proxy.address}: a proxyd cannot be an endpoint of a proxyd" in raised.value.text


async def test_stopping_finishes_what_is_in_flight() -> None:
    async with cluster_and_proxy() as (cluster, proxy), connect(proxy.address) as channel:
        await put(channel, b"first")
        cluster.nodes[1].forgets_replies = True
        replies: list[PutResponse] = []

        async def put_and_keep() -> None:
            replies.append(await put(channel, b"k"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(put_and_keep)
            await until(lambda: len(cluster.executed) == 2)
            # Unanswered when the stop is asked for; only then another leader comes that answers.
            proxy.shell.shutdown_requested.set()
            cluster.elect(2, term=2)
        await until(proxy.ended.is_set)
        assert proxy.status == 0
        assert len(replies) == 1


async def test_an_address_in_use_is_said_in_one_line() -> None:
    async with cluster_and_proxy() as (cluster, proxy):
        second = RunningProxy(cluster.nursery, proxy.log)
        with pytest.raises(ExceptionGroup) as raised:
            await second.start(cluster.addresses, listen=proxy.address)
        assert raised.group_contains(AddressInUse)
