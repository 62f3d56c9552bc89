"""Whole raftd servers in the test's process: `raftd.server.run`, real gRPC on loopback, real LMDB.

The test sees inside: each member's `raftd.server.Server` with its node, whose outgoing messages it may hold
back by kind.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import trio
from google.protobuf.descriptor import MethodDescriptor

from bench.ports import PortGuard
from proto import rpc_pb2
from proto.bridge import connect
from proto.bridge.channel import Channel
from proto.shell import Shell
from raftd import server
from raftd.core.messages import Envelope
from raftd.node import Node
from raftd.options import NodeConfiguration

BOUND_S = 60.0
KV = rpc_pb2.DESCRIPTOR.services_by_name["KV"].methods_by_name


class Process(Shell):
    """What a server is given as its process."""

    def __init__(self) -> None:
        super().__init__({})
        self.is_ready = trio.Event()

    def ready(self) -> None:
        self.is_ready.set()


class Member:
    """One member: its configuration, and its server while it runs."""

    def __init__(self, configuration: NodeConfiguration) -> None:
        self.configuration = configuration
        self.process = Process()
        self.server: server.Server
        self.channel: Channel
        self.ended = trio.Event()
        self.status: int | None = None
        self.kept_back: set[type] = set()
        """Messages of these kinds do not leave this node."""

    @property
    def node(self) -> Node:
        return self.server.node

    @property
    def address(self) -> str:
        return self.configuration.client_urls[0].removeprefix("http://")

    async def call(
        self,
        method: MethodDescriptor | str,
        request: Any,
        *,
        timeout: float | None = None,
        metadata: Mapping[str, str] | None = None,
        raw: bool = False,
    ) -> Any:
        return await self.channel.unary(
            method, request, timeout=timeout or BOUND_S, metadata=metadata, raw=raw, wait_for_ready=True
        )

    async def put(self, key: bytes, value: bytes, **options: Any) -> rpc_pb2.PutResponse:
        reply: rpc_pb2.PutResponse = await self.call(
            KV["Put"], rpc_pb2.PutRequest(key=key, value=value), **options
        )
        return reply

    async def get(self, key: bytes, *, serializable: bool = False, **options: Any) -> bytes | None:
        request = rpc_pb2.RangeRequest(key=key, serializable=serializable)
        reply: rpc_pb2.RangeResponse = await self.call(KV["Range"], request, **options)
        return reply.kvs[0].value if reply.kvs else None

    async def stop(self) -> None:
        """As SIGTERM does."""
        self.process.shutdown_requested.set()
        await self.ended.wait()

    def hear(self, links: Any) -> None:
        """Puts this member's ear between its node and its links."""
        send = links.send

        def filtered(envelopes: Sequence[Envelope]) -> None:
            send([it for it in envelopes if type(it.message) not in self.kept_back])

        links.send = filtered


class Members:
    def __init__(self, nursery: trio.Nursery, members: Sequence[Member]) -> None:
        self.all = list(members)
        self._nursery = nursery

    def start(self, member: Member) -> None:
        """For the first time or again."""
        member.process, member.ended = Process(), trio.Event()
        self._nursery.start_soon(self._run, member)

    async def _run(self, member: Member) -> None:
        async with connect(member.address, isolated=True) as member.channel:
            member.status = await server.run(member.configuration, member.process)
        member.ended.set()

    async def leader(self) -> Member:
        """Waits until all that run agree on one."""
        running = [member for member in self.all if not member.process.shutdown_requested.is_set()]
        await until(
            lambda: (
                len({it.node.soft_state.leader for it in running}) == 1
                and any(member.node.leads for member in running)
            ),
            *running,
        )
        return next(member for member in running if member.node.leads)

    async def followers(self) -> list[Member]:
        leader = await self.leader()
        return [member for member in self.all if member is not leader]


async def until(condition: Callable[[], object], *members: Member) -> None:
    """Waits for a condition on what changes without telling."""
    with trio.fail_after(BOUND_S):
        while not condition():
            with trio.move_on_after(0.001):
                await trio.sleep_forever()


class _Watched(server.Server):
    """Tells its member of itself."""

    members: Mapping[str, Member]

    def __init__(self, configuration: NodeConfiguration, *arguments: Any) -> None:
        super().__init__(configuration, *arguments)
        member = self.members[configuration.name]
        member.server = self
        member.hear(self._links)


def configurations(directory: Path, ports: PortGuard, count: int, **options: Any) -> list[NodeConfiguration]:
    names = [f"n{number + 1}" for number in range(count)]
    peer_urls = [f"http://127.0.0.1:{ports.take_free()}" for _ in names]
    return [
        NodeConfiguration(
            name=name,
            data_dir=directory / name,
            listen_client_urls=(f"http://127.0.0.1:{ports.take_free()}",),
            listen_peer_urls=(peer_url,),
            initial_cluster=tuple(zip(names, peer_urls, strict=True)),
            **options,
        )
        for name, peer_url in zip(names, peer_urls, strict=True)
    ]


@asynccontextmanager
async def serving(directory: Path, count: int, *, started: int | None = None) -> AsyncIterator[Members]:
    """A cluster of `count`, of which the first `started` run (all, if not said), serve and know a leader."""
    ports = PortGuard()
    members = [Member(configuration) for configuration in configurations(directory, ports, count)]
    original, _Watched.members = server.Server, {it.configuration.name: it for it in members}
    server.Server = _Watched  # type: ignore[misc, assignment]
    try:
        async with trio.open_nursery() as nursery:
            made = Members(nursery, members)
            for member in members[:started]:
                made.start(member)
            if started is None:
                with trio.fail_after(BOUND_S):
                    for member in members:
                        await member.process.is_ready.wait()
                    await made.leader()
            yield made
            for member in members[:started]:
                member.kept_back.clear()
                member.process.shutdown_requested.set()
    finally:
        server.Server = original  # type: ignore[misc]
        ports.close()
