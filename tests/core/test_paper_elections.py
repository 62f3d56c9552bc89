"""Leader election: §5.1, §5.2, §5.4.1 and Figure 2 of the Raft paper. Each test quotes the rule it checks."""

import pytest

from raftd.core.messages import (
    AppendEntries,
    AppendEntriesReply,
    HardState,
    Heartbeat,
    HeartbeatReply,
    Message,
    ReadIndex,
    ReadIndexReply,
    RequestVote,
    RequestVoteReply,
)
from raftd.core.ready import Role
from tests.core.cluster import ELECTION_TIMEOUT_TICKS, Cluster, log_of


def vote(term: int, last_log_index: int = 0, last_log_term: int = 0) -> RequestVote:
    return RequestVote(term, last_log_index, last_log_term, pre_vote=False, leadership_transfer=False)


def test_starts_as_follower() -> None:
    """ "When servers start up, they begin as followers." (§5.2)"""
    cluster = Cluster(3, terms={1: 7})
    assert cluster.role(1) is Role.FOLLOWER
    assert (cluster[1].term, cluster[1].leader) == (7, None)
    assert not cluster[1].has_ready()


@pytest.mark.parametrize("role", [Role.FOLLOWER, Role.PRE_CANDIDATE, Role.CANDIDATE, Role.LEADER])
@pytest.mark.parametrize(
    "message",
    [
        AppendEntries(9, 0, 0, 0, ()),
        AppendEntriesReply(9, False, 0, 1, 1, 0),
        Heartbeat(9, 0, 1),
        HeartbeatReply(9, 1),
        ReadIndex(9, 1),
        ReadIndexReply(9, 1, 0, True),
        RequestVoteReply(9, False, False),
        RequestVoteReply(9, False, True),
    ],
)
def test_adopts_a_newer_term(role: Role, message: Message) -> None:
    """ "If RPC request or response contains term T > currentTerm: set currentTerm = T, convert to follower."
    (Figure 2, all servers)"""
    cluster = Cluster(3)
    become(cluster, role)
    cluster[1].step(2, message)
    assert (cluster.role(1), cluster[1].term) == (Role.FOLLOWER, 9)
    cluster.gather([1])
    assert cluster.nodes[1].disk.hard_state == HardState(9, None)


def become(cluster: Cluster, role: Role) -> None:
    """Bring node 1 into a role in which its term is at most 1."""
    match role:
        case Role.LEADER:
            cluster.elect(1)
        case Role.CANDIDATE:
            cluster.expire_election_timer(1)
            cluster.gather([1])
            cluster[1].step(2, RequestVoteReply(1, True, True))
        case Role.PRE_CANDIDATE:
            cluster.expire_election_timer(1)
    assert cluster.role(1) is role


def test_rejects_requests_of_an_older_term() -> None:
    """ "If a server receives a request with a stale term number, it rejects the request." (§5.1)"""
    cluster = Cluster(3, terms={1: 5})
    assert cluster.ask(1, 2, AppendEntries(4, 0, 0, 0, ())) == [AppendEntriesReply(5, False, 0, 0, 0, 0)]
    assert cluster.ask(1, 2, Heartbeat(4, 0, 3)) == [HeartbeatReply(5, 3)]
    assert cluster.ask(1, 2, vote(4)) == [RequestVoteReply(5, False, False)]
    assert cluster.ask(1, 2, ReadIndex(4, 77)) == [ReadIndexReply(5, 77, 0, True)]
    assert cluster[1].leader is None


def test_ignores_replies_of_an_older_term() -> None:
    """Replies of a former term say nothing about this one: neither votes nor acknowledgements (§5.1)."""
    cluster = Cluster(3, terms={1: 4})
    cluster.expire_election_timer(1)
    cluster.gather([1])
    cluster[1].step(2, RequestVoteReply(5, True, True))
    assert (cluster.role(1), cluster[1].term) == (Role.CANDIDATE, 5)
    cluster.gather([1])
    cluster[1].step(2, RequestVoteReply(4, True, False))
    assert cluster.role(1) is Role.CANDIDATE
    assert cluster.ignored(1) == {"stale term": 1}


def test_remains_follower_while_it_hears_a_leader() -> None:
    """ "A server remains in follower state as long as it receives valid RPCs from a leader or candidate."
    (§5.2)"""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.tick(20 * ELECTION_TIMEOUT_TICKS)
    assert cluster.leaders() == [1]
    assert {cluster[node].term for node in cluster.voters} == {1}


def test_election_timeout_starts_an_election() -> None:
    """ "If election timeout elapses without receiving AppendEntries RPC from current leader or granting
    vote to candidate: convert to candidate." (Figure 2, followers; here by way of PreVote)"""
    cluster = Cluster(3)
    cluster[1].tick(ELECTION_TIMEOUT_TICKS - 1)
    assert cluster.role(1) is Role.FOLLOWER
    cluster[1].tick(ELECTION_TIMEOUT_TICKS)
    assert cluster.role(1) is Role.PRE_CANDIDATE


