"""The whole of one raftd process: opens the data directory, forms or rejoins the cluster, serves, and stops
in order.

Start: directory → peer port → cluster formed → Raft running → client port → ready. Stop: leadership handed
over → no new calls → what is in flight drained → writer ended → directory closed. Called by `raftd.main`.
"""

import random
from functools import partial

import structlog
import trio

from proto.bridge import check_free, grpc_caught_up, serve
from proto.service import Service
from proto.shell import EXIT_FAILURE, EXIT_OK, Shell
from proto.turns import Turns
from raftd import config
from raftd.compactor import Compactor
from raftd.core.config import RaftConfig
from raftd.kv import TABLES, StateMachine
from raftd.leases import Leases
from raftd.node import Node
from raftd.options import NodeConfiguration
from raftd.peers.bootstrap import Introductions, address_of
from raftd.peers.links import Identity, PeerLinks
from raftd.peers.service import PeerService
from raftd.services.cluster import Cluster
from raftd.services.election import Election
from raftd.services.header import Headers
from raftd.services.health import Health
from raftd.services.kv import KV
from raftd.services.lease import Lease
from raftd.services.lease_times import LeaseTimes
from raftd.services.line import Lines
from raftd.services.lock import Lock
from raftd.services.maintenance import Maintenance
from raftd.services.session import SessionStreams
from raftd.services.table import LeaderTable
from raftd.services.unary import Unary
from raftd.services.watch import Watch
from raftd.services.writes import Writes
from raftd.store import ClusterIdentity, Member, Recovered, Store, StoreRefused, verify
from raftd.watch.feed import Feed
from raftd.writing import WriterThread

log = structlog.get_logger()


async def run(configuration: NodeConfiguration, shell: Shell) -> int:
    """Returns the exit status after an orderly stop.

    Raises StoreRefused, Fenced, NewerFormat, FormationRefused or AddressInUse. The directory is closed only
    where nothing can be using it any more; everywhere else the end of the process does that.
    """
    store = await trio.to_thread.run_sync(_open_store, configuration)
    try:
        # They are served once the cluster has formed, and then it is too late: the members remember each
        # other's addresses, so none that cannot be served may get among them.
        for url in configuration.listen_client_urls:
            await check_free(address_of(url))
    except OSError:
        await trio.to_thread.run_sync(store.close)
        raise
    node = await _serve_peers(configuration, store, shell)
    if node is None or node.has_left_store:
        await trio.to_thread.run_sync(store.close)
        return EXIT_OK
    if node.writer_hangs:
        log.error("the disk hangs: stopping without closing the data directory")
        return EXIT_FAILURE
    log.warning("a read is not done yet: stopping without closing the data directory")
    return EXIT_OK


def _open_store(configuration: NodeConfiguration) -> Store:
    store = Store.open(configuration.directory, tables=TABLES)
    try:
        store.claim(configuration.name, configuration.initial_cluster_token)
        if configuration.verify_data and (problems := verify(store).problems):
            raise StoreRefused("; ".join(problem.text for problem in problems[: config.MAX_NAMED_PROBLEMS]))
    except BaseException:
        store.close()
        raise
    return store


async def _serve_peers(configuration: NodeConfiguration, store: Store, shell: Shell) -> Node | None:
    """Serves as a member; returns the node that has ended, or none when the cluster has not formed."""
    if store.identity.cluster_id is None and configuration.initial_cluster_state == "existing":
        raise StoreRefused(
            f"data directory {configuration.directory} belongs to no cluster, and --initial-cluster-state is "
            "existing: give the directory that this member had, or new to form a cluster"
        )
    node = None
    me = Member(
        store.identity.member_id,
        configuration.name,
        configuration.peer_urls,
        configuration.client_urls,
    )
    introductions = Introductions(configuration.initial_cluster_token, me, configuration.members)
    peer_service = PeerService(introductions)
    async with trio.open_nursery() as nursery:
        addresses = [address_of(url) for url in configuration.listen_peer_urls]
        # No grace: when this is cancelled, there is no node left that could answer.
        await nursery.start(partial(serve, grace_s=0.0), addresses, [peer_service.service()])
        if store.identity.cluster_id is None:
            cluster = await _form_cluster(introductions, shell)
            if cluster is not None:
                await trio.to_thread.run_sync(store.bootstrap, cluster)
        if store.identity.cluster_id is not None:
            recovered = await trio.to_thread.run_sync(store.recover)
            _check_membership(me, recovered.cluster)
            introductions.joined(recovered.cluster)
            server = Server(configuration, store, recovered, peer_service)
            await server.run(shell)
            node = server.node
        nursery.cancel_scope.cancel()
    return node


async def _form_cluster(introductions: Introductions, shell: Shell) -> ClusterIdentity | None:
    """None when the process shall stop before all members have answered."""
    formed: list[ClusterIdentity] = []

    async def form() -> None:
        formed.append(await introductions.form())
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(form)
        await shell.shutdown_requested.wait()
        nursery.cancel_scope.cancel()
    return formed[0] if formed else None


