"""Commands on their way through the log: gathered into entries, and resolved when the entries are applied.

One log entry carries every command that gathered since the last turn (group commit), up to a bound. A
command that is refused here is *surely not done*; one that stands in the log is decided only by what gets
applied at its index: the same entry (its result), or another one (then it never happens: two logs that
agree at that index agree on all before it, §5.3). Called by `raftd.node` alone, on the Trio thread.
"""

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import trio

from proto import errors
from raftd import config
from raftd.core.messages import Entry
from raftd.core.proposal import NotLeader, Overloaded
from raftd.core.raft import Raft
from raftd.core.ready import Role
from raftd.kv.command import Result, encode_payload


class Refusal(Enum):
    """Why a command was surely not done."""

    NOT_LEADER = "not leader"
    OVERLOADED = "overloaded"
    OVERWRITTEN = "overwritten"


@dataclass(slots=True, eq=False)
class Submission:
    """Encoded commands that end together: `done` gets one result per command, in order, or the refusal of
    all. More than one command must fit into an entry (`config.MAX_ENTRY_…`): an entry is never larger than
    one command must be, or no link would carry it (hazard 90).
    """

    commands: Sequence[bytes]
    size_bytes: int
    done: Callable[[Sequence[Result] | Refusal], None]


class Proposals:
    """Invariant: every submission is in exactly one of `_waiting` and `_in_log` until its `done` is called,
    once, or it is withdrawn.

    `_in_log` holds by index the terms under which this node proposed something there: it may have lost its
    own entry, led again and proposed another one at that index, with neither of them decided yet.
    """

    def __init__(self) -> None:
        self._waiting: deque[Submission] = deque()
        self._in_log: defaultdict[int, dict[int, list[Submission]]] = defaultdict(dict)
        self._commands = 0
        self._bytes = 0

    def __len__(self) -> int:
        return self._commands

    def add(self, submission: Submission) -> None:
        """Takes it for the next entry, or refuses it at once when too much is pending (hazard 95)."""
        assert len(submission.commands) == 1 or (
            len(submission.commands) <= config.MAX_ENTRY_COMMANDS
            and submission.size_bytes <= config.MAX_ENTRY_BYTES
        ), f"{len(submission.commands)} commands of {submission.size_bytes} bytes do not fit into an entry"
        if (
            self._commands + len(submission.commands) > config.MAX_PENDING_COMMANDS
            or self._bytes + submission.size_bytes > config.MAX_PENDING_BYTES
        ):
            submission.done(Refusal.OVERLOADED)
            return
        self._commands += len(submission.commands)
        self._bytes += submission.size_bytes
        self._waiting.append(submission)

    def withdraw(self, submission: Submission) -> bool:
        """For a caller whose time is over (hazard 92). True: it was not proposed, never will be, and its
        `done` is never called. False: it stands in a log, or has ended.
        """
        if submission not in self._waiting:
            return False
        self._waiting.remove(submission)
        self._forget(submission)
        return True

    def propose(self, raft: Raft, cluster_time_ms: int) -> None:
        """Hands what gathered to Raft, as few entries as the bounds allow; keeps it when Raft has too much
        under way.
        """
        while self._waiting:
            group, commands = self._next_group()
            proposed = raft.propose(encode_payload(cluster_time_ms, commands))
            if isinstance(proposed, Overloaded) or (
                isinstance(proposed, NotLeader) and raft.role is Role.LEADER
            ):
                return  # too much under way, or leadership is being handed over: both end soon
            for _ in group:
                self._waiting.popleft()
            if isinstance(proposed, NotLeader):
                self._end(group, Refusal.NOT_LEADER)
            else:
                self._in_log[proposed.index][proposed.term] = group

    def applied(self, entry: Entry, results: Sequence[Result]) -> None:
        """Resolves what stood at this entry's index: with its results, or as overwritten by another entry."""
        pending = self._in_log.pop(entry.index, {})
        decided = pending.pop(entry.term, None)
        for overwritten in pending.values():
            self._end(overwritten, Refusal.OVERWRITTEN)
        if decided is not None:
            self._resolve(decided, entry, results)

    def _resolve(self, group: Sequence[Submission], entry: Entry, results: Sequence[Result]) -> None:
        position = 0
        for submission in group:
            count = len(submission.commands)
            self._forget(submission)
            submission.done(results[position : position + count])
            position += count
        assert position == len(results), (
            f"entry {entry.index} gave {len(results)} results for {position} commands"
        )

    def _next_group(self) -> tuple[list[Submission], list[bytes]]:
        group: list[Submission] = []
        commands: list[bytes] = []
        size_bytes = 0
        for submission in self._waiting:
            full = (
                size_bytes + submission.size_bytes > config.MAX_ENTRY_BYTES
                or len(commands) + len(submission.commands) > config.MAX_ENTRY_COMMANDS
            )
            if group and full:
                break
            group.append(submission)
            commands += submission.commands
            size_bytes += submission.size_bytes
        return group, commands

    def _end(self, group: Sequence[Submission], refusal: Refusal) -> None:
        for submission in group:
            self._forget(submission)
            submission.done(refusal)

    def _forget(self, submission: Submission) -> None:
        self._commands -= len(submission.commands)
        self._bytes -= submission.size_bytes


class Proposer(Protocol):
    """The node."""

    def submit(self, submission: Submission) -> None: ...

    def withdraw(self, submission: Submission) -> bool: ...


async def execute(proposer: Proposer, command: bytes) -> Result | Refusal:
    """What one command came to, for a task that waits as long as it takes."""
    ended = trio.Event()
    answers: list[Sequence[Result] | Refusal] = []

    def done(answer: Sequence[Result] | Refusal) -> None:
        answers.append(answer)
        ended.set()

    submission = Submission((command,), len(command), done)
    proposer.submit(submission)
    try:
        await ended.wait()
    finally:
        if not answers:
            proposer.withdraw(submission)
    return answers[0] if isinstance(answers[0], Refusal) else answers[0][0]


def refusal_status(refusal: Refusal) -> errors.Status:
    """What a client is told: in each case the command is surely not done."""
    code_and_text = {
        Refusal.NOT_LEADER: errors.LEADER_CHANGED,
        Refusal.OVERLOADED: errors.TOO_MANY_REQUESTS,
        Refusal.OVERWRITTEN: errors.LEADER_CHANGED,
    }[refusal]
    return errors.Status(*code_and_text, outcome="not-done")
