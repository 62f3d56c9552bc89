"""A leader: appends, replicates, commits, confirms reads, hands over, and knows when to give up.

It never changes the role itself: `tick` says why the leader must step down, and `Raft` does it.
"""

from dataclasses import dataclass

from raftd.core.log import entry_bytes
from raftd.core.messages import (
    AppendEntries,
    AppendEntriesReply,
    Entry,
    EntryKind,
    Heartbeat,
    HeartbeatReply,
    ReadIndex,
    ReadIndexReply,
    TimeoutNow,
)
from raftd.core.progress import Progress, ProgressState
from raftd.core.proposal import NotLeader, Overloaded, Proposed
from raftd.core.quorum import majority, reached_by_majority
from raftd.core.reads import ReadRequest, ReadRounds
from raftd.core.ready import LogRead
from raftd.core.replica import Replica


@dataclass(slots=True)
class _Transfer:
    """Thesis §3.10: proposals rest, the successor is brought up to date and then told to campaign."""

    to: int
    deadline: int
    is_told: bool = False


class Leader:
    """Invariants: it never cuts its own log (§5.3); every entry it appends carries its own term (hazard
    7); it commits by counting only entries of its own term (§5.4.2); no read is served before its first
    entry is committed (hazard 36)."""

    __slots__ = (
        "_first_index",
        "_heartbeat_tick",
        "_replica",
        "_rounds",
        "_term",
        "progress",
        "transfer",
    )

    def __init__(self, replica: Replica) -> None:
        config = replica.config
        self._replica = replica
        self._term = replica.term
        self._rounds = ReadRounds(config.max_pending_reads, config.max_read_rounds)
        self.transfer: _Transfer | None = None
        next_index = replica.log.last_index + 1
        self.progress = {
            peer: Progress(next_index, config.max_inflight_appends, config.max_inflight_bytes, replica.now)
            for peer in replica.peers
        }
        # §8 and thesis §6.4: a no-op, so that entries of earlier terms commit and the commit index is known.
        self._first_index = replica.log.append_new(self._term, EntryKind.NOOP, b"").index
        self._heartbeat_tick = 0
        self._broadcast_heartbeat()

    # Proposals.

    def propose(self, payload: bytes, kind: EntryKind) -> Proposed | NotLeader | Overloaded:
        if self.transfer is not None:
            return NotLeader(None, self._term)
        log = self._replica.log
        if (
            log.waiting_bytes
            and log.waiting_bytes + len(payload) > self._replica.config.max_uncommitted_bytes
        ):
            return Overloaded(log.waiting_bytes)
        assert self._term == self._replica.term, f"leader of {self._term} in term {self._replica.term}"
        entry = log.append_new(self._term, kind, payload)
        return Proposed(entry.index, entry.term)

    # Replication (§5.3).

    def flush(self) -> None:
        """Send what has become due since the last Ready: entries, a round for the reads that wait,
        commits."""
        for peer, progress in self.progress.items():
            while progress.may_send(self._replica.log.last_index):
                self._append_to(peer, progress)
        self._hand_over()
        if self._has_committed_in_term() and self._rounds.can_begin():
            self._broadcast_heartbeat()
        for peer, progress in self.progress.items():
            if min(self._replica.log.commit_index, progress.match_index) > progress.commit_sent:
                self._send_heartbeat(peer, progress, 0)

    def _append_to(self, peer: int, progress: Progress) -> None:
        log, config = self._replica.log, self._replica.config
        prev_log_term = log.term_at(progress.next_index - 1)
        if prev_log_term is None:
            # Only applied entries leave the window, so what is loaded up to here is what was committed.
            progress.log_read_limit = log.base_index
            self._replica.log_reads.append(LogRead(peer, progress.next_index, config.max_append_bytes))
            return
        entries = log.slice(progress.next_index, log.last_index, config.max_append_bytes)
        self._send_append(peer, progress, prev_log_term, entries)

    def _send_append(
        self, peer: int, progress: Progress, prev_log_term: int, entries: tuple[Entry, ...]
    ) -> None:
        prev_log_index = progress.next_index - 1
        last_index = prev_log_index + len(entries)
        commit_index = self._replica.log.commit_index
        append = AppendEntries(self._term, prev_log_index, prev_log_term, commit_index, entries)
        self._replica.send(peer, append)
        progress.sent(last_index, sum(map(entry_bytes, entries)), self._replica.now)
        if progress.state is ProgressState.REPLICATE:
            progress.commit_sent = max(progress.commit_sent, min(commit_index, last_index))

    def log_loaded(self, follower: int, prev_term: int, entries: list[Entry]) -> None:
        """Entries that the window no longer holds; dropped if the follower's position has moved meanwhile."""
        progress = self.progress[follower]
        limit, progress.log_read_limit = progress.log_read_limit, None
        if limit is None or entries[0].index != progress.next_index:
            return
        committed = tuple(entry for entry in entries if entry.index <= limit)
        if committed and progress.has_room():
            self._send_append(follower, progress, prev_term, committed)

    def on_append_entries_reply(self, sender: int, message: AppendEntriesReply) -> None:
        log, now, progress = self._replica.log, self._replica.now, self.progress[sender]
        if message.match_index > log.last_index:
            self._replica.ignore("acknowledgement beyond the log")
            return
        progress.last_contact = now
        if message.success:
            if progress.acknowledge(message.match_index, now):
                self.advance_commit()
        elif progress.is_current_rejection(message.rejected_index):
            progress.probe_from(max(self._next_probe(message), progress.match_index + 1))
        else:
            self._replica.ignore("stale rejection")

    def _next_probe(self, message: AppendEntriesReply) -> int:
        """§5.3: step over the whole conflicting term; always below the rejected place, so that it ends."""
        next_index = message.conflict_index
        if message.conflict_term:
            own_last = self._replica.log.last_index_of_term(message.conflict_term)
            if own_last is not None:
                next_index = own_last + 1
        return min(next_index, message.rejected_index)

    def stream_restored(self, peer: int) -> None:
        """What was in flight on the old stream may be lost: ask at once where the follower stands."""
        self.progress[peer].probe_again()

    def _probe_stalled(self) -> None:
        """Ask again, without entries: a follower that is merely slow is not burdened with them twice."""
        retry_ticks = self._replica.config.append_retry_ticks
        for peer, progress in self.progress.items():
            if not progress.is_stalled(self._replica.now, retry_ticks):
                continue
            progress.probe_again()
            prev_log_term = self._replica.log.term_at(progress.next_index - 1)
            if prev_log_term is not None:
                self._send_append(peer, progress, prev_log_term, ())

    # Commitment (§5.3, §5.4.2).

    def advance_commit(self) -> None:
        """After a follower's or the own disk's progress. The leader counts itself only up to its own disk."""
        log = self._replica.log
        matched = [progress.match_index for progress in self.progress.values()]
        matched.append(log.durable_index)
        index = reached_by_majority(matched)
        # §5.4.2: "only log entries from the leader's current term are committed by counting replicas".
        if index > log.commit_index and index >= self._first_index:
            log.commit_to(index)

    def _has_committed_in_term(self) -> bool:
        return self._replica.log.commit_index >= self._first_index

    # Heartbeats and reads (thesis §6.4).

    def _broadcast_heartbeat(self) -> None:
        commit_index = self._replica.log.commit_index if self._has_committed_in_term() else None
        number = self._rounds.begin(commit_index)
        self._heartbeat_tick = self._replica.now + self._replica.config.heartbeat_ticks
        for peer, progress in self.progress.items():
            self._send_heartbeat(peer, progress, number)
        if not self.progress:
            self._confirm_reads()

    def _send_heartbeat(self, peer: int, progress: Progress, number: int) -> None:
        progress.commit_sent = min(self._replica.log.commit_index, progress.match_index)
        self._replica.send(peer, Heartbeat(self._term, progress.commit_sent, number))

    def on_heartbeat_reply(self, sender: int, message: HeartbeatReply) -> None:
        """It proves contact and confirms a round; it says nothing of the follower's log (hazard 23)."""
        if message.round > self._rounds.last_round:
            self._replica.ignore("answer to a round that never was")
            return
        progress = self.progress[sender]
        progress.last_contact = self._replica.now
        if message.round > progress.confirmed_round:
            progress.confirmed_round = message.round
            self._confirm_reads()

    def _confirm_reads(self) -> None:
        if not self._rounds.is_running:
            return
        confirmed = [progress.confirmed_round for progress in self.progress.values()]
        confirmed.append(self._rounds.last_round)
        for request, index in self._rounds.confirm(reached_by_majority(confirmed)):
            if request.follower is None:
                self._replica.finish_read(request.token, index)
            else:
                reply = ReadIndexReply(self._term, request.token, index, refused=False)
                self._replica.send(request.follower, reply)

    def read_index(self, token: int) -> None:
        request = ReadRequest(None, token, self._replica.now)
        if not self._rounds.add(request):
            self._fail_read(request)

    def on_read_index(self, sender: int, message: ReadIndex) -> None:
        request = ReadRequest(sender, message.nonce, self._replica.now)
        if not self._rounds.add(request):
            self._fail_read(request)

    def _fail_read(self, request: ReadRequest) -> None:
        if request.follower is None:
            self._replica.finish_read(request.token, None)
        else:
            refusal = ReadIndexReply(self._replica.term, request.token, 0, refused=True)
            self._replica.send(request.follower, refusal)

    def abandon_reads(self) -> None:
        """This node leads no more: what was asked must be asked again elsewhere."""
        for request in self._rounds.abandon():
            self._fail_read(request)

    # Handing over (thesis §3.10).

    def transfer_leadership(self, to: int | None) -> bool:
        """Whether a transfer has begun. Towards None: to the follower that is furthest along."""
        if self.transfer is not None:
            return to in (None, self.transfer.to)
        reachable = {peer: p for peer, p in self.progress.items() if self._is_in_contact(p)}
        if to is None:
            to = max(reachable, key=lambda peer: reachable[peer].match_index, default=None)
        if to not in reachable:
            return False
        self.transfer = _Transfer(to, self._replica.now + self._replica.config.election_timeout_ticks)
        return True

    def _hand_over(self) -> None:
        transfer = self.transfer
        if transfer is None or transfer.is_told:
            return
        if self.progress[transfer.to].match_index == self._replica.log.last_index:
            transfer.is_told = True
            self._replica.send(transfer.to, TimeoutNow(self._term))

    # Time.

    def tick(self) -> str | None:
        """Why this node must step down now, or None."""
        if not self.has_quorum_contact():
            return "no contact with a majority"
        if self._replica.is_sync_overdue() and self._is_overtaken():
            return "the own disk is behind a majority"
        if self.transfer is not None and self._replica.now >= self.transfer.deadline:
            self.transfer = None
        self._probe_stalled()
        oldest_tick = self._replica.now - self._replica.config.election_timeout_ticks
        for request in self._rounds.expire(oldest_tick):
            self._fail_read(request)
        if self._replica.now >= self._heartbeat_tick:
            self._broadcast_heartbeat()
        return None

    def has_quorum_contact(self) -> bool:
        """CheckQuorum (thesis §6.2): whether a majority has answered within an election timeout."""
        contacts = [progress.last_contact for progress in self.progress.values()]
        contacts.append(self._replica.now)
        return self._replica.now - reached_by_majority(contacts) < self._replica.config.election_timeout_ticks

    def _is_in_contact(self, progress: Progress) -> bool:
        return self._replica.now - progress.last_contact < self._replica.config.election_timeout_ticks

    def _is_overtaken(self) -> bool:
        """Whether a majority, without this node, has a disk that works where this node's does not (hazard
        18).

        Entries beyond the sync under way prove it: others began to write them later and are done. That they
        hold what this sync is to bring proves less, for theirs may have begun before; so where all disks are
        slow, that must last longer.
        """
        replica, config = self._replica, self._replica.config
        hung_ticks = config.hung_sync_timeouts * config.election_timeout_ticks
        is_hung = replica.sync_age_ticks() >= hung_ticks
        reached = replica.log.durable_index if is_hung else replica.syncing_index
        ahead = sum(progress.match_index > reached for progress in self.progress.values())
        return ahead >= majority(len(config.voters))

    def next_due_tick(self) -> int:
        """Heartbeats come often enough for every other check."""
        return self._heartbeat_tick
