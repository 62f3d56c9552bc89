"""The leader table: what each node last said, and what follows from all of it.

No I/O: `proxyd.endpoints` feeds it what arrives on the watch streams, everything else asks it and waits for
changes.

Invariants:
- The known leader's term never goes down: the highest term wins, and a stale leader cannot come back.
- All views belong to one cluster, the first that was heard of.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from proto.table_pb2 import TableMember, TableUpdate
from proxyd.config import DEFAULT_ELECTION_TIMEOUT_MS, MAX_ENTRIES_BEHIND
from proxyd.dial import address_of_url


@dataclass(slots=True, eq=False)
class NodeView:
    """What one address last said. `live`: its stream stands. `heard_at`: Trio's clock at the last update."""

    address: str
    member_id: int = 0
    term: int = 0
    leader: int = 0
    commit_index: int = 0
    applied_index: int = 0
    revision: int = 0
    heard_at: float = -math.inf
    live: bool = False
    leaving: bool = False
    silent: bool = False
    was_healthy: bool = False


@dataclass(frozen=True, slots=True)
class Leader:
    """Who leads, and in which term."""

    member_id: int
    term: int


class ForeignCluster(Exception):
    """The address speaks for another cluster than the one this proxyd serves."""


@dataclass(slots=True, eq=False)
class LeaderTable:
    """`leader` is None while none is known. `members` by ascending id; empty until a node has named them.
    `version` moves with everything that is taken in, progress and silence included. `no_endpoint` says why
    not one of the addresses can be an endpoint; empty otherwise."""

    cluster_id: int = 0
    members: tuple[TableMember, ...] = ()
    leader: Leader | None = None
    election_timeout_ms: int = DEFAULT_ELECTION_TIMEOUT_MS
    leader_changes: int = 0
    version: int = 0
    no_endpoint: str = ""
    _views: dict[str, NodeView] = field(default_factory=dict)
    _members_term: int = 0
    _leader_term: int = 0
    _changed: trio.Event = field(default_factory=trio.Event)

    # Fed by the watches.

    def observe(self, address: str, update: TableUpdate, now: float) -> None:
        """Takes one update. Raises ForeignCluster, and then nothing has changed."""
        if update.cluster_id:
            if self.cluster_id not in (0, update.cluster_id):
                raise ForeignCluster(
                    f"cluster {update.cluster_id:x}, but this proxyd serves cluster {self.cluster_id:x}"
                )
            self.cluster_id = update.cluster_id
        view = self._views.setdefault(address, NodeView(address))
        notable = not view.live or view.member_id != update.member_id or view.leaving != update.leaving
        view.live, view.silent, view.heard_at = True, False, now
        view.member_id, view.leaving = update.member_id, update.leaving
        notable |= view.leader != update.leader
        view.term, view.leader = update.term, update.leader
        view.commit_index, view.applied_index = update.commit_index, update.applied_index
        view.revision = max(view.revision, update.revision)
        self.election_timeout_ms = update.election_timeout_ms or self.election_timeout_ms
        notable |= self._take_members(update)
        healthy = self.healthy(view, now)
        notable |= healthy and not view.was_healthy
        view.was_healthy = healthy
        self._decide(notable)

    def silent(self, address: str) -> None:
        """Nothing has come from this address for an election timeout."""
        view = self._views[address]
        view.silent, view.was_healthy = True, False
        self._decide(True)

    def lost(self, address: str) -> None:
        """The stream of this address has ended. Its member id is remembered."""
        view = self._views.get(address)
        if view is not None and view.live:
            view.live = view.was_healthy = False
            self._decide(True)

    def forget(self, address: str) -> None:
        """The address is no longer watched."""
        self.lost(address)
        self._views.pop(address, None)

    # Asked by everybody.

    @property
    def election_timeout_s(self) -> float:
        return self.election_timeout_ms / 1000

    async def wait_change(self) -> None:
        """Until the leader, a node's presence or health, or the members change.

        There is no await between a caller's look at the table and this wait, hence no change is missed.
        """
        await self._changed.wait()

    def healthy(self, view: NodeView, now: float) -> bool:
        """Heard within one election timeout, less than 1,000 entries behind, and not about to leave."""
        return (
            view.live
            and not view.leaving
            and not view.silent
            and now - view.heard_at <= self.election_timeout_s
            and self.commit_index - view.applied_index < MAX_ENTRIES_BEHIND
        )

    def live_nodes(self) -> list[NodeView]:
        """One view per node that can be spoken to, by ascending member id; the freshest of several
        addresses."""
        nodes: dict[int, NodeView] = {}
        for view in self._views.values():
            if view.live and view.member_id:
                other = nodes.get(view.member_id)
                if other is None or view.heard_at > other.heard_at:
                    nodes[view.member_id] = view
        return [nodes[member_id] for member_id in sorted(nodes)]

    def leader_address(self) -> str | None:
        """Where to reach the leader, even when its own watch does not stand at the moment."""
        if self.leader is None:
            return None
        known = [view for view in self._views.values() if view.member_id == self.leader.member_id]
        if known:  # of several live addresses always the same one
            return max(known, key=lambda view: view.live).address
        for member in self.members:
            if member.id == self.leader.member_id and member.client_urls:
                return address_of_url(member.client_urls[0])
        return None

    def addresses_of_unknown_members(self, besides: Sequence[str]) -> list[str]:
        """Client addresses of members that none of the addresses `besides` has ever spoken for."""
        claimed = {self._views[address].member_id for address in besides if address in self._views}
        unknown = [member for member in self.members if member.id not in claimed]
        addresses = [address_of_url(url) for member in unknown for url in member.client_urls]
        return [address for address in dict.fromkeys(addresses) if address not in besides]

    def name_of(self, member_id: int) -> str:
        for member in self.members:
            if member.id == member_id:
                return member.name or f"{member_id:x}"
        return f"{member_id:x}"

    @property
    def commit_index(self) -> int:
        """The highest that a live node knows."""
        return max((view.commit_index for view in self._views.values() if view.live), default=0)

    @property
    def applied_index(self) -> int:
        """The highest that a live node has applied."""
        return max((view.applied_index for view in self._views.values() if view.live), default=0)

    @property
    def revision(self) -> int:
        return max((view.revision for view in self._views.values()), default=0)

    @property
    def term(self) -> int:
        """The highest term that was seen with a leader."""
        return self._leader_term

    # What follows.

    def _take_members(self, update: TableUpdate) -> bool:
        if not update.members or update.term < self._members_term:
            return False
        members = tuple(sorted(update.members, key=lambda member: member.id))
        self._members_term = update.term
        if members == self.members:
            return False
        self.members = members
        return True

    def _decide(self, notable: bool) -> None:
        self.version += 1
        leader = self._leader_named_highest()
        if leader is not None:
            self._leader_term = leader.term
            self.leader_changes += leader != self.leader
        if leader != self.leader:
            self.leader = leader
            notable = True
        if notable:
            changed, self._changed = self._changed, trio.Event()
            changed.set()

    def _leader_named_highest(self) -> Leader | None:
        """The leader of the highest term in which one is named. Its own word decides: a leader that says
        it leads no more, in that term or a later one, is none, whatever followers have not noticed yet."""
        live = [view for view in self._views.values() if view.live]
        said = {view.member_id: view for view in self.live_nodes()}
        best: Leader | None = None
        for view in live:
            if not view.leader or view.term < self._leader_term or (best and view.term <= best.term):
                continue
            own = said.get(view.leader)
            resigned = own is not None and own.term >= view.term and own.leader != own.member_id
            if not resigned:
                best = Leader(view.leader, view.term)
        return best
