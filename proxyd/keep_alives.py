"""Keepalives of all clients on one stream to the leader, and again on the next one when it changes.

A keepalive does no harm a second time, and several for one lease are as good as one: those that wait to be
sent become one request. Clients' streams are `proxyd.lease`.
"""

from contextlib import suppress

import trio

from proto import errors, rpc_pb2
from proto.errors import Status
from proto.rpc_pb2 import LeaseKeepAliveRequest, LeaseKeepAliveResponse
from proto.stream import MessageStream, StreamEnded
from proxyd import config
from proxyd.node_link import NodeLink
from proxyd.nodes import Nodes
from proxyd.patience import why_in_vain
from proxyd.table import LeaderTable

KEEP_ALIVE = rpc_pb2.DESCRIPTOR.services_by_name["Lease"].methods_by_name["LeaseKeepAlive"]


class Question:
    """About one lease; the answer is for all who asked before it was sent."""

    __slots__ = ("_earlier", "_reply", "_settled", "askers")

    def __init__(self) -> None:
        self.askers = 0
        self._settled = trio.Event()
        self._reply: LeaseKeepAliveResponse | None = None
        self._earlier: Question | None = None

    async def answer(self, deadline: float) -> LeaseKeepAliveResponse | None:
        """None when there is none in time."""
        try:
            with trio.move_on_at(deadline):
                await self._settled.wait()
        finally:
            self.askers -= 1
        return self._reply

    def settle(self, reply: LeaseKeepAliveResponse) -> None:
        self._reply = reply
        self._settled.set()
        if self._earlier is not None:
            self._earlier.settle(reply)

    def take_over(self, earlier: "Question") -> None:
        """One about the same lease that was sent in vain: this one's answer is for both."""
        self.askers += earlier.askers
        self._earlier = earlier


class KeepAlives:
    """Invariant: an unanswered question is in `_unsent` or in `_sent`, by the id of its lease."""

    def __init__(self, table: LeaderTable, nodes: Nodes) -> None:
        self._table = table
        self._nodes = nodes
        self._unsent: dict[int, Question] = {}
        self._sent: dict[int, Question] = {}
        self._work = trio.Event()

    def ask(self, lease: int) -> Question:
        """Raises Status when too much is asked."""
        question = self._unsent.get(lease)
        if question is None:
            if len(self._unsent) + len(self._sent) >= config.MAX_KEEP_ALIVES:
                raise Status(*errors.TOO_MANY_REQUESTS)
            question = self._unsent[lease] = Question()
            self._work.set()
        question.askers += 1
        return question

    async def answer(self, question: Question, deadline: float) -> LeaseKeepAliveResponse:
        """Raises Status when there is none in time. `deadline`: Trio's clock, finite."""
        reply = await question.answer(deadline)
        if reply is None:
            raise Status(*why_in_vain(self._table))
        return reply

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            while not self._unsent:
                self._work = trio.Event()
                await self._work.wait()
            for link in self._nodes.links_to_leader():
                await self._follow(link)
            await self._nodes.wait_change()

    async def _follow(self, link: NodeLink) -> None:
        """Until the stream ends, or another node leads."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._leave_when_replaced, link, nursery.cancel_scope)
            with suppress(Status, StreamEnded, OSError):
                async with link.stream(KEEP_ALIVE) as stream:
                    nursery.start_soon(self._send, stream)
                    await self._receive(stream)
            nursery.cancel_scope.cancel()
        sent, self._sent = self._sent, {}
        for lease, question in sent.items():
            if lease in self._unsent:
                self._unsent[lease].take_over(question)
            else:
                self._unsent[lease] = question

    async def _leave_when_replaced(self, link: NodeLink, scope: trio.CancelScope) -> None:
        while self._nodes.links_to_leader() in ([link], []):
            await self._table.wait_change()
        scope.cancel()

    async def _send(self, stream: MessageStream) -> None:
        # When the stream fails here, the receiver meets the same end.
        with suppress(StreamEnded, Status):
            while True:
                self._work = trio.Event()
                lease = next((lease for lease in self._unsent if lease not in self._sent), None)
                if lease is None:
                    await self._work.wait()
                    continue
                question = self._unsent.pop(lease)
                if question.askers > 0:  # else all have given up
                    self._sent[lease] = question
                    await stream.send(LeaseKeepAliveRequest(ID=lease))

    async def _receive(self, stream: MessageStream) -> None:
        while True:
            replies: list[LeaseKeepAliveResponse] = await stream.receive_all()
            for reply in replies:
                question = self._sent.pop(reply.ID, None)
                if question is not None:
                    question.settle(reply)
            self._work.set()
