"""Keepalives and questions for the time a lease has left, from all streams of this node, to the leader.

While one batch is under way the next one gathers, so that any number of clients costs a few calls between
nodes. A batch makes one hop, to the leader or to nobody; what meets no leader is tried again until its
caller's time is over, and renewing twice does no harm.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from proto import errors, peer_pb2
from proto.errors import Status
from raftd import config
from raftd.leases import Leases
from raftd.node import Node
from raftd.peers.links import PeerLinks


@dataclass(slots=True, eq=False)
class _Question:
    ids: Sequence[int]
    deadline: float
    answered: trio.Event = field(default_factory=trio.Event)
    answer: list[int] | Status | None = None

    def set(self, answer: list[int] | Status) -> None:
        self.answer = answer
        self.answered.set()


class LeaseTimes:
    """`run` is a task of the node's; `ask` is for any task."""

    def __init__(self, node: Node, links: PeerLinks, leases: Leases, *, renew: bool) -> None:
        self._node = node
        self._links = links
        self._leases = leases
        self._renew = renew
        self._waiting: deque[_Question] = deque()
        self._pending = 0
        self._arrival = trio.lowlevel.ParkingLot()

    async def ask(self, ids: Sequence[int], deadline: float) -> list[int]:
        """One answer per id, as `Leases.times` gives it. Raises Status, at the latest at the deadline."""
        assert len(ids) <= config.MAX_LEASE_BATCH, len(ids)
        if self._pending + len(ids) > config.MAX_PENDING_LEASE_CALLS:
            raise Status(*errors.TOO_MANY_REQUESTS)
        question = _Question(ids, deadline)
        self._pending += len(ids)
        self._waiting.append(question)
        self._arrival.unpark()
        try:
            with trio.move_on_at(deadline):
                await question.answered.wait()
        finally:
            self._pending -= len(ids)
            if question.answer is None and question in self._waiting:
                self._waiting.remove(question)
        if question.answer is None:
            raise Status(*(errors.NO_LEADER if self._node.soft_state.leader is None else errors.TIMEOUT))
        if isinstance(question.answer, Status):
            raise question.answer
        return question.answer

    async def run(self) -> None:
        while True:
            while not self._waiting:
                await self._arrival.park()
            batch = self._next_batch()
            answers = await self._exchange(batch)
            if answers is None:
                self._waiting.extendleft(reversed(batch))
                with trio.move_on_after(config.LEASE_RETRY_S):
                    await self._node.soft_state_changed.wait()
                self._drop_late()
                continue
            start = 0
            for question in batch:
                question.set(answers[start : start + len(question.ids)])
                start += len(question.ids)

    def _next_batch(self) -> list[_Question]:
        batch = [self._waiting.popleft()]
        size = len(batch[0].ids)
        while self._waiting and size + len(self._waiting[0].ids) <= config.MAX_LEASE_BATCH:
            size += len(self._waiting[0].ids)
            batch.append(self._waiting.popleft())
        return batch

    def _drop_late(self) -> None:
        """Those whose callers have left already."""
        now = trio.current_time()
        self._waiting = deque(question for question in self._waiting if question.deadline > now)

    async def _exchange(self, batch: Sequence[_Question]) -> list[int] | None:
        """None when there was no leader to ask, or it could not say."""
        node = self._node
        ids = [lease_id for question in batch for lease_id in question.ids]
        deadline = trio.current_time() + config.LEASE_EXCHANGE_S
        try:
            if node.leads:
                return await self._leases.times(ids, renew=self._renew, deadline=deadline)
            leader = node.soft_state.leader
            if leader is None or leader == node.raft.node_id:
                return None
            request = peer_pb2.LeasesRequest(
                ids=ids, renew=self._renew, remaining_ms=int(config.LEASE_EXCHANGE_S * 1000)
            )
            reply = await self._links.leases(leader, request, deadline)
        except Status:
            return None
        return None if reply.not_leader or len(reply.ttls) != len(ids) else list(reply.ttls)
