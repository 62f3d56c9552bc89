"""Leases while this node leads: who has time left, who is renewed, whose time is over.

A new leader reads all leases once the no-op of its term is applied, and gives each its full time and an
election timeout more, because it cannot know what its predecessor renewed. A renewal is answered only after a
round of heartbeats that began after it arrived: until then another node may lead, and count without it
(hazard 38). What is over is revoked by a command in the log that names this term and is void in any other.
So a lease never ends early; it may end late.
"""

from collections.abc import Sequence

import structlog
import trio

from proto import session_pb2
from proto.errors import Status
from raftd import config
from raftd.core.messages import Entry, EntryKind
from raftd.kv.command import Applied, Kind, encode_command
from raftd.kv.leases import Lease, LeaseChange
from raftd.lease_clock import LeaseClock
from raftd.node import Node
from raftd.proposals import Refusal, execute
from raftd.reads import Read, answered
from raftd.store import ReadTransaction

log = structlog.get_logger()


class Leases:
    """`_clock` is that of `_term`. Between the no-op of the term and the end of loading, changes gather in
    `_gathered`, to be followed after what was loaded: telling one twice does no harm.
    """

    def __init__(self, node: Node, election_timeout_ms: int) -> None:
        self._node = node
        self._grace_ms = election_timeout_ms
        self._term = 0
        self._clock: LeaseClock | None = None
        self._gathered: list[LeaseChange] = []
        self._changed = trio.Event()
        node.applied.append(self._follow)

    async def run(self) -> None:
        """Until cancelled. Raises what the store raises: then the node must stop."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._load_when_leading)
            nursery.start_soon(self._expire_when_leading)
            nursery.start_soon(self._watch_leadership)

    # Asked by services, here and through a peer's call.

    async def times(self, ids: Sequence[int], *, renew: bool, deadline: float) -> list[int] | None:
        """Seconds for each id: granted and begun anew (0: none such), or left (-1: none such). None when
        this node does not lead, or no longer in the same term. Raises Status at the deadline.
        """
        term = self._node.raft.term
        clock = await self._clock_when_loaded(term, deadline)
        if clock is None:
            return None
        # Until this round is answered, another node may lead and count without this one.
        await answered(self._node.read, Read(_nothing, confirms_only=True, deadline=deadline))
        if clock is not self._clock_of(term):
            return None
        now_ms = self._node.cluster_time_ms()
        ask = clock.renew if renew else clock.remaining_s
        return [ask(lease_id, now_ms) for lease_id in ids]

    async def _clock_when_loaded(self, term: int, deadline: float) -> LeaseClock | None:
        node = self._node
        with trio.move_on_at(deadline):
            while node.leads and node.raft.term == term:
                if (clock := self._clock_of(term)) is not None:
                    return clock
                await self._changed.wait()
        return None

    def _clock_of(self, term: int) -> LeaseClock | None:
        node = self._node
        return self._clock if node.leads and node.raft.term == term == self._term else None

    # Following the log.

    def _follow(self, entry: Entry, applied: Applied) -> None:
        node = self._node
        if entry.kind is EntryKind.NOOP and node.leads and entry.term == node.raft.term:
            self._term = entry.term
            self._clock = None
            self._gathered = []
            self._ring()
        elif applied.lease_changes and self._term == node.raft.term and node.leads:
            if self._clock is None:
                self._gathered += applied.lease_changes
            else:
                self._take_up(self._clock, applied.lease_changes)

    def _take_up(self, clock: LeaseClock, changes: Sequence[LeaseChange]) -> None:
        due_ms = clock.due_at_ms()
        now_ms = self._node.cluster_time_ms()
        for change in changes:
            clock.follow(change, now_ms)
        if clock.due_at_ms() != due_ms:
            self._ring()

    def _ring(self) -> None:
        changed, self._changed = self._changed, trio.Event()
        changed.set()

    async def _load_when_leading(self) -> None:
        loaded_term = 0
        while True:
            changed = self._changed
            term = self._term
            if term == loaded_term:
                await changed.wait()
                continue
            clock = await self._load()
            if clock is None:
                continue
            loaded_term = term
            if self._term == term:
                self._take_up(clock, self._gathered)
                self._gathered = []
                self._clock = clock
                self._ring()

    async def _load(self) -> LeaseClock | None:
        """All leases, in a state that has the no-op of this term or a later one."""
        loaded: list[LeaseClock] = []
        now_ms = self._node.cluster_time_ms()

        def load(reader: ReadTransaction) -> bytes:
            loaded.append(LeaseClock(self._node.state_machine.leases(reader), now_ms, self._grace_ms))
            return b""

        try:
            await answered(self._node.read, Read(load, scan=True, internal=True))
        except Status as refused:
            log.warning("the leases could not be read yet", reason=str(refused))
            await trio.sleep(config.EXPIRY_RETRY_S)
        return loaded[0] if loaded else None

    async def _watch_leadership(self) -> None:
        while True:
            changed = self._node.soft_state_changed
            self._ring()
            await changed.wait()

    # Expiry.

    async def _expire_when_leading(self) -> None:
        node = self._node
        while True:
            changed = self._changed
            clock = self._clock_of(self._term)
            due_ms = clock.due_at_ms() if clock is not None else None
            if clock is None or due_ms is None:
                await changed.wait()
                continue
            now_ms = node.cluster_time_ms()
            if due_ms > now_ms:
                with trio.move_on_after((due_ms - now_ms) / 1000):
                    await changed.wait()
                continue
            due = clock.take_due(now_ms, config.MAX_EXPIRED_LEASES)
            if due:
                await self._expire(clock, due, self._term)
            else:
                await trio.lowlevel.checkpoint()

    async def _expire(self, clock: LeaseClock, due: Sequence[Lease], term: int) -> None:
        expiry = session_pb2.LeaseExpiry(term=term)
        for lease in due:
            expiry.leases.add(id=lease.id, grant=lease.grant)
        command = encode_command(Kind.LEASE_EXPIRE, 0, 0, expiry.SerializeToString())
        answer = await execute(self._node, command)
        if isinstance(answer, Refusal):
            with trio.move_on_after(config.EXPIRY_RETRY_S):
                await self._node.soft_state_changed.wait()
            clock.put_back(due, self._node.cluster_time_ms())
        else:
            log.info("leases expired", count=len(due))


def _nothing(_: ReadTransaction) -> bytes:
    return b""
