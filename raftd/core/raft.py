"""Raft as a step machine: messages, proposals and ticks go in, a `Ready` comes out.

This module decides who plays which role; the roles do the work. It has no clock, no randomness of its own, no
I/O. The node calls it from one task; the simulation calls it in the same way.
"""

from collections.abc import Sequence
from random import Random

from raftd.core.candidate import Candidate, PreCandidate
from raftd.core.config import RaftConfig
from raftd.core.follower import Follower
from raftd.core.leader import Leader
from raftd.core.log import Log
from raftd.core.messages import (
    AppendEntries,
    AppendEntriesReply,
    Entry,
    EntryKind,
    HardState,
    Heartbeat,
    HeartbeatReply,
    Message,
    ReadIndex,
    ReadIndexReply,
    RequestVote,
    RequestVoteReply,
    TimeoutNow,
)
from raftd.core.proposal import NotLeader, Overloaded, Proposed
from raftd.core.reads import ForwardedReads
from raftd.core.ready import Ready, Role, SoftState
from raftd.core.replica import Replica
from raftd.core.status import RaftStatus, status_of
from raftd.core.validity import is_malformed


class Raft:
    """One node's part in the protocol.

    Wrong calls by the node are assertions. Nothing a remote peer sends can trip one: what is malformed,
    stale or from a stranger is dropped and counted in `status().ignored_messages`.
    """

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
        """`entries` is the durable log after `base_index`. Only what is applied counts as committed at first:
        the rest waits for a leader to say so (hazards 28, 39)."""
        log = Log(base_index, base_term, entries, applied_index)
        assert log.last_term <= hard_state.term, f"log of term {log.last_term} in term {hard_state.term}"
        self._replica = Replica(config, random, hard_state, log)
        self._forwarded = ForwardedReads(
            config.max_pending_reads, config.max_read_rounds, first_nonce=random.getrandbits(62)
        )
        self._lost_elections = 0
        """In a row, since a leader was last known: doubles the wait before the next try."""
        wait = self._replica.election_timeout() if self._replica.peers else 1
        self._role: Follower | PreCandidate | Candidate | Leader
        self._role = Follower(self._replica, None, wait, self._forwarded)
        self._soft_state = self._current_soft_state()

    # What is known.

    @property
    def node_id(self) -> int:
        return self._replica.node_id

    @property
    def voters(self) -> tuple[int, ...]:
        return self._replica.config.voters

    @property
    def term(self) -> int:
        return self._replica.term

    @property
    def commit_index(self) -> int:
        return self._replica.log.commit_index

    @property
    def last_index(self) -> int:
        return self._replica.log.last_index

    @property
    def last_applied(self) -> int:
        return self._replica.log.applied_index

    @property
    def role(self) -> Role:
        match self._role:
            case Follower():
                return Role.FOLLOWER
            case PreCandidate():
                return Role.PRE_CANDIDATE
            case Candidate():
                return Role.CANDIDATE
            case Leader():
                return Role.LEADER

    @property
    def leader(self) -> int | None:
        """Whom to send proposals to; None also while this leader hands over, for then it takes none."""
        match self._role:
            case Follower(leader=leader):
                return leader
            case Leader(transfer=None):
                return self._replica.node_id
            case _:
                return None

    def status(self) -> RaftStatus:
        progress = self._role.progress if isinstance(self._role, Leader) else {}
        return status_of(self._replica, self.role, self.leader, progress)

    # What the node asks for.

    def propose(
        self, payload: bytes, kind: EntryKind = EntryKind.COMMANDS
    ) -> Proposed | NotLeader | Overloaded:
        """Append to the log, if this node leads. All that is proposed before the next Ready travels
        together."""
        match self._role:
            case Leader() as leader:
                return leader.propose(payload, kind)
            case _:
                return NotLeader(self.leader, self._replica.term)

    def read_index(self, token: int) -> None:
        """Ask for an index at which a read is linearizable; `Ready.reads` answers, once for each call."""
        match self._role:
            case Leader() | Follower() as role:
                role.read_index(token)
            case _:
                self._replica.finish_read(token, None)

    def transfer_leadership(self, to: int | None) -> bool:
        """Begin to hand leadership to `to`, or to the best follower. False when that cannot begin. It has
        succeeded when another leads, and is given up after an election timeout."""
        match self._role:
            case Leader() as leader:
                return leader.transfer_leadership(to)
            case _:
                return False

    def leader_stream_broken(self, peer: int) -> None:
        """The stream from `peer` broke, and all it had brought has been stepped. If `peer` leads, it may be
        dead, and a fast election may follow."""
        match self._role:
            case Follower() as follower if follower.leader == peer:
                follower.leader_stream_broken()

    def stream_restored(self, peer: int) -> None:
        """A new stream to `peer` stands; what the old one carried may be lost."""
        match self._role:
            case Leader() as leader if peer in leader.progress:
                leader.stream_restored(peer)

    # What the node reports.

    def written(self, index: int, term: int) -> None:
        """The write whose last entry was (index, term) is durable; (0, 0) for one without entries. One call
        for each Ready that held a hard state or entries, in their order. It implies all earlier writes, so
        that those may be left out; of several that end alike the earliest is meant."""
        self._replica.finish_write(index, term)
        match self._role:
            case Leader() as leader:
                leader.advance_commit()
        self._replica.log.shrink(self._replica.config.log_cache_bytes)

    def applied(self, index: int) -> None:
        """All entries up to `index` are applied."""
        self._replica.log.mark_applied(index)
        self._replica.log.shrink(self._replica.config.log_cache_bytes)

    def log_loaded(self, follower: int, prev_term: int, entries: Sequence[Entry]) -> None:
        """The answer to a LogRead: the entries from its first index on, one at least, and the term before."""
        assert entries, f"nothing was loaded for {follower:x}"
        match self._role:
            case Leader() as leader:
                leader.log_loaded(follower, prev_term, list(entries))

    # Time.

    def tick(self, ticks: int = 1) -> None:
        """`ticks` have passed since the last call."""
        assert ticks >= 0, f"{ticks} ticks"
        self._replica.now += ticks
        match self._role:
            case Leader() as leader:
                if leader.tick() is not None:
                    self._become_follower(self._replica.term, None)
            case Follower() as follower:
                follower.tick()
                self._seek_election_when_due(follower)
            case PreCandidate() | Candidate() as campaign:
                self._seek_election_when_due(campaign)

    def ticks_until_due(self) -> int:
        """How long the node may sleep if nothing arrives; at least 1."""
        match self._role:
            case Leader() | Follower() as role:
                due = role.next_due_tick()
            case PreCandidate() | Candidate() as campaign:
                due = campaign.deadline
        return max(1, due - self._replica.now)

    def _seek_election_when_due(self, role: Follower | PreCandidate | Candidate) -> None:
        if self._replica.now < role.deadline:
            return
        if self._replica.is_sync_overdue():
            # A node whose disk hangs would make a leader that cannot commit (hazard 18).
            role.deadline = self._replica.now + self._replica.election_timeout()
            return
        self._become_pre_candidate()

    # Transitions.

    def _become_follower(self, term: int, leader: int | None, wait_ticks: int | None = None) -> None:
        """Of a leader, or of nobody yet. The election timer runs on, unless `wait_ticks` sets it: a newer
        term alone is no reason to wait (§5.2)."""
        replica, role = self._replica, self._role
        assert term >= replica.term, f"term {replica.term} → {term}"
        assert leader != replica.node_id, f"node {leader} follows itself in term {term}"
        if term > replica.term:
            replica.set_term_and_vote(term, None)
        # Within a term the vote stays: it is erased by a newer term only (hazard 3).
        self._leave_role()
        if leader is not None:
            self._lost_elections = 0
        if wait_ticks is not None or isinstance(role, Leader):
            deadline = replica.now + (wait_ticks or replica.election_timeout())
        else:
            deadline = role.deadline
        self._role = Follower(replica, leader, deadline, self._forwarded)

    def _become_pre_candidate(self) -> None:
        assert not isinstance(self._role, Leader), f"leader of term {self._replica.term} seeks election"
        self._leave_role()
        candidate = self._role = PreCandidate(self._replica)
        if candidate.has_won():
            self._become_candidate(leadership_transfer=False)
        else:
            candidate.ask_all()

    def _become_candidate(self, leadership_transfer: bool) -> None:
        replica = self._replica
        assert not isinstance(self._role, Leader), f"leader of term {replica.term} seeks votes"
        self._leave_role()
        replica.set_term_and_vote(replica.term + 1, replica.node_id)
        candidate = self._role = Candidate(replica)
        if candidate.has_won():
            self._become_leader()
        else:
            candidate.ask_all(leadership_transfer)

    def _become_leader(self) -> None:
        replica, role = self._replica, self._role
        assert isinstance(role, Candidate), f"{self.role} leads term {replica.term}"
        assert role.has_won(), f"term {replica.term} is not won"
        assert replica.hard_state.voted_for == replica.node_id, f"won without its vote: {replica.hard_state}"
        self._lost_elections = 0
        self._role = Leader(replica)

    def _leave_role(self) -> None:
        match self._role:
            case Leader() | Follower() as role:
                role.abandon_reads()

    # Messages.

    def step(self, sender: int, message: Message) -> None:
        """Take one message from a peer."""
        replica = self._replica
        if sender not in replica.peers:
            replica.ignore("unknown sender")
        elif is_malformed(message):
            replica.ignore("malformed")
        elif message.term < replica.term:
            self._on_older_term(sender, message)
        elif message.term == replica.term or self._enter_newer_term(sender, message):
            self._dispatch(sender, message)

    def _dispatch(self, sender: int, message: Message) -> None:
        match self._role, message:
            case Leader() as leader, AppendEntriesReply():
                leader.on_append_entries_reply(sender, message)
            case _, AppendEntries():
                self._on_append_entries(sender, message)
            case Leader() as leader, HeartbeatReply():
                leader.on_heartbeat_reply(sender, message)
            case _, Heartbeat():
                self._on_heartbeat(sender, message)
            case Leader() as leader, ReadIndex():
                leader.on_read_index(sender, message)
            case _, ReadIndex(nonce=nonce):
                self._replica.send(sender, ReadIndexReply(self._replica.term, nonce, 0, refused=True))
            case Follower() as follower, ReadIndexReply():
                follower.on_read_index_reply(sender, message)
            case _, RequestVote(pre_vote=True):
                self._on_pre_vote(sender, message)
            case _, RequestVote():
                self._on_request_vote(sender, message)
            case PreCandidate() as candidate, RequestVoteReply(pre_vote=True):
                self._on_pre_vote_reply(candidate, sender, message)
            case Candidate() as candidate, RequestVoteReply(pre_vote=False):
                self._on_request_vote_reply(candidate, sender, message)
            case Follower(leader=leader_id), TimeoutNow() if leader_id == sender:
                self._on_timeout_now()
            case _:
                self._replica.ignore("not for this role")

    def _on_older_term(self, sender: int, message: Message) -> None:
        """§5.1: requests of an older term are refused, and the refusal tells the newer one. It must be
        told even to a healthy leader: this node could not follow it otherwise (hazards 8, 13)."""
        term = self._replica.term
        match message:
            case RequestVote():
                self._replica.send(sender, RequestVoteReply(term, False, message.pre_vote))
            case AppendEntries():
                reply = AppendEntriesReply(term, False, 0, message.prev_log_index, 0, 0)
                self._replica.send(sender, reply)
            case Heartbeat():
                self._replica.send(sender, HeartbeatReply(term, message.round))
            case ReadIndex():
                self._replica.send(sender, ReadIndexReply(term, message.nonce, 0, refused=True))
            case _:
                self._replica.ignore("stale term")

    def _enter_newer_term(self, sender: int, message: Message) -> bool:
        """§5.1: a newer term is adopted at once, and ends every role but the follower's. Whether the
        message is to be handled then."""
        match message:
            case RequestVote(pre_vote=True) | RequestVoteReply(pre_vote=True, granted=True):
                return True  # Its term is that of an election which may never be.
            case RequestVote(leadership_transfer=False) if self._is_content():
                self._replica.ignore("vote asked of a node with a leader")
                return False
            case AppendEntries() | Heartbeat():
                self._become_follower(message.term, sender)
            case RequestVoteReply() if isinstance(self._role, PreCandidate):
                # Only its term was too low: try again soon (hazard 8).
                self._become_follower(message.term, None, self._short_wait())
            case _:
                self._become_follower(message.term, None)
        return True

    def _is_content(self) -> bool:
        """Whether this node knows a leader that works, possibly itself (thesis §4.2.3)."""
        match self._role:
            case Follower() as follower:
                return follower.is_content()
            case Leader() as leader:
                return leader.has_quorum_contact()
            case _:
                return False

    # Elections (§5.2, §5.4.1; thesis §9.6).

    def _on_pre_vote(self, sender: int, message: RequestVote) -> None:
        """Would this node vote so? It promises nothing, and its own timer runs on (hazard 12)."""
        granted = self._would_vote(sender, message)
        match self._role:
            case PreCandidate() as rival if granted and rival.is_equal(message):
                # Of two equal pre-candidates the lower id waits.
                if sender > self.node_id:
                    self._become_follower(self._replica.term, None, self._short_wait())
                else:
                    granted = False
                    rival.ask(sender)  # Again: the first question came too early, or was lost.
        term = message.term if granted else self._replica.term
        self._replica.send(sender, RequestVoteReply(term, granted, True))

    def _would_vote(self, sender: int, message: RequestVote) -> bool:
        replica = self._replica
        if self._is_content() or replica.is_sync_overdue():
            return False
        if message.term == replica.term and replica.hard_state.voted_for not in (None, sender):
            return False
        return replica.log.is_up_to_date(message.last_log_index, message.last_log_term)

    def _on_request_vote(self, sender: int, message: RequestVote) -> None:
        """§5.2, §5.4.1: one vote in a term, first come first served, for a log at least as up-to-date."""
        replica = self._replica
        granted = (
            isinstance(self._role, Follower)
            and self._role.leader is None
            and replica.hard_state.voted_for in (None, sender)
            and replica.log.is_up_to_date(message.last_log_index, message.last_log_term)
        )
        if granted and isinstance(self._role, Follower):
            replica.set_term_and_vote(replica.term, sender)
            self._role.postpone_election()
        replica.send_after_write(sender, RequestVoteReply(replica.term, granted, False))

    def _on_pre_vote_reply(self, candidate: PreCandidate, sender: int, message: RequestVoteReply) -> None:
        if message.granted and message.term == self._replica.term + 1:
            candidate.on_granted(sender)
            if candidate.has_won():
                self._become_candidate(leadership_transfer=False)

    def _on_request_vote_reply(self, candidate: Candidate, sender: int, message: RequestVoteReply) -> None:
        if not message.granted:
            # A split vote, most likely: try again soon, but ever later.
            candidate.retry_within(self._short_wait())
            return
        candidate.on_granted(sender)
        if candidate.has_won():
            self._become_leader()

    def _short_wait(self) -> int:
        """Random, from the interval of fast elections, doubled with each election lost in a row."""
        config = self._replica.config
        shortest, longest = config.fast_election_ticks
        wait = self._replica.random.randint(shortest, longest) << min(self._lost_elections, 16)
        self._lost_elections += 1
        return min(wait, config.election_timeout_ticks)

    def _on_timeout_now(self) -> None:
        """Thesis §3.10: campaign at once, without PreVote, for the leader itself asks."""
        if self._replica.is_sync_overdue():
            self._replica.ignore("handing over to a hung disk")
        else:
            self._become_candidate(leadership_transfer=True)

    # Word from the leader.

    def _follow(self, sender: int) -> Follower | None:
        """This node as the follower of the term's leader `sender`; None if that cannot be."""
        match self._role:
            case Leader():
                self._replica.ignore("second leader in one term")
                return None
            case PreCandidate() | Candidate():
                # §5.2: somebody else has won the term, or leads it still.
                self._become_follower(self._replica.term, sender)
        assert isinstance(self._role, Follower), f"{self.role} follows {sender}"
        self._lost_elections = 0
        return self._role if self._role.follow(sender) else None

    def _on_append_entries(self, sender: int, message: AppendEntries) -> None:
        follower = self._follow(sender)
        if follower is not None:
            follower.on_append_entries(sender, message)

    def _on_heartbeat(self, sender: int, message: Heartbeat) -> None:
        follower = self._follow(sender)
        if follower is not None:
            follower.on_heartbeat(sender, message)

    # Output.

    def has_ready(self) -> bool:
        """Whether `ready()` would hold anything."""
        self._flush()
        return self._replica.has_output() or self._current_soft_state() != self._soft_state

    def ready(self) -> Ready:
        """All that has become due, handed out once."""
        self._flush()
        replica = self._replica
        messages, messages_after_write = replica.take_messages()
        hard_state, entries = replica.begin_write()
        soft_state = self._current_soft_state()
        ready = Ready(
            hard_state=hard_state,
            entries=entries,
            messages=messages,
            messages_after_write=messages_after_write,
            committed=replica.log.take_committed(replica.config.max_apply_bytes),
            reads=replica.reads,
            log_reads=replica.log_reads,
            soft_state=soft_state if soft_state != self._soft_state else None,
        )
        replica.reads, replica.log_reads = [], []
        self._soft_state = soft_state
        return ready

    def _flush(self) -> None:
        match self._role:
            case Leader() | Follower() as role:
                role.flush()

    def _current_soft_state(self) -> SoftState:
        return SoftState(self.role, self._replica.term, self.leader)
