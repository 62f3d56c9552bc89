"""Broken variants of the core: each brings back one bug that a Raft has really had. The simulation must
catch them all.

A mutant is the real core with one method replaced. `seeds_max` is how many histories it may survive. The
numbers are those of the hazards.
"""

from collections.abc import Mapping, Sequence
from random import Random
from typing import Any, ClassVar

from raftd.core.candidate import Candidate
from raftd.core.config import RaftConfig
from raftd.core.follower import Follower
from raftd.core.leader import Leader
from raftd.core.log import Log
from raftd.core.messages import Entry, HardState, HeartbeatReply, Message, RequestVote, RequestVoteReply
from raftd.core.progress import Progress
from raftd.core.quorum import reached_by_majority
from raftd.core.raft import Raft
from raftd.core.ready import Ready
from raftd.core.replica import Replica


class Mutant(Raft):
    """The real core, into which a subclass puts broken parts."""

    seeds_max: ClassVar[int] = 60
    focus: ClassVar[Mapping[str, Any]] = {}
    """What its histories must have for the bug to show often."""
    leader_class: ClassVar[type[Leader]] = Leader
    follower_class: ClassVar[type[Follower]] = Follower
    replica_class: ClassVar[type[Replica]] = Replica
    log_class: ClassVar[type[Log]] = Log
    progress_class: ClassVar[type[Progress]] = Progress

    def __init__(
        self,
        config: RaftConfig,
        random: Random,
        hard_state: HardState,
        base_index: int,
        base_term: int,
        entries: Sequence[Entry],
        applied_index: int,
    ) -> None:
        super().__init__(config, random, hard_state, base_index, base_term, entries, applied_index)
        self._replica.__class__ = self.replica_class
        self._replica.log.__class__ = self.log_class
        self._role.__class__ = self.follower_class

    def _become_follower(self, term: int, leader: int | None, wait_ticks: int | None = None) -> None:
        super()._become_follower(term, leader, wait_ticks)
        self._role.__class__ = self.follower_class

    def _become_leader(self) -> None:
        super()._become_leader()
        assert isinstance(self._role, Leader)
        self._role.__class__ = self.leader_class
        for progress in self._role.progress.values():
            progress.__class__ = self.progress_class


class _CountsPriorTerms(Leader):
    __slots__ = ()

    def advance_commit(self) -> None:
        matched = [progress.match_index for progress in self.progress.values()]
        index = reached_by_majority([*matched, self._replica.log.durable_index])
        if index > self._replica.log.commit_index:
            self._replica.log.commit_to(index)


class CommitsPriorTermsByCounting(Mutant):
    """Hazard 20, Figure 8."""

    seeds_max = 150
    leader_class = _CountsPriorTerms


class _CountsOwnMemory(Leader):
    __slots__ = ()

    def advance_commit(self) -> None:
        matched = [progress.match_index for progress in self.progress.values()]
        index = reached_by_majority([*matched, self._replica.log.last_index])
        if index > self._replica.log.commit_index and index >= self._first_index:
            self._replica.log.commit_to(index)


class CommitsBeforeItsOwnSync(Mutant):
    """Hazard 32: the leader counts itself before its disk has the entry."""

    leader_class = _CountsOwnMemory


class DoesNotPersistItsVote(Mutant):
    """Hazard 2."""

    def ready(self) -> Ready:
        ready = super().ready()
        if ready.hard_state is not None:
            ready.hard_state = HardState(ready.hard_state.term, None)
        return ready


class _DoesNotWait(Replica):
    __slots__ = ()

    def send_after_write(self, to: int, message: Message) -> None:
        self.send(to, message)


class RepliesBeforeItsWrite(Mutant):
    """Hazard 4."""

    replica_class = _DoesNotWait


class VotesTwiceInATerm(Mutant):
    """Hazard 5."""

    seeds_max = 150

    def _on_request_vote(self, sender: int, message: RequestVote) -> None:
        replica = self._replica
        granted = replica.log.is_up_to_date(message.last_log_index, message.last_log_term)
        if granted and isinstance(self._role, Follower):
            replica.hard_state = HardState(replica.term, sender)
        replica.send_after_write(sender, RequestVoteReply(replica.term, granted, False))


class ForgetsItsVoteWhenItStepsDown(Mutant):
    """Hazard 3: within the term."""

    seeds_max = 150

    def _become_follower(self, term: int, leader: int | None, wait_ticks: int | None = None) -> None:
        super()._become_follower(term, leader, wait_ticks)
        self._replica.hard_state = HardState(self._replica.term, None)


class _TrustsAnyLog(Log):
    __slots__ = ()

    def is_up_to_date(self, last_log_index: int, last_log_term: int) -> bool:
        return True


class VotesForAStaleLog(Mutant):
    """§5.4.1."""

    seeds_max = 150
    log_class = _TrustsAnyLog


class WinsByAMinority(Mutant):
    """Election Safety: one vote beside its own suffices, whatever the size of the cluster."""

    seeds_max = 150

    def _on_request_vote_reply(self, candidate: Candidate, sender: int, message: RequestVoteReply) -> None:
        if message.granted:
            for peer in self._replica.peers:
                candidate.on_granted(peer)
        super()._on_request_vote_reply(candidate, sender, message)