def test_candidate_raises_its_term_votes_for_itself_and_asks_all() -> None:
    """ "On conversion to candidate, start election: increment currentTerm, vote for self, reset election
    timer, send RequestVote RPCs to all other servers." (Figure 2, candidates)"""
    cluster = Cluster(5, logs={1: log_of(1, 1, 2)})
    cluster.expire_election_timer(1)
    cluster.gather([1])
    cluster.wire.clear()
    for voter in (2, 3):
        cluster[1].step(voter, RequestVoteReply(3, True, True))
    assert (cluster.role(1), cluster[1].term) == (Role.CANDIDATE, 3)
    assert cluster.sent(RequestVote) == [vote(3, 3, 2)] * 4
    assert sorted(envelope.to for _, envelope in cluster.wire) == [2, 3, 4, 5]
    assert cluster.nodes[1].disk.hard_state == HardState(3, 1)
    assert ELECTION_TIMEOUT_TICKS <= cluster[1].ticks_until_due() < 2 * ELECTION_TIMEOUT_TICKS


@pytest.mark.parametrize(
    ("size", "granting", "wins"),
    [(1, 0, True), (2, 0, False), (2, 1, True), (3, 1, True), (4, 1, False), (5, 1, False), (5, 2, True)],
)
def test_wins_with_votes_from_a_majority(size: int, granting: int, wins: bool) -> None:
    """ "A candidate wins an election if it receives votes from a majority of the servers in the full cluster
    for the same term." (§5.2)"""
    cluster = Cluster(size)
    cluster.expire_election_timer(1)
    for voter in cluster.voters[1:]:
        cluster[1].step(voter, RequestVoteReply(1, True, True))
    for voter in cluster.voters[1 : granting + 1]:
        cluster[1].step(voter, RequestVoteReply(1, True, False))
    assert (cluster.role(1) is Role.LEADER) == wins


def test_a_repeated_vote_counts_once() -> None:
    """One vote per server: a duplicate on the wire is not a second voter (§5.2)."""
    cluster = Cluster(5)
    cluster.expire_election_timer(1)
    for _ in range(3):
        cluster[1].step(2, RequestVoteReply(1, True, True))
    assert cluster.role(1) is Role.PRE_CANDIDATE
    cluster[1].step(3, RequestVoteReply(1, True, True))
    for _ in range(3):
        cluster[1].step(2, RequestVoteReply(1, True, False))
    assert cluster.role(1) is Role.CANDIDATE


def test_votes_once_in_a_term_first_come_first_served() -> None:
    """ "Each server will vote for at most one candidate in a given term, on a first-come-first-served basis."
    (§5.2)"""
    cluster = Cluster(3)
    assert cluster.ask(1, 2, vote(1)) == [RequestVoteReply(1, True, False)]
    assert cluster.ask(1, 3, vote(1)) == [RequestVoteReply(1, False, False)]
    assert cluster.nodes[1].disk.hard_state == HardState(1, 2)


def test_vote_survives_a_crash() -> None:
    """ "Persistent state on all servers (updated on stable storage before responding to RPCs)":
    currentTerm and votedFor (Figure 2; hazard 2)."""
    cluster = Cluster(3)
    assert cluster.ask(1, 2, vote(4)) == [RequestVoteReply(4, True, False)]
    cluster.crash(1)
    assert cluster.ask(1, 3, vote(4)) == [RequestVoteReply(4, False, False)]
    assert cluster.ask(1, 2, vote(4)) == [RequestVoteReply(4, True, False)]


@pytest.mark.parametrize(
    ("voter_terms", "last_index", "last_term", "granted"),
    [
        ((1, 1), 2, 1, True),
        ((1, 1), 3, 1, True),
        ((1, 1), 1, 1, False),
        ((1, 1), 1, 2, True),
        ((1, 2), 9, 1, False),
        ((), 0, 0, True),
        ((1,), 0, 0, False),
    ],
)
@pytest.mark.parametrize("pre_vote", [False, True])
def test_denies_its_vote_to_a_shorter_log(
    voter_terms: tuple[int, ...], last_index: int, last_term: int, granted: bool, pre_vote: bool
) -> None:
    """ "The voter denies its vote if its own log is more up-to-date than that of the candidate. […] If
    the logs have last entries with different terms, then the log with the later term is more up-to-date.
    If the logs end with the same term, then whichever log is longer is more up-to-date." (§5.4.1)"""
    cluster = Cluster(3, logs={1: log_of(*voter_terms)}, terms={1: 2})
    request = RequestVote(3, last_index, last_term, pre_vote, leadership_transfer=False)
    (reply,) = cluster.ask(1, 2, request)
    assert isinstance(reply, RequestVoteReply)
    assert reply.granted == granted


