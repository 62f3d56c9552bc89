"""A single write, as a unary call brings it: to the log here, or to the leader in one hop.

Never sent twice, never in a loop (hazard 88): a forwarded command that does not meet the leader comes back.
What is surely not done may wait for the next leader; what stands in some log is waited for until the
deadline, and then the outcome is unknown (hazards 82, 87). Called by the unary services and, for forwarded
commands, by the peer service.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import trio

from proto import errors, peer_pb2
from proto.errors import NOT_DONE_OUTCOME, UNKNOWN_OUTCOME, Status
from raftd import config
from raftd.kv.command import Outcome, Result
from raftd.node import Node
from raftd.peers.links import PeerLinks
from raftd.proposals import Refusal, Submission, refusal_status


@dataclass(slots=True)
class _Answer:
    """The end of one submission, for the one task that waits for it."""

    arrived: trio.Event = field(default_factory=trio.Event)
    value: Sequence[Result] | Refusal | None = None

    def set(self, value: Sequence[Result] | Refusal) -> None:
        self.value = value
        self.arrived.set()


class Writes:
    def __init__(self, node: Node, links: PeerLinks, election_timeout_ms: int) -> None:
        self._node = node
        self._links = links
        self._patience_s = config.REQUEST_TIMEOUT_S + 2 * election_timeout_ms / 1000

    def deadline(self, deadline: float) -> float:
        """When waiting must end, given the caller's deadline (Trio's clock, infinite for none)."""
        return min(deadline - config.DEADLINE_MARGIN_S, trio.current_time() + self._patience_s)

    async def execute(self, command: bytes, deadline: float) -> Result:
        """Returns what the command came to. Raises Status with an outcome when it was not or may not be
        done.
        """
        while True:
            leader = await self._leader(deadline)
            if trio.current_time() >= deadline:
                raise Status(*errors.TIMEOUT, outcome=NOT_DONE_OUTCOME)
            if self._node.leads:
                answer = await self.execute_here(command, deadline)
            else:
                answer = await self._forward(leader, command, deadline)
            if not isinstance(answer, Refusal):
                return answer
            if answer is Refusal.OVERLOADED:
                raise refusal_status(answer)
            with trio.move_on_after(config.READ_RETRY_S):
                await self._node.soft_state_changed.wait()

    async def execute_here(self, command: bytes, deadline: float) -> Result | Refusal:
        """The same, on this node or not at all: for a command that another node forwarded."""
        answer = _Answer()
        submission = Submission((command,), len(command), answer.set)
        self._node.submit(submission)
        is_withdrawn = False
        try:
            with trio.move_on_at(deadline):
                await answer.arrived.wait()
        finally:
            if answer.value is None:
                is_withdrawn = self._node.withdraw(submission)
        if answer.value is None:
            outcome = NOT_DONE_OUTCOME if is_withdrawn else UNKNOWN_OUTCOME
            raise Status(*errors.TIMEOUT, outcome=outcome)
        return answer.value if isinstance(answer.value, Refusal) else answer.value[0]

    async def _leader(self, deadline: float) -> int:
        with trio.move_on_at(deadline):
            while (leader := self._node.soft_state.leader) is None:
                await self._node.soft_state_changed.wait()
            return leader
        raise Status(*errors.NO_LEADER, outcome=NOT_DONE_OUTCOME)

    async def _forward(self, leader: int, command: bytes, deadline: float) -> Result | Refusal:
        # The leader gives up a little earlier, so that what it knows of the outcome still arrives here.
        remaining_s = deadline - trio.current_time() - config.DEADLINE_MARGIN_S
        remaining_ms = max(1, int(remaining_s * 1000))
        request = peer_pb2.ForwardRequest(command=command, remaining_ms=remaining_ms)
        try:
            reply = await self._links.forward(leader, request, deadline)
        except Status as failed:
            if failed.outcome == NOT_DONE_OUTCOME:
                return Refusal.NOT_LEADER
            raise Status(*errors.TIMEOUT_CONNECTION_LOST, outcome=UNKNOWN_OUTCOME) from failed
        match reply.outcome:
            case peer_pb2.ForwardReply.DECIDED:
                return Result(reply.code, reply.text, reply.body, Outcome.DECIDED, 0, 0)
            case peer_pb2.ForwardReply.NOT_LEADER:
                return Refusal.NOT_LEADER
            case peer_pb2.ForwardReply.NOT_DONE:
                raise Status(reply.code, reply.text, NOT_DONE_OUTCOME)
            case _:
                raise Status(reply.code, reply.text, UNKNOWN_OUTCOME)
