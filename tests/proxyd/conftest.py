"""A proxy on three fake nodes, under Trio's autojump clock.

pytest-trio takes the clock from a test's own arguments only, so every test names `autojump_clock`.
"""

import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest
import structlog
import structlog.testing
import trio
from trio.testing import MockClock

from proto.errors import Status
from proto.rpc_pb2 import PutRequest, PutResponse, RangeRequest, RangeResponse
from proxyd.proxy import Proxy
from tests.proxyd.fake_nodes import FakeCluster


@dataclass
class FakeCall:
    """What a handler of a unary method sees of its call."""

    deadline: float = math.inf
    peer: str = "ipv4:127.0.0.1:50000"
    metadata: Mapping[str, str] = field(default_factory=dict)


class Setting:
    """A proxy and its cluster, and the calls a client would make."""

    def __init__(self, proxy: Proxy, cluster: FakeCluster, nursery: trio.Nursery, log: list[Any]) -> None:
        self.proxy = proxy
        self.cluster = cluster
        self.nursery = nursery
        self.log = log

    async def put(self, key: bytes, timeout_s: float = math.inf, **call: Any) -> PutResponse:
        request = PutRequest(key=key, value=b"v").SerializeToString()
        reply = await self.proxy.kv.put(request, self._call(timeout_s, call))
        return PutResponse.FromString(reply)

    async def get(
        self, key: bytes, timeout_s: float = math.inf, *, serializable: bool = False, **call: Any
    ) -> RangeResponse:
        request = RangeRequest(key=key, serializable=serializable).SerializeToString()
        reply = await self.proxy.kv.range(request, self._call(timeout_s, call))
        return RangeResponse.FromString(reply)

    def start(self, function: Callable[..., Awaitable[Any]], *arguments: Any) -> "Running":
        running = Running()
        self.nursery.start_soon(running.run, function, arguments)
        return running

    async def until(self, condition: Callable[[], Any]) -> None:
        """On virtual time: the clock jumps whenever everybody waits."""
        with trio.fail_after(60):
            while not condition():  # noqa: ASYNC110 - any state of any fake
                await trio.sleep(0.001)

    def logged(self, event: str) -> list[Any]:
        return [entry for entry in self.log if entry["event"] == event]

    def _call(self, timeout_s: float, fields: Mapping[str, Any]) -> Any:
        return FakeCall(trio.current_time() + timeout_s, **fields)


class Running:
    """A call under way in a task of its own. `error` is its Status, `took_s` its time."""

    def __init__(self) -> None:
        self.done = trio.Event()
        self.result: Any = None
        self.error: Any = None
        self.took_s = 0.0
        self.scope = trio.CancelScope()

    async def run(self, function: Callable[..., Awaitable[Any]], arguments: tuple[Any, ...]) -> None:
        began = trio.current_time()
        with self.scope:
            try:
                self.result = await function(*arguments)
            except Status as error:
                self.error = error
            except ExceptionGroup as group:  # a handler with nurseries; the bridge unwraps them as well
                cause: Exception = group
                while isinstance(cause, ExceptionGroup) and len(cause.exceptions) == 1:
                    cause = cause.exceptions[0]
                if not isinstance(cause, Status):
                    raise
                self.error = cause
        self.took_s = trio.current_time() - began
        self.done.set()

    async def wait(self) -> Any:
        with trio.fail_after(60):
            await self.done.wait()
        if self.error is not None:
            raise self.error
        return self.result


@pytest.fixture
async def cluster(autojump_clock: MockClock) -> AsyncIterator[FakeCluster]:
    cluster = FakeCluster()
    async with trio.open_nursery() as cluster.nursery:
        yield cluster
        cluster.nursery.cancel_scope.cancel()


@pytest.fixture
async def bare(cluster: FakeCluster) -> AsyncIterator[Setting]:
    """A running proxy; no node leads yet."""
    with structlog.testing.capture_logs() as log:
        proxy = Proxy(cluster.addresses, cluster.dial, structlog.get_logger())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(proxy.run)
            yield Setting(proxy, cluster, nursery, log)
            nursery.cancel_scope.cancel()


@pytest.fixture
async def setting(bare: Setting) -> Setting:
    """A running proxy that knows three healthy nodes; n1 leads in term 1."""
    bare.cluster.elect(1, term=1)
    await bare.until(lambda: bare.proxy.table.leader and len(bare.proxy.endpoints.links) == 3)
    await bare.until(lambda: all(link.connected for link in bare.proxy.endpoints.links.values()))
    return bare