def test_candidate_recognizes_a_leader_of_its_term() -> None:
    """ "If the leader's term (included in its RPC) is at least as large as the candidate's current term, then
    the candidate recognizes the leader as legitimate and returns to follower state." (§5.2)"""
    for message in (AppendEntries(1, 0, 0, 0, ()), Heartbeat(1, 0, 1), Heartbeat(2, 0, 1)):
        cluster = Cluster(3)
        become(cluster, Role.CANDIDATE)
        cluster[1].step(3, message)
        assert (cluster.role(1), cluster[1].leader) == (Role.FOLLOWER, 3)


def test_candidate_rejects_a_leader_of_an_older_term() -> None:
    """ "If the term in the RPC is smaller than the candidate's current term, then the candidate rejects
    the RPC and continues in candidate state." (§5.2)"""
    cluster = Cluster(3, terms={1: 4})
    cluster.expire_election_timer(1)
    cluster[1].step(2, RequestVoteReply(5, True, True))
    cluster.gather([1])
    assert cluster.ask(1, 3, AppendEntries(4, 0, 0, 0, ()))[-1] == AppendEntriesReply(5, False, 0, 0, 0, 0)
    assert cluster.role(1) is Role.CANDIDATE


def test_candidate_starts_anew_when_nobody_wins() -> None:
    """ "If election timeout elapses: start new election." (Figure 2, candidates)"""
    cluster = Cluster(3)
    become(cluster, Role.CANDIDATE)
    cluster.expire_election_timer(1)
    assert cluster.role(1) is Role.PRE_CANDIDATE
    cluster[1].step(2, RequestVoteReply(2, True, True))
    assert (cluster.role(1), cluster[1].term) == (Role.CANDIDATE, 2)


def test_election_timeouts_are_random() -> None:
    """ "Raft uses randomized election timeouts to ensure that split votes are rare and that they are resolved
    quickly." (§5.2, hazard 17)"""
    waits = {Cluster(3, seed=seed)[1].ticks_until_due() for seed in range(300)}
    assert min(waits) >= ELECTION_TIMEOUT_TICKS
    assert max(waits) < 2 * ELECTION_TIMEOUT_TICKS
    assert len(waits) > ELECTION_TIMEOUT_TICKS // 2


def test_granting_a_vote_restarts_the_timer_and_refusing_does_not() -> None:
    """ "…without receiving AppendEntries RPC from current leader *or granting vote* to candidate."
    (Figure 2) A refused candidate must not keep a better one from standing."""
    cluster = Cluster(3, logs={1: log_of(1)})
    cluster[1].tick(50)
    before = cluster[1].ticks_until_due()
    cluster.ask(1, 2, vote(2))
    assert cluster[1].ticks_until_due() == before
    cluster.ask(1, 3, vote(3, 1, 1))
    assert cluster[1].ticks_until_due() >= ELECTION_TIMEOUT_TICKS


def test_leader_announces_itself_and_keeps_announcing() -> None:
    """ "Upon election: send initial empty AppendEntries RPCs (heartbeat) to each server; repeat during idle
    periods to prevent election timeouts." (Figure 2, leaders)"""
    cluster = Cluster(3)
    become(cluster, Role.CANDIDATE)
    cluster.gather([1])
    cluster.wire.clear()
    cluster[1].step(2, RequestVoteReply(1, True, False))
    assert cluster.sent(Heartbeat) == [Heartbeat(1, 0, 1)] * 2
    cluster.wire.clear()
    assert cluster[1].ticks_until_due() == 10
    cluster[1].tick(10)
    assert cluster.sent(Heartbeat) == [Heartbeat(1, 0, 2)] * 2


def test_a_single_voter_elects_itself_at_once() -> None:
    """A majority of one is one; there is nobody to wait for (§5.2)."""
    cluster = Cluster(1)
    cluster.tick(1)
    assert (cluster.leaders(), cluster[1].term) == ([1], 1)
    assert cluster.nodes[1].disk.hard_state == HardState(1, 1)


@pytest.mark.parametrize("size", [2, 3, 4, 5, 7])
def test_a_cluster_elects_exactly_one_leader(size: int) -> None:
    """ "Election Safety: at most one leader can be elected in a given term." (Figure 3, hazard 5)"""
    for seed in range(20):
        cluster = Cluster(size, seed)
        leader = cluster.elect_any()
        cluster.tick(ELECTION_TIMEOUT_TICKS)
        assert cluster.leaders() == [leader]
        assert {cluster[node].leader for node in cluster.voters} == {leader}
