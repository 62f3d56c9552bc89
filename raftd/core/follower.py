"""A follower: takes entries and heartbeats from the leader, and asks it for read indexes.

It never changes the role itself; `Raft` does, when `deadline` has passed.
"""

from raftd.core.messages import (
    AppendEntries,
    AppendEntriesReply,
    Heartbeat,
    HeartbeatReply,
    ReadIndexReply,
)
from raftd.core.reads import ForwardedReads
from raftd.core.replica import Replica


class Follower:
    """§5.2: "remains in follower state as long as it receives valid RPCs from a leader or candidate".

    Invariants: within a term the leader is set at most once; verified_index ≤ last_index.
    """

    __slots__ = (
        "_replica",
        "_timeout_ticks",
        "_verified_index",
        "deadline",
        "forwarded",
        "is_leader_stream_broken",
        "last_contact",
        "leader",
    )

    def __init__(
        self, replica: Replica, leader: int | None, deadline: int, forwarded: ForwardedReads
    ) -> None:
        self._replica = replica
        self._timeout_ticks = replica.election_timeout()
        self._verified_index = replica.log.commit_index
        """Up to here the log is known to equal the leader's."""
        self.leader = leader
        self.deadline = deadline
        """The tick at which this node seeks an election of its own."""
        self.last_contact = replica.now
        self.is_leader_stream_broken = False
        self.forwarded = forwarded

    # The leader, and the lack of one.

    def is_content(self) -> bool:
        """Whether this node has a leader that it believes in, and so supports nobody else (thesis §4.2.3,
        §9.6)."""
        if self.leader is None or self.is_leader_stream_broken:
            return False
        return self._replica.now - self.last_contact < self._replica.config.election_timeout_ticks

    def follow(self, leader: int) -> bool:
        """Word from a leader of this term. False when another one is known: then it is ignored."""
        if self.leader is None:
            self.leader = leader
        if self.leader != leader:
            self._replica.ignore("second leader in one term")
            return False
        self.last_contact = self._replica.now
        self.is_leader_stream_broken = False
        self.postpone_election()
        return True

    def postpone_election(self) -> None:
        """§5.2: contact with the leader, or a vote given, starts the wait anew."""
        self.deadline = self._replica.now + self._timeout_ticks

    def leader_stream_broken(self) -> None:
        """The leader may be dead: unless it is heard again very soon, ask for an election. Once for each
        break."""
        if self.is_leader_stream_broken:
            return
        self.is_leader_stream_broken = True
        shortest, longest = self._replica.config.fast_election_ticks
        wait = self._replica.random.randint(shortest, longest)
        self.deadline = min(self.deadline, self._replica.now + wait)

    # The log.

    def on_append_entries(self, sender: int, message: AppendEntries) -> None:
        """§5.3, the consistency check. Replies wait for the disk, refusals too: they keep their order."""
        log = self._replica.log
        prev_log_index, entries = message.prev_log_index, message.entries
        known = log.commit_index - prev_log_index
        if known >= 0:
            # What is committed cannot differ (§5.4), and may have left the window: compare from there on.
            if _contradicts(message, known, log.term_at(log.commit_index)):
                self._replica.ignore("append contradicts a committed entry")
                return
            prev_log_index, entries = log.commit_index, entries[known:]
        elif log.term_at(prev_log_index) != message.prev_log_term:
            self._refuse(sender, prev_log_index)
            return
        cut = log.merge(entries)
        if cut is not None:
            self._replica.entries_cut(cut)
            self._verified_index = min(self._verified_index, cut - 1)
        match_index = prev_log_index + len(entries)
        self._verified_index = max(self._verified_index, match_index)
        self._commit_to(min(message.leader_commit, match_index))
        reply = AppendEntriesReply(self._replica.term, True, match_index, 0, 0, 0)
        self._replica.send_after_write(sender, reply)

    def _refuse(self, sender: int, prev_log_index: int) -> None:
        """§5.3: name the first index of the conflicting term, so that one round trip skips the whole term."""
        log = self._replica.log
        if prev_log_index > log.last_index:
            conflict_index, conflict_term = log.last_index + 1, 0
        else:
            conflict_index = log.first_index_of_term_at(prev_log_index)
            conflict_term = log.term_at(conflict_index) or 0
        reply = AppendEntriesReply(
            self._replica.term, False, 0, prev_log_index, conflict_index, conflict_term
        )
        self._replica.send_after_write(sender, reply)

    def on_heartbeat(self, sender: int, message: Heartbeat) -> None:
        """A round of 0 only tells of a commit and asks for no answer."""
        if message.leader_commit > self._replica.log.last_index:
            # A correct leader only speaks of what this node has acknowledged; a lost tail must not crash it
            # (hazard 28), and what stands there now is not to be trusted either.
            self._replica.ignore("commit beyond the log")
        else:
            self._commit_to(message.leader_commit)
        if message.round:
            self._replica.send(sender, HeartbeatReply(self._replica.term, message.round))

    def _commit_to(self, index: int) -> None:
        if index > self._replica.log.commit_index:
            self._replica.log.commit_to(index)

    # Reads.

    def read_index(self, token: int) -> None:
        if self.leader is None or not self.forwarded.add(token):
            self._replica.finish_read(token, None)

    def on_read_index_reply(self, sender: int, message: ReadIndexReply) -> None:
        if sender != self.leader:
            self._replica.ignore("read index from another than the leader")
            return
        tokens = self.forwarded.answered(message.nonce)
        if not tokens:
            self._replica.ignore("stale read index")
            return
        if not message.refused:
            # The leader's commit index rides along: so far as this log is its log, it holds here too.
            self._commit_to(min(message.index, self._verified_index))
        for token in tokens:
            self._replica.finish_read(token, None if message.refused else message.index)

    def flush(self) -> None:
        """Send what has gathered since the last Ready."""
        if self.leader is None:
            return
        replica, config = self._replica, self._replica.config
        question = self.forwarded.ask(
            replica.term, replica.now, config.read_retry_ticks, config.election_timeout_ticks
        )
        if question is not None:
            replica.send(self.leader, question)

    def tick(self) -> None:
        replica = self._replica
        if self.leader is None:
            return
        for token in self.forwarded.expire(replica.now):
            replica.finish_read(token, None)
        for question in self.forwarded.retry(replica.term, replica.now, replica.config.read_retry_ticks):
            replica.send(self.leader, question)

    def next_due_tick(self) -> int:
        read_due = self.forwarded.next_due_tick()
        return self.deadline if read_due is None else min(self.deadline, read_due)

    def abandon_reads(self) -> None:
        """The leader is gone or another: nothing is known of what was asked."""
        for token in self.forwarded.abandon():
            self._replica.finish_read(token, None)


def _contradicts(message: AppendEntries, known: int, committed_term: int | None) -> bool:
    """Whether the append holds another entry where this node's last committed one stands, `known` after its
    previous one. No correct leader sends that."""
    if known == 0:
        return message.prev_log_term != committed_term
    return known <= len(message.entries) and message.entries[known - 1].term != committed_term
