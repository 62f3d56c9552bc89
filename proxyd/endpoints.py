"""The control plane: one `LeaderTable.Watch` per node, for as long as proxyd runs.

Watches all of --endpoints and the members they name, redials what is lost, feeds the leader table, and keeps
a data link to every node that speaks. Nothing is polled: in a quiet minute only heartbeats come in.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog
import trio

from proto import errors
from proto.errors import Status
from proto.stream import MessageStream, StreamEnded
from proto.table_pb2 import TableUpdate, WatchTableRequest
from proxyd import config
from proxyd.dial import PROXY_METADATA, WATCH_TABLE, Dial
from proxyd.node_link import NodeLink, redial_pause_s
from proxyd.table import ForeignCluster, LeaderTable


class Refused(Exception):
    """The address answers, but cannot be an endpoint."""


class Lost(Exception):
    """The node at the address cannot be heard (any more)."""


@dataclass(slots=True)
class _Watch:
    """The watch of one address and what was last logged about it."""

    scope: trio.CancelScope
    up: bool = False
    last_said: str = ""
    refusal: str = ""


class Endpoints:
    """`links` holds the data link of every address whose watch stands."""

    def __init__(
        self,
        addresses: Sequence[str],
        table: LeaderTable,
        dial: Dial,
        proxy_id: str,
        log: structlog.stdlib.BoundLogger,
    ) -> None:
        self._configured = tuple(addresses)
        self._table = table
        self._dial = dial
        self._metadata: Mapping[str, str] = {PROXY_METADATA: proxy_id}
        self._log = log
        self._watches: dict[str, _Watch] = {}
        self._links: dict[str, NodeLink] = {}

    @property
    def links(self) -> Mapping[str, NodeLink]:
        return self._links

    async def run(self) -> None:
        """Until cancelled. Also logs each change of leader."""
        async with trio.open_nursery() as nursery:
            leader = self._table.leader
            while True:
                self._reconcile(nursery)
                await self._table.wait_change()
                if self._table.leader != leader:
                    leader = self._table.leader
                    self._log_leader()

    def _log_leader(self) -> None:
        leader = self._table.leader
        if leader is None:
            self._log.warning("no leader", term=self._table.term)
        else:
            name, address = self._table.name_of(leader.member_id), self._table.leader_address()
            self._log.info("leader changed", leader=name, term=leader.term, address=address)

    def _reconcile(self, nursery: trio.Nursery) -> None:
        """Watch what should be watched: the configured addresses, and members that none of them speaks
        for."""
        wanted = [*self._configured, *self._table.addresses_of_unknown_members(self._configured)]
        wanted = wanted[: config.MAX_ENDPOINTS]
        for address in wanted:
            if address not in self._watches:
                self._watches[address] = _Watch(trio.CancelScope())
                nursery.start_soon(self._keep_watching, address, self._watches[address], nursery)
        for address in self._watches.keys() - set(wanted):
            self._watches.pop(address).scope.cancel()

    async def _keep_watching(self, address: str, watch: _Watch, nursery: trio.Nursery) -> None:
        with watch.scope:
            while True:
                pause_s = redial_pause_s()
                try:
                    await self._watch_once(address, watch, nursery)
                except Lost as lost:
                    if watch.up or not watch.last_said:
                        event = "node down" if watch.up else "node not reachable yet"
                        self._log.warning(event, address=address, reason=str(lost))
                    watch.up, watch.last_said, watch.refusal = False, "lost", ""
                except Refused as refused:
                    if watch.last_said != str(refused):
                        self._log.error("endpoint refused", address=address, reason=str(refused))
                    watch.up, watch.last_said, watch.refusal = False, str(refused), str(refused)
                    pause_s = config.REFUSED_REDIAL_S
                finally:
                    self._table.lost(address)
                self._tell_refusals()
                await trio.sleep(pause_s)
        self._table.forget(address)

    def _tell_refusals(self) -> None:
        """When no address can be an endpoint, waiting for one is in vain."""
        refusals = [f"{address}: {watch.refusal}" for address, watch in self._watches.items()]
        all_refused = all(watch.refusal for watch in self._watches.values())
        self._table.no_endpoint = "; ".join(refusals) if all_refused else ""

    async def _watch_once(self, address: str, watch: _Watch, nursery: trio.Nursery) -> None:
        """Raises Lost or Refused when it ends. A fresh connection each time."""
        try:
            async with (
                self._dial(address) as channel,
                channel.stream(WATCH_TABLE, WatchTableRequest(), metadata=self._metadata) as updates,
            ):
                await self._follow(address, watch, updates, nursery)
        except ForeignCluster as foreign:
            raise Refused(str(foreign)) from foreign
        except StreamEnded as ended:
            raise Lost("it ended its stream") from ended
        except OSError as error:
            raise Lost(str(error)) from error
        except Status as status:
            if status.code in (errors.FAILED_PRECONDITION, errors.UNIMPLEMENTED, errors.UNAUTHENTICATED):
                raise Refused(status.text) from status
            raise Lost(str(status)) from status

    async def _follow(
        self, address: str, watch: _Watch, updates: MessageStream, nursery: trio.Nursery
    ) -> None:
        self._take(address, await _receive(updates, config.FIRST_UPDATE_TIMEOUT_S))
        watch.up, watch.last_said, watch.refusal = True, "up", ""
        self._tell_refusals()
        self._log.info("node up", address=address, node=self._name(address))
        link = self._links[address] = NodeLink(address, self._dial)
        nursery.start_soon(link.run)
        try:
            while True:
                self._take(address, await self._next_updates(address, updates, link))
        finally:
            # First out of the table, so that nothing asks for this link any more; then its reads move.
            self._table.lost(address)
            del self._links[address]
            link.close()

    async def _next_updates(self, address: str, updates: MessageStream, link: NodeLink) -> list[TableUpdate]:
        """After one election timeout of silence the node serves no reads; after some, it is lost."""
        patience_s = self._table.election_timeout_s
        with trio.move_on_after(patience_s):
            return await updates.receive_all()
        self._table.silent(address)
        link.give_up_reads()
        limit_s = max(config.SILENCE_MIN_S, config.SILENCE_ELECTION_TIMEOUTS * patience_s)
        return await _receive(updates, limit_s - patience_s)

    def _take(self, address: str, updates: Sequence[TableUpdate]) -> None:
        now = trio.current_time()
        for update in updates:
            if not update.member_id:
                raise Refused("it speaks for no member of a cluster")
            self._table.observe(address, update, now)

    def _name(self, address: str) -> str:
        for view in self._table.live_nodes():
            if view.address == address:
                return self._table.name_of(view.member_id)
        return ""


async def _receive(updates: MessageStream, timeout_s: float = math.inf) -> list[TableUpdate]:
    with trio.move_on_after(timeout_s):
        return await updates.receive_all()
    raise Lost(f"silent for {timeout_s:.1f} s")
