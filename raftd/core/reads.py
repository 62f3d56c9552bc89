"""ReadIndex (thesis §6.4): linearizable reads without a log entry, on the leader and through it on followers.

A read is safe at index i when i was the leader's commit index at a moment after the read arrived, and the
leader was still the leader at a later moment. A round of heartbeats proves the latter. **A read joins
only a round that begins after the read arrived**, here and at the follower: a round under way may have
fixed its index before a write that the reader has already seen acknowledged.

Neither class sends anything; `Leader` and `Follower` do.
"""

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass

from raftd.core.messages import ReadIndex


@dataclass(frozen=True, slots=True)
class ReadRequest:
    """`follower` is None for a read of this node; `token` is the node's token or the follower's nonce."""

    follower: int | None
    token: int
    arrival_tick: int


@dataclass(slots=True)
class _Round:
    number: int
    index: int
    requests: list[ReadRequest]


class ReadRounds:
    """The leader's side. Round numbers grow within a term and no node leads a term twice, so that (term,
    round) never returns and a late reply can confirm nothing new (hazard 37)."""

    __slots__ = ("_max_pending", "_max_rounds", "_pending", "_running", "_waiting", "last_round")

    def __init__(self, max_pending: int, max_rounds: int) -> None:
        self._max_pending = max_pending
        self._max_rounds = max_rounds
        self._pending = 0
        self._waiting: list[ReadRequest] = []
        self._running: deque[_Round] = deque()
        self.last_round = 0

    @property
    def is_running(self) -> bool:
        return bool(self._running)

    def add(self, request: ReadRequest) -> bool:
        """False when too many wait already."""
        if self._pending >= self._max_pending:
            return False
        self._pending += 1
        self._waiting.append(request)
        return True

    def can_begin(self) -> bool:
        return bool(self._waiting) and len(self._running) < self._max_rounds

    def begin(self, commit_index: int | None) -> int:
        """The number of a new round. Waiting reads join it at `commit_index`, unless that is None: then the
        leader may not serve reads yet."""
        self.last_round += 1
        if commit_index is not None and self.can_begin():
            self._running.append(_Round(self.last_round, commit_index, self._waiting))
            self._waiting = []
        return self.last_round

    def confirm(self, number: int) -> list[tuple[ReadRequest, int]]:
        """A majority has answered round `number`, hence also every earlier one: the reads that are now safe,
        each with its index."""
        safe = []
        while self._running and self._running[0].number <= number:
            done = self._running.popleft()
            self._pending -= len(done.requests)
            safe += [(request, done.index) for request in done.requests]
        return safe

    def expire(self, oldest_tick: int) -> list[ReadRequest]:
        """Those that arrived before `oldest_tick` and are still not safe: nobody waits for them any more."""
        late: list[ReadRequest] = []
        while self._running and self._running[0].requests[-1].arrival_tick < oldest_tick:
            late += self._running.popleft().requests
        fresh = bisect_left(self._waiting, oldest_tick, key=lambda request: request.arrival_tick)
        late += self._waiting[:fresh]
        del self._waiting[:fresh]
        self._pending -= len(late)
        return late

    def abandon(self) -> list[ReadRequest]:
        """All that were not served."""
        lost = [request for done in self._running for request in done.requests] + self._waiting
        self._running.clear()
        self._waiting = []
        self._pending = 0
        return lost


@dataclass(slots=True)
class _Question:
    """`nonces` are all those it was asked under: the answer to any of them is one to a moment after it
    arose."""

    tokens: list[int]
    nonces: list[int]
    retry_tick: int
    expiry_tick: int


class ForwardedReads:
    """The follower's side: reads that wait, and questions to the leader that are out.

    `first_nonce` is random, for a node that restarts within a term must not take an answer to its former self
    for its own.
    """

    __slots__ = ("_max_pending", "_max_rounds", "_next_nonce", "_out", "_pending", "_questions", "_waiting")

    def __init__(self, max_pending: int, max_rounds: int, first_nonce: int) -> None:
        self._max_pending = max_pending
        self._max_rounds = max_rounds
        self._pending = 0
        self._next_nonce = first_nonce
        self._waiting: list[int] = []
        self._questions: dict[int, _Question] = {}
        """By nonce."""
        self._out: list[_Question] = []

    def add(self, token: int) -> bool:
        """False when too many wait already."""
        if self._pending >= self._max_pending:
            return False
        self._pending += 1
        self._waiting.append(token)
        return True

    def ask(self, term: int, now: int, retry_ticks: int, expiry_ticks: int) -> ReadIndex | None:
        """A question for all that wait, if there are any and not too many questions are out."""
        if not self._waiting or len(self._out) >= self._max_rounds:
            return None
        question = _Question(self._waiting, [], now + retry_ticks, now + expiry_ticks)
        self._waiting = []
        self._out.append(question)
        return ReadIndex(term, self._put(question))

    def answered(self, nonce: int) -> list[int]:
        """The tokens of that question; none when it is not out (any more)."""
        question = self._questions.get(nonce)
        if question is None:
            return []
        for asked_under in question.nonces:
            del self._questions[asked_under]
        self._out.remove(question)
        self._pending -= len(question.tokens)
        return question.tokens

    def next_due_tick(self) -> int | None:
        return min((min(q.retry_tick, q.expiry_tick) for q in self._out), default=None)

    def expire(self, now: int) -> list[int]:
        """The tokens of questions that were out for too long."""
        late = [question.nonces[0] for question in self._out if question.expiry_tick <= now]
        return [token for nonce in late for token in self.answered(nonce)]

    def retry(self, term: int, now: int, retry_ticks: int) -> list[ReadIndex]:
        """Questions to repeat, each under a nonce of its own: the first may have been lost. Its answer
        may also just take longer than `retry_ticks`, and is as good then: dropping it would starve the
        read for ever."""
        repeated = []
        for question in self._out:
            if question.retry_tick <= now:
                question.retry_tick = now + retry_ticks
                repeated.append(ReadIndex(term, self._put(question)))
        return repeated

    def abandon(self) -> list[int]:
        """All tokens that were not answered."""
        lost = [token for question in self._out for token in question.tokens] + self._waiting
        self._questions.clear()
        self._out.clear()
        self._waiting = []
        self._pending = 0
        return lost

    def _put(self, question: _Question) -> int:
        nonce = self._next_nonce
        self._next_nonce += 1
        self._questions[nonce] = question
        question.nonces.append(nonce)
        return nonce
