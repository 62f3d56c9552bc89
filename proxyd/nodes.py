"""Unary calls that a node answers for the cluster: found, made, and made again elsewhere when it fails.

`NodeLink` makes one call to one node; this module knows which, how long, and whether a second time.
"""

import math
from collections.abc import Callable

import trio
from google.protobuf.descriptor import MethodDescriptor

from proto import errors
from proto.bridge import Call
from proto.errors import Status
from proxyd.endpoints import Endpoints
from proxyd.node_link import NodeLink, redial_pause_s
from proxyd.patience import check_leader_wanted, waiting_deadline, why_in_vain
from proxyd.table import LeaderTable, NodeView

_TRY_ANOTHER = (errors.UNAVAILABLE, errors.DEADLINE_EXCEEDED)


class Nodes:
    """Calls by anybody's handlers; requests and replies are serialized bytes. All raise Status."""

    def __init__(self, table: LeaderTable, endpoints: Endpoints) -> None:
        self._table = table
        self._endpoints = endpoints
        self._turn = 0

    async def ask_leader(self, method: MethodDescriptor, request: bytes, call: Call) -> bytes:
        """What may be asked twice. Without a leader any node answers, with etcd's word for it."""
        return await self._ask(method, request, call, self._leader_first)

    async def ask_any(self, method: MethodDescriptor, request: bytes, call: Call) -> bytes:
        """What every node knows, from a healthy one if there is any."""
        return await self._ask(method, request, call, self._round_robin)

    async def call_leader(
        self, method: MethodDescriptor, request: bytes, call: Call, *, again: bool
    ) -> bytes:
        """What may take as long as its caller likes. `again`: it does no harm a second time, and so goes on
        at the next leader; otherwise a loss on the way is the caller's to hear of."""
        check_leader_wanted(self._table, call.metadata)
        while True:
            link = await self._leader_link(waiting_deadline(self._table, call.deadline))
            remaining_s = call.deadline - trio.current_time()
            try:
                reply: bytes = await link.unary(
                    method, request, None if remaining_s == math.inf else max(0.001, remaining_s), raw=True
                )
            except Status as status:
                if status.code != errors.UNAVAILABLE or not again:
                    raise
            else:
                return reply
            await self.wait_change()

    async def leader_link(self, call: Call) -> NodeLink:
        """The link to the leader, which is waited for. Raises Status when there is none for too long."""
        return await self._leader_link(waiting_deadline(self._table, call.deadline))

    def links_to_leader(self) -> list[NodeLink]:
        """That to the leader, if it is known and connected."""
        return [] if self._table.leader is None else self._links(self._leader_first())

    async def wait_change(self) -> None:
        """Until the table changes, or the pause before another attempt is over."""
        with trio.move_on_after(redial_pause_s()):
            await self._table.wait_change()

    async def _leader_link(self, deadline: float) -> NodeLink:
        with trio.move_on_at(deadline):
            while True:
                for link in self.links_to_leader():
                    if link.connected:
                        return link
                await self.wait_change()
        raise Status(*why_in_vain(self._table), outcome=errors.NOT_DONE_OUTCOME)

    async def _ask(
        self, method: MethodDescriptor, request: bytes, call: Call, order: Callable[[], list[NodeView]]
    ) -> bytes:
        """The first answer of the nodes in `order`; those that do not answer are passed over until the
        deadline."""
        check_leader_wanted(self._table, call.metadata)
        deadline = waiting_deadline(self._table, call.deadline)
        with trio.move_on_at(deadline):
            while True:
                for link in self._links(order()):
                    try:
                        timeout_s = max(0.001, deadline - trio.current_time())
                        reply: bytes = await link.unary(method, request, timeout_s, raw=True)
                    except Status as status:
                        if status.code not in _TRY_ANOTHER:
                            raise
                    else:
                        return reply
                await self.wait_change()
        raise Status(*why_in_vain(self._table), outcome=errors.NOT_DONE_OUTCOME)

    def _links(self, views: list[NodeView]) -> list[NodeLink]:
        links = self._endpoints.links
        return [links[view.address] for view in views if view.address in links]

    def _leader_first(self) -> list[NodeView]:
        leader = self._table.leader
        nodes = self._table.live_nodes()
        if leader is None:
            return nodes
        # While a leader is known only it will do: another node's word would be taken for the leader's.
        return [view for view in nodes if view.member_id == leader.member_id]

    def _round_robin(self) -> list[NodeView]:
        now = trio.current_time()
        nodes = sorted(self._table.live_nodes(), key=lambda view: not self._table.healthy(view, now))
        healthy = sum(self._table.healthy(view, now) for view in nodes)
        self._turn += 1
        start = self._turn % healthy if healthy else 0
        return nodes[start:healthy] + nodes[:start] + nodes[healthy:]