def _check_membership(me: Member, cluster: ClusterIdentity) -> None:
    """Addresses are part of the membership; changing them is a membership change. Raises StoreRefused."""
    known = next((member for member in cluster.members if member.id == me.id), None)
    assert known is not None, f"{me.id:x} is not among {cluster.members}"
    for flag, mine, theirs in (
        ("--initial-advertise-peer-urls", me.peer_urls, known.peer_urls),
        ("--advertise-client-urls", me.client_urls, known.client_urls),
    ):
        if mine != theirs:
            raise StoreRefused(
                f"{flag} is {','.join(mine)}, but the cluster knows this member under {','.join(theirs)}: "
                "start it with the old addresses (changing them is not supported yet)"
            )


class Server:
    """A node with its services. Made once the cluster is known."""

    def __init__(
        self, configuration: NodeConfiguration, store: Store, recovered: Recovered, peer_service: PeerService
    ) -> None:
        cluster = recovered.cluster
        node_id = store.identity.member_id
        self._config = configuration
        self._peer_service = peer_service
        self._store = store
        self._state_machine = StateMachine()
        peers = {
            member.id: address_of(member.peer_urls[0]) for member in cluster.members if member.id != node_id
        }
        identity = Identity(node_id, cluster.cluster_id)
        self._links = PeerLinks(
            identity,
            peers,
            receive=lambda sender, messages: self.node.receive(sender, messages),
            broken=lambda peer: self.node.stream_broken(peer),
            restored=lambda peer: self.node.stream_restored(peer),
        )
        raft_config = RaftConfig(
            node_id,
            tuple(member.id for member in cluster.members),
            tick_ms=config.TICK_MS,
            heartbeat_ticks=configuration.heartbeat_interval_ms // config.TICK_MS,
            election_timeout_ticks=configuration.election_timeout_ms // config.TICK_MS,
        )
        self.node = Node(
            raft_config,
            recovered,
            store,
            partial(WriterThread, store),
            self._state_machine,
            self._links,
            random.Random(),
        )
        self._writes = Writes(self.node, self._links, configuration.election_timeout_ms)
        self._compactor = Compactor(self.node, configuration.retention)
        self._leases = Leases(self.node, configuration.election_timeout_ms)
        self._renewals = LeaseTimes(self.node, self._links, self._leases, renew=True)
        self._questions = LeaseTimes(self.node, self._links, self._leases, renew=False)
        self._feed = Feed(self.node, store)
        self.node.before_apply.append(self._feed.keep_before)
        self._turns = Turns(config.WATCH_SENDS_PER_TURN, grpc_caught_up)
        self._cluster = cluster

    async def run(self, shell: Shell) -> None:
        """Serves until asked to stop, then stops in order."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.node.run)
            nursery.start_soon(self._links.run)
            for part in (self._compactor, self._leases, self._renewals, self._questions):
                nursery.start_soon(part.run)
            nursery.start_soon(self._feed.run)
            nursery.start_soon(self._turns.run)
            self._peer_service.join(self._links, self._writes, self._leases)
            nursery.start_soon(self._report_status, shell)
            async with trio.open_nursery() as serving:
                addresses = [address_of(url) for url in self._config.listen_client_urls]
                drained = partial(serve, grace_s=config.SHUTDOWN_DRAIN_S)
                await serving.start(drained, addresses, self._services())
                log.info("serving", name=self._config.name, clients=addresses)
                shell.ready()
                await shell.shutdown_requested.wait()
                await self._hand_over()
                serving.cancel_scope.cancel()  # drains
            nursery.cancel_scope.cancel()

    def _services(self) -> list[Service]:
        node = self.node
        headers = Headers(node, self._cluster.cluster_id, node.raft.node_id)
        state_machine = self._state_machine
        unary = Unary(node, self._writes, headers)
        lines = Lines(unary, state_machine, self._feed)
        services = [
            KV(unary, state_machine).service(),
            Lease(
                unary,
                self._writes,
                self._renewals,
                self._questions,
                state_machine,
                headers,
                lambda: node.revision,
            ).service(),
            Lock(lines).service(),
            Election(lines).service(),
            Watch(node, self._feed, self._turns, headers, self._config.election_timeout_ms).service(),
            SessionStreams(node, self._writes, state_machine, headers, self._cluster).service(),
            LeaderTable(node, self._cluster, self._config.election_timeout_ms, self._counters).service(),
            Cluster(headers, self._cluster).service(),
            Maintenance(node, self._writes, unary, state_machine, headers, self._store).service(),
        ]
        return [*services, Health(node, frozenset(service.name for service in services)).service()]

    def _counters(self) -> dict[str, int]:
        return {
            "reads_served": self.node.reads.served,
            **{f"raft_{reason}": count for reason, count in self.node.raft.status().ignored_messages.items()},
            **self._links.counters,
        }

    async def _hand_over(self) -> None:
        """Thesis §3.10: a leader that leaves chooses its successor, so that nobody waits for an election."""
        self.node.leave()
        log.info("stopping", name=self._config.name, role=self.node.soft_state.role.value)
        if self.node.leads and len(self._cluster.members) > 1:
            self.node.transfer_leadership()
            with trio.move_on_after(config.SHUTDOWN_TRANSFER_S):
                while self.node.soft_state.leader in (None, self.node.raft.node_id):
                    await self.node.soft_state_changed.wait()

    async def _report_status(self, shell: Shell) -> None:
        while True:
            changed = self.node.soft_state_changed
            state = self.node.soft_state
            leader = f"{state.leader:x}" if state.leader else "none"
            shell.status(f"{state.role.value} term {state.term} leader {leader}")
            await changed.wait()
