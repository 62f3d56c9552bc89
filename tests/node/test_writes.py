"""A single write on its way: how long it waits, where it goes, and what is said of it in the end.

Node and links are stand-ins; the clock is virtual.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import pytest
import trio
from trio.testing import MockClock

from proto import errors, peer_pb2
from proto.errors import NOT_DONE_OUTCOME, UNKNOWN_OUTCOME, Status
from raftd import config
from raftd.core.ready import Role, SoftState
from raftd.kv.command import Outcome, Result
from raftd.node import Node
from raftd.peers.links import PeerLinks
from raftd.proposals import Refusal, Submission
from raftd.services.writes import Writes

Reply = peer_pb2.ForwardReply


@dataclass
class Process:
    """The node and its links, as far as `Writes` knows them."""

    soft_state: SoftState = field(default_factory=lambda: SoftState(Role.FOLLOWER, 1, 2))
    soft_state_changed: trio.Event = field(default_factory=trio.Event)
    answer: Callable[[Submission], None] = lambda submission: None
    is_withdrawn: bool = False
    forwarded: list[peer_pb2.ForwardRequest] = field(default_factory=list)
    replies: list[Reply | Status] = field(default_factory=list)

    @property
    def leads(self) -> bool:
        return self.soft_state.role is Role.LEADER

    def submit(self, submission: Submission) -> None:
        self.answer(submission)

    def withdraw(self, submission: Submission) -> bool:
        return self.is_withdrawn

    async def forward(self, leader: int, request: peer_pb2.ForwardRequest, deadline: float) -> Reply:
        self.forwarded.append(request)
        reply = self.replies[0] if len(self.replies) == 1 else self.replies.pop(0)
        if isinstance(reply, Status):
            raise reply
        return reply

    async def write(self, seconds: float = 1.0) -> Result:
        writes = Writes(cast(Node, self), cast(PeerLinks, self), 300)
        return await writes.execute(b"command", trio.current_time() + seconds)

    async def fail(self, seconds: float = 1.0) -> tuple[int, str, str | None]:
        with pytest.raises(Status) as raised:
            await self.write(seconds)
        return raised.value.code, raised.value.text, raised.value.outcome


def leading() -> Process:
    return Process(SoftState(Role.LEADER, 1, 1))


DONE = Result(0, "", b"body", Outcome.DECIDED, 0, 0)


async def test_a_leader_that_cannot_be_reached_is_not_waited_for_beyond_the_deadline(
    autojump_clock: MockClock,
) -> None:
    """Known by its heartbeats, but the way there is down: surely not done, and it ends (hazard 92)."""
    process = Process(replies=[Status(*errors.LEADER_CHANGED, outcome=NOT_DONE_OUTCOME)])
    assert await process.fail() == (*errors.TIMEOUT, NOT_DONE_OUTCOME)
    assert len(process.forwarded) > 1


async def test_it_goes_once_to_the_leader_that_takes_it(autojump_clock: MockClock) -> None:
    refusal = Reply(outcome=Reply.NOT_LEADER)
    process = Process(replies=[refusal, refusal, Reply(outcome=Reply.DECIDED, body=b"body")])
    assert (await process.write()).body == b"body"
    assert len(process.forwarded) == 3
    least = config.DEADLINE_MARGIN_S * 1000
    assert all(request.remaining_ms <= 1000 - least for request in process.forwarded), "the leader ends first"


@pytest.mark.parametrize(
    ("reply", "failure"),
    [
        (Status(errors.UNAVAILABLE, "gone"), (*errors.TIMEOUT_CONNECTION_LOST, UNKNOWN_OUTCOME)),
        (Status(errors.DEADLINE_EXCEEDED, "late"), (*errors.TIMEOUT_CONNECTION_LOST, UNKNOWN_OUTCOME)),
        (
            Reply(outcome=Reply.UNKNOWN, code=errors.TIMEOUT[0], text=errors.TIMEOUT[1]),
            (*errors.TIMEOUT, UNKNOWN_OUTCOME),
        ),
        (
            Reply(outcome=Reply.NOT_DONE, code=errors.TOO_MANY_REQUESTS[0], text=errors.TOO_MANY_REQUESTS[1]),
            (*errors.TOO_MANY_REQUESTS, NOT_DONE_OUTCOME),
        ),
    ],
)
async def test_what_is_unknown_is_never_sent_again(
    autojump_clock: MockClock, reply: Reply | Status, failure: tuple[int, str, str | None]
) -> None:
    """Hazard 87: a blind retry is a duplicate."""
    process = Process(replies=[reply])
    assert await process.fail() == failure
    assert len(process.forwarded) == 1


async def test_without_a_leader_it_waits(autojump_clock: MockClock) -> None:
    process = Process(SoftState(Role.FOLLOWER, 1, None))
    assert await process.fail() == (*errors.NO_LEADER, NOT_DONE_OUTCOME)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def elect() -> None:
            await trio.sleep(0.5)
            process.soft_state = SoftState(Role.LEADER, 2, 1)
            process.answer = lambda submission: submission.done([DONE])
            process.soft_state_changed.set()

        assert await process.write() is DONE


@pytest.mark.parametrize(("is_withdrawn", "outcome"), [(True, NOT_DONE_OUTCOME), (False, UNKNOWN_OUTCOME)])
async def test_at_the_deadline_it_matters_whether_a_log_holds_it(
    autojump_clock: MockClock, is_withdrawn: bool, outcome: str
) -> None:
    process = leading()
    process.is_withdrawn = is_withdrawn
    assert await process.fail() == (*errors.TIMEOUT, outcome)


async def test_what_was_overwritten_goes_to_the_next_leader(autojump_clock: MockClock) -> None:
    process = leading()
    answers: list[Sequence[Result] | Refusal] = [Refusal.OVERWRITTEN, Refusal.NOT_LEADER, [DONE]]
    process.answer = lambda submission: submission.done(answers.pop(0))
    assert await process.write() is DONE
    assert not answers


async def test_an_overload_is_said_at_once(autojump_clock: MockClock) -> None:
    process = leading()
    process.answer = lambda submission: submission.done(Refusal.OVERLOADED)
    assert await process.fail() == (*errors.TOO_MANY_REQUESTS, NOT_DONE_OUTCOME)


async def test_a_deadline_that_has_passed_submits_nothing(autojump_clock: MockClock) -> None:
    """Hazard 92."""
    process = leading()
    process.answer = lambda submission: pytest.fail("submitted")
    assert await process.fail(-0.01) == (*errors.TIMEOUT, NOT_DONE_OUTCOME)
