"""A proxyd without its network: the table and what follows it, the services, and the tasks behind them.

`proxyd.main` gives it the real way to dial and serves its services; tests give it fake nodes.
"""

import secrets
from collections.abc import Awaitable, Callable, Sequence

import structlog
import trio

from proto.bridge import Service
from proxyd.cluster import ClusterServices
from proxyd.dial import Dial
from proxyd.endpoints import Endpoints
from proxyd.gateway.application import Gateway
from proxyd.gateway.health import HealthPage
from proxyd.gateway.routes import routes
from proxyd.health import Health
from proxyd.keep_alives import KeepAlives
from proxyd.kv import KV
from proxyd.leader_link import LeaderLink
from proxyd.lease import Lease
from proxyd.locks import Locks
from proxyd.nodes import Nodes
from proxyd.reads import Reads
from proxyd.relay import Relay
from proxyd.table import LeaderTable
from proxyd.table_service import TableService
from proxyd.watch.hub import Hub
from proxyd.watch.stream import Watch
from proxyd.writes import Writes


class Proxy:
    """One proxyd. `addresses` are "host:port" of nodes, any of which may be down. `grpc_caught_up`
    returns when the gRPC thread has done what it was given."""

    def __init__(
        self,
        addresses: Sequence[str],
        dial: Dial,
        log: structlog.stdlib.BoundLogger,
        grpc_caught_up: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint,
    ) -> None:
        # Random, never configured: it only has to tell this process from every other one.
        self.id = secrets.token_hex(8)
        self.table = LeaderTable()
        self.endpoints = Endpoints(addresses, self.table, dial, self.id, log)
        self.leader_link = LeaderLink(self.table, dial)
        self.reads = Reads(self.table, self.endpoints.links)
        self.writes = Writes(self.table, self.leader_link.pipeline)
        self.kv = KV(self.table, self.reads, self.writes)
        self.nodes = Nodes(self.table, self.endpoints)
        self.cluster = ClusterServices(self.table, self.endpoints, self.nodes)
        self.keep_alives = KeepAlives(self.table, self.nodes)
        self.lease = Lease(self.table, self.writes, self.nodes, self.keep_alives)
        self.locks = Locks(self.nodes)
        self.health = Health(self.table)
        self.relay = Relay(self.table, self.leader_link.pipeline, self.reads)
        self.hub = Hub(self.table, self.reads, self.endpoints.links, grpc_caught_up)
        self.watch = Watch(self.hub, self.table)
        self.table_service = TableService(self.table, self.id, self.counters)

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.endpoints.run)
            nursery.start_soon(self.leader_link.run)
            nursery.start_soon(self.reads.run)
            nursery.start_soon(self.hub.run)
            nursery.start_soon(self.keep_alives.run)

    async def close(self) -> None:
        """The last words to the cluster, while `run` still runs. Bounded in time."""
        await self.writes.close()

    def services(self) -> list[Service]:
        """What it serves. Methods without a handler answer that they are not implemented."""
        return [
            self.kv.service(),
            *self.cluster.services(),
            self.health.service(),
            self.relay.service(),
            self.table_service.service(),
            self.watch.service(),
            self.lease.service(),
            *self.locks.services(),
        ]

    def gateway(self) -> Gateway:
        """The same services for HTTP and JSON."""
        return Gateway(routes(self.services()), HealthPage(self.table, self.kv, self.cluster))

    def counters(self) -> dict[str, int]:
        """Since the start of this process."""
        return {
            "reads_by_followers": self.reads.by_followers,
            "reads_by_leader": self.reads.by_leader,
            "reads_moved": self.reads.moved,
            "writes": self.writes.executed,
            "commands_relayed": self.relay.relayed,
            "leader_changes": self.table.leader_changes,
            "watches": self.hub.watches,
            "watched_ranges": self.hub.feeds,
            "watch_catch_ups": self.hub.catch_ups,
            "watch_resumptions": self.hub.upstream.resumptions,
        }
