"""`PendingOperations` and `Numbering` against the model of the replicated sessions, under random misfortune.

Streams break with sendings under way that execute much later or never, answers are lost, doubled and
reordered, nodes refuse, sessions are forgotten, callers give up. Whatever happens (hazards 82, 87):

- no request is executed twice;
- a caller who was told "done" is right, and one who was told "not done" stays right for ever;
- every caller is told exactly once;
- a write of unknown outcome executes before every write that was started with a `first_outstanding` above its
  number, or never.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from clientctl.config import PipelineLimits
from clientctl.numbering import Numbering
from clientctl.pending import Finish, PendingCommand, PendingOperations
from proto import errors
from proto.session_pb2 import Command, Reply, Result
from tests.clientctl.model import Cluster, StoredSession, Upstream

SESSION = 7


class Write:
    """One caller's write, and what it was told."""

    def __init__(self, number: int, request: bytes, first_outstanding: int) -> None:
        self.number = number
        self.request = request
        # The session's when this write was started.
        self.first_outstanding = first_outstanding
        self.told: list[Result] = []
        self.settled = False
        self.withdrawn = False
        self.operation: PendingCommand
        self.finish: Finish


class ExactlyOnce(RuleBasedStateMachine):
    upstreams = Bundle("upstreams")

    def __init__(self) -> None:
        super().__init__()
        self.cluster = Cluster(sessions={SESSION: StoredSession()})
        self.pending = PendingOperations(PipelineLimits(message_bytes_max=100), lambda: 1.0)
        self.numbering = Numbering()
        self.now = 0.0
        self.current: Upstream | None = None
        self.results: list[Result] = []
        self.writes: list[Write] = []
        self.all_upstreams: list[Upstream] = []

    # Callers

    @rule(timeout=st.sampled_from([0.5, 1.0, 10.0]))
    def start(self, timeout: float) -> None:
        number = self.numbering.take()
        first = self.numbering.first_outstanding
        write = Write(number, b"write %d" % number, first)
        self.writes.append(write)

        def finish(result: Result) -> None:
            write.told.append(Result.FromString(result.SerializeToString()))
            self.settle(write)

        command = Command(sequence=number, kind=Command.PUT, request=write.request)
        write.operation = self.pending.add_command(SESSION, first, command, self.now + timeout, finish)
        write.finish = finish

    @precondition(lambda self: any(self.waiting_writes()))
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        write = data.draw(st.sampled_from(self.waiting_writes()))
        write.withdrawn = True
        self.pending.withdraw(write.operation, write.finish)
        self.settle(write)

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.6]))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.pending.expire(self.now)

    def settle(self, write: Write) -> None:
        self.numbering.settle(write.number)
        write.settled = True

    def waiting_writes(self) -> list[Write]:
        return [write for write in self.writes if not write.settled]

    # The network

    @precondition(lambda self: self.current is None)
    @rule(target=upstreams)
    def connect(self) -> Upstream:
        self.current = Upstream(self.cluster)
        self.all_upstreams.append(self.current)
        self.send()
        return self.current

    @precondition(lambda self: self.current is not None)
    @rule()
    def send(self) -> None:
        assert self.current is not None
        request = self.pending.next_request(self.now)
        if request is not None:
            self.current.send(request)

    @precondition(lambda self: self.current is not None)
    @rule(in_words=st.booleans())
    def lose_upstream(self, in_words: bool) -> None:
        if in_words:
            reply = Reply()
            reply.not_leader.leader = 3
            assert self.pending.receive(reply, self.now).not_leader is not None
        self.pending.upstream_lost()
        self.current = None
        self.results.clear()

    @rule(data=st.data(), upstream=upstreams)
    def execute(self, data: st.DataObject, upstream: Upstream) -> None:
        """Also on a broken stream: entries of a deposed leader may commit later."""
        if upstream.waiting:
            position = data.draw(st.integers(0, len(upstream.waiting) - 1))
            result = upstream.execute(position)
            if upstream is self.current:
                self.results.append(Result.FromString(result.SerializeToString()))

    @rule(upstream=consumes(upstreams))
    def lose_what_was_sent(self, upstream: Upstream) -> None:
        upstream.waiting.clear()

    @precondition(lambda self: self.current is not None and self.current.waiting)
    @rule(data=st.data(), code=st.sampled_from([errors.UNAVAILABLE, errors.RESOURCE_EXHAUSTED]))
    def refuse(self, data: st.DataObject, code: int) -> None:
        assert self.current is not None
        position = data.draw(st.integers(0, len(self.current.waiting) - 1))
        batch, command = self.current.waiting.pop(position)
        refusal = Result(session=batch.session, sequence=command.sequence, code=code)
        refusal.outcome = Result.NOT_DONE
        self.results.append(refusal)

    @precondition(lambda self: self.results)
    @rule(data=st.data(), keep=st.booleans())
    def deliver(self, data: st.DataObject, keep: bool) -> None:
        """An answer arrives, perhaps not for the last time. A refusal speaks of one sending, and comes
        once."""
        position = data.draw(st.integers(0, len(self.results) - 1))
        result = self.results[position]
        if not keep or result.outcome == Result.NOT_DONE:
            self.results.pop(position)
        self.pending.receive(Reply(results=[Result.FromString(result.SerializeToString())]), self.now)

    @precondition(lambda self: self.cluster.executed)
    @rule(chance=st.integers(0, 9))
    def session_expires(self, chance: int) -> None:
        if chance == 0:
            self.cluster.sessions.pop(SESSION, None)

    # What must hold

    @invariant()
    def nothing_is_executed_twice(self) -> None:
        assert len(self.cluster.executed) == len(set(self.cluster.executed))

    @invariant()
    def everybody_was_told_the_truth_once(self) -> None:
        executed = set(self.cluster.executed)
        for write in self.writes:
            assert len(write.told) == (0 if write.withdrawn or not write.settled else 1)
            for result in write.told:
                assert result.sequence == write.number
                if result.outcome == Result.DECIDED:
                    assert write.request in executed
                elif result.outcome in (Result.NOT_DONE, Result.SESSION_EXPIRED):
                    assert write.request not in executed

    @invariant()
    def what_was_given_up_comes_first_or_never(self) -> None:
        places = {request: place for place, request in enumerate(self.cluster.executed)}
        executed = [write for write in self.writes if write.request in places]
        for late in executed:
            for early in executed:
                if early.number < late.first_outstanding:
                    assert places[early.request] < places[late.request]

    @invariant()
    def bounds_are_counted_right(self) -> None:
        assert len(self.pending) == len(self.waiting_writes())
        assert self.pending.size == sum(write.operation.size for write in self.waiting_writes())

    def teardown(self) -> None:
        """When the faults end, every write that still waits is answered; what lingers changes nothing
        then."""
        if self.current is not None:
            self.lose_upstream(False)
        self.now = max(self.now, self.pending.paused_until)
        upstream = Upstream(self.cluster)
        while (request := self.pending.next_request(self.now)) is not None:
            upstream.send(request)
            while upstream.waiting:
                self.pending.receive(Reply(results=[upstream.execute(0)]), self.now)
        assert len(self.pending) == 0
        for lingering in self.all_upstreams:
            while lingering.waiting:
                lingering.execute(0)
        self.nothing_is_executed_twice()
        self.everybody_was_told_the_truth_once()
        self.what_was_given_up_comes_first_or_never()


TestExactlyOnce = ExactlyOnce.TestCase
TestExactlyOnce.settings = settings(max_examples=400, stateful_step_count=50, deadline=None)