class _ServesAtOnce(Leader):
    __slots__ = ()

    def read_index(self, token: int) -> None:
        self._replica.finish_read(token, self._replica.log.commit_index)


class ServesReadsWithoutARound(Mutant):
    """Hazard 38: a leader that was replaced answers from its own state."""

    seeds_max = 150
    leader_class = _ServesAtOnce


class _ServesBeforeNoop(Leader):
    __slots__ = ()

    def _has_committed_in_term(self) -> bool:
        return True


class ServesReadsBeforeItsNoop(Mutant):
    """Hazard 36."""

    seeds_max = 150
    leader_class = _ServesBeforeNoop


class _TakesAnyRound(Leader):
    __slots__ = ()

    def on_heartbeat_reply(self, sender: int, message: HeartbeatReply) -> None:
        super().on_heartbeat_reply(sender, HeartbeatReply(message.term, self._rounds.last_round))


class TakesALateAnswerForTheNewestRound(Mutant):
    """Hazard 37: it takes an answer from before the leader was replaced, and a read in just that moment."""

    seeds_max = 500
    focus: ClassVar[Mapping[str, Any]] = {
        "faults": ("depose leader",),
        "election_timeout_ticks": 60,
        "heartbeat_ticks": 6,
        "fault_gap": 9000,
        "repair_after": 12000,
        "stragglers": 0.2,
        "ordered_links": False,
        "cut_hits_under_way": False,
        "read_share": 0.5,
        "client_gap": 80,
    }
    leader_class = _TakesAnyRound


class _AnswersItself(Follower):
    __slots__ = ()

    def read_index(self, token: int) -> None:
        self._replica.finish_read(token, self._replica.log.commit_index)


class FollowerReadsWithoutAsking(Mutant):
    follower_class = _AnswersItself


class _TakesLastWord(Progress):
    __slots__ = ()

    def acknowledge(self, match_index: int, now: int) -> bool:
        self.match_index = match_index
        return super().acknowledge(match_index, now)


class MatchIndexMovesBack(Mutant):
    """Hazard 21: on reordered replies."""

    progress_class = _TakesLastWord


class _MatchesByHeartbeat(Leader):
    __slots__ = ()

    def on_heartbeat_reply(self, sender: int, message: HeartbeatReply) -> None:
        super().on_heartbeat_reply(sender, message)
        self.progress[sender].acknowledge(self._replica.log.last_index, self._replica.now)
        self.advance_commit()


class TakesAHeartbeatReplyForAMatch(Mutant):
    """Hazard 23."""

    leader_class = _MatchesByHeartbeat


class _AlwaysCuts(Log):
    __slots__ = ()

    def merge(self, entries: Sequence[Entry]) -> int | None:
        if not entries:
            return None
        first_index = entries[0].index
        cut = first_index if first_index <= self.last_index else None
        if cut is not None:
            self._truncate_from(cut)
        self.append(entries)
        return cut


class CutsItsLogOnAStaleAppend(Mutant):
    """Hazard 26: what a duplicate does not carry is lost, though it was acknowledged."""

    log_class = _AlwaysCuts


class _CommitsUnverified(Follower):
    __slots__ = ()

    def _commit_to(self, index: int) -> None:
        super()._commit_to(self._replica.log.last_index if index else 0)


class FollowerCommitsItsWholeLog(Mutant):
    """Hazard 22: past the last entry known to be the leader's."""

    follower_class = _CommitsUnverified


class TrustsItsLogAfterARestart(Mutant):
    """Hazard 39: takes all that is on its disk for committed."""

    seeds_max = 150

    def __init__(
        self,
        config: RaftConfig,
        random: Random,
        hard_state: HardState,
        base_index: int,
        base_term: int,
        entries: Sequence[Entry],
        applied_index: int,
    ) -> None:
        super().__init__(config, random, hard_state, base_index, base_term, entries, applied_index)
        self._replica.log.commit_to(self._replica.log.last_index)


class _NeverAsksAgain(Leader):
    __slots__ = ()

    def _probe_stalled(self) -> None:
        pass

    def stream_restored(self, peer: int) -> None:
        pass


class NeverRepeatsALostAppend(Mutant):
    """Liveness: one lost message and the follower is forgotten."""

    seeds_max = 150
    leader_class = _NeverAsksAgain


MUTANTS: tuple[type[Mutant], ...] = (
    CommitsPriorTermsByCounting,
    CommitsBeforeItsOwnSync,
    DoesNotPersistItsVote,
    RepliesBeforeItsWrite,
    VotesTwiceInATerm,
    ForgetsItsVoteWhenItStepsDown,
    VotesForAStaleLog,
    WinsByAMinority,
    ServesReadsWithoutARound,
    ServesReadsBeforeItsNoop,
    TakesALateAnswerForTheNewestRound,
    FollowerReadsWithoutAsking,
    MatchIndexMovesBack,
    TakesAHeartbeatReplyForAMatch,
    CutsItsLogOnAStaleAppend,
    FollowerCommitsItsWholeLog,
    TrustsItsLogAfterARestart,
    NeverRepeatsALostAppend,
)
