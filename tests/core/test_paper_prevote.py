"""PreVote and CheckQuorum: thesis §9.6, §4.2.3, §6.2, with hazards 8 to 16. Each test quotes the rule it
checks."""

from itertools import combinations, product

import pytest

from raftd.core.messages import Heartbeat, HeartbeatReply, RequestVote, RequestVoteReply
from raftd.core.ready import Role
from tests.core.cluster import ELECTION_TIMEOUT_TICKS, Cluster, log_of


def pre_vote(term: int, last_log_index: int = 0, last_log_term: int = 0) -> RequestVote:
    return RequestVote(term, last_log_index, last_log_term, pre_vote=True, leadership_transfer=False)


def test_asks_first_and_raises_its_term_only_with_a_majority() -> None:
    """ "A candidate only increments its term if it first learns from a majority of the cluster that they
    would be willing to grant the candidate their votes." (thesis §9.6)"""
    cluster = Cluster(5)
    cluster.expire_election_timer(1)
    assert cluster.sent(RequestVote) == [pre_vote(1)] * 4
    assert cluster[1].term == 0
    cluster[1].step(2, RequestVoteReply(1, True, True))
    assert (cluster.role(1), cluster[1].term) == (Role.PRE_CANDIDATE, 0)
    cluster[1].step(3, RequestVoteReply(1, True, True))
    assert (cluster.role(1), cluster[1].term) == (Role.CANDIDATE, 1)


def test_a_pre_vote_promises_nothing() -> None:
    """It changes neither term nor vote of the voter, and several may get it."""
    cluster = Cluster(3)
    for candidate in (2, 3):
        assert cluster.ask(1, candidate, pre_vote(5)) == [RequestVoteReply(5, True, True)]
    assert cluster[1].term == 0
    assert not any(ready.hard_state for ready in cluster.nodes[1].readys)


def test_granting_a_pre_vote_does_not_restart_the_timer() -> None:
    """Hazard 12: granting a pre-vote refreshed the contact with the leader."""
    cluster = Cluster(3)
    cluster[1].tick(40)
    before = cluster[1].ticks_until_due()
    cluster.ask(1, 2, pre_vote(1))
    assert cluster[1].ticks_until_due() == before


def test_a_node_that_hears_its_leader_supports_nobody() -> None:
    """ "…and the voters have not received heartbeats from a valid leader for at least a baseline election
    timeout." (thesis §9.6)"""
    cluster = Cluster(3)
    cluster.elect(1)
    assert cluster.ask(2, 3, pre_vote(2, 9, 1)) == [RequestVoteReply(1, False, True)]
    cluster[2].tick(ELECTION_TIMEOUT_TICKS - 1)
    assert cluster.ask(2, 3, pre_vote(2, 9, 1)) == [RequestVoteReply(1, False, True)]


def test_a_silent_leader_loses_its_followers_support() -> None:
    """Hazard 10: pre-votes were refused for ever because the contact with the leader never expired."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster[2].tick(ELECTION_TIMEOUT_TICKS)
    assert cluster.ask(2, 3, pre_vote(2, 9, 1)) == [RequestVoteReply(2, True, True)]


def test_a_leader_with_quorum_contact_refuses() -> None:
    """It would only depose itself."""
    cluster = Cluster(3)
    cluster.elect(1)
    assert cluster.ask(1, 3, pre_vote(2, 9, 1)) == [RequestVoteReply(1, False, True)]


def test_votes_too_are_refused_while_a_leader_is_heard() -> None:
    """ "If a server receives a RequestVote request within the minimum election timeout of hearing from a
    current leader, it does not update its term or grant its vote." (thesis §4.2.3)"""
    cluster = Cluster(3)
    cluster.elect(1)
    request = RequestVote(9, 9, 1, pre_vote=False, leadership_transfer=False)
    for node in (1, 2):
        assert cluster.ask(node, 3, request) == []
        assert cluster[node].term == 1
    cluster[2].tick(ELECTION_TIMEOUT_TICKS)
    assert cluster.ask(2, 3, request) == [RequestVoteReply(9, True, False)]


def test_no_pre_vote_against_ones_own_vote() -> None:
    """It says what this node *would* do; within a term in which it has voted, that is known."""
    cluster = Cluster(3)
    vote = RequestVote(1, 0, 0, pre_vote=False, leadership_transfer=False)
    assert cluster.ask(1, 2, vote) == [RequestVoteReply(1, True, False)]
    assert cluster.ask(1, 3, pre_vote(1)) == [RequestVoteReply(1, False, True)]
    assert cluster.ask(1, 2, pre_vote(1)) == [RequestVoteReply(1, True, True)]
    assert cluster.ask(1, 3, pre_vote(2)) == [RequestVoteReply(2, True, True)]


def test_a_pre_candidate_whose_term_was_too_low_asks_again_soon() -> None:
    """Hazard 8: nothing else speaks against it; another election timeout would be lost time."""
    cluster = Cluster(3, terms={2: 9})
    cluster.expire_election_timer(1)
    cluster.deliver()
    cluster.deliver()
    assert (cluster.role(1), cluster[1].term) == (Role.FOLLOWER, 9)
    assert cluster[1].ticks_until_due() <= 8


def test_late_grants_count_for_nothing() -> None:
    """A grant names the term it is for."""
    cluster = Cluster(3)
    cluster.expire_election_timer(1)
    for late in (RequestVoteReply(3, True, True), RequestVoteReply(1, True, False)):
        cluster[1].step(2, late)
        assert cluster.role(1) is not Role.CANDIDATE


def test_a_pre_candidate_returns_to_a_leader_it_hears() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.expire_election_timer(3)
    assert cluster.role(3) is Role.PRE_CANDIDATE
    assert cluster.ask(3, 1, Heartbeat(1, 1, 9))[-1] == HeartbeatReply(1, 9)
    assert (cluster.role(3), cluster[3].leader, cluster[3].term) == (Role.FOLLOWER, 1, 1)


def test_a_leader_without_a_majority_steps_down() -> None:
    """ "A leader in Raft steps down if an election timeout elapses without a successful round of
    heartbeats to a majority of its cluster." (thesis §6.2)"""
    cluster = Cluster(5)
    cluster.elect(1)
    cluster.isolate(3, 4, 5)
    cluster.tick(ELECTION_TIMEOUT_TICKS - 1)
    assert cluster.role(1) is Role.LEADER
    cluster.tick(1)
    assert (cluster.role(1), cluster[1].leader, cluster[1].term) == (Role.FOLLOWER, None, 1)


def test_a_leader_with_a_majority_stays() -> None:
    cluster = Cluster(5)
    cluster.elect(1)
    cluster.isolate(4, 5)
    cluster.tick(10 * ELECTION_TIMEOUT_TICKS)
    assert (cluster.leaders(), cluster[1].term) == ([1], 1)


def test_a_leader_that_was_stopped_steps_down_before_it_acts() -> None:
    """Hazard 84: after a pause the clock speaks before the queue does."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster[1].tick(2 * ELECTION_TIMEOUT_TICKS)
    assert cluster.role(1) is Role.FOLLOWER


def test_a_returning_node_disturbs_nobody() -> None:
    """Hazard 13: a node that was cut off came back with an inflated term and deposed a healthy leader."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.isolate(3)
    cluster.tick(20 * ELECTION_TIMEOUT_TICKS)
    assert cluster[3].term == 1
    cluster.heal()
    cluster.tick(2 * ELECTION_TIMEOUT_TICKS)
    assert (cluster.leaders(), cluster[1].term, cluster[3].leader) == ([1], 1, 1)


def test_a_node_with_a_newer_term_is_taken_back() -> None:
    """Hazards 8, 9: a follower with a newer term than the leader's could neither follow nor be elected.
    It tells its term, and the leader that then comes up has it back."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.isolate(3)
    cluster[3].step(2, RequestVoteReply(7, False, False))
    assert cluster[3].term == 7
    cluster.heal()
    cluster.tick(6 * ELECTION_TIMEOUT_TICKS)
    (leader,) = cluster.leaders()
    assert {cluster[node].leader for node in cluster.voters} == {leader}
    assert {cluster[node].term for node in cluster.voters} == {cluster[leader].term}


@pytest.mark.parametrize("seed", range(10))
def test_a_low_term_node_with_the_longest_log_can_be_elected(seed: int) -> None:
    """Hazards 8, 11: nodes with a long log and a low term against nodes with a short log and a high term."""
    logs = {1: log_of(1, 2, 2), 2: log_of(1), 3: log_of(1)}
    cluster = Cluster(3, seed, logs=logs, terms={2: 9, 3: 9})
    cluster.isolate(3)
    assert cluster.elect_any_but(3) == 1
    assert cluster[1].term >= 10


def test_a_deposed_leader_can_be_elected_again() -> None:
    """Hazard 12: a former leader's own pre-vote was refused."""
    cluster = Cluster(2)
    cluster.elect(1)
    cluster.isolate(1)
    cluster.tick(ELECTION_TIMEOUT_TICKS)
    assert cluster.leaders() == []
    cluster.heal()
    cluster.expire_election_timer(1)
    cluster.stabilize()
    assert (cluster.leaders(), cluster[1].term) == ([1], 2)


def connected_majorities(cut: set[tuple[int, int]]) -> list[tuple[int, int]]:
    return [pair for pair in combinations((1, 2, 3), 2) if pair not in cut and (pair[1], pair[0]) not in cut]


@pytest.mark.parametrize("initial_leader", [1, 2, 3])
def test_every_partial_partition_of_three(initial_leader: int) -> None:
    """Hazards 14 to 16: over each of the 64 directed graphs, a connected majority has a leader and
    commits within ten election timeouts, and nothing that was committed is lost; nor do two lead one
    term."""
    links = [(a, b) for a in (1, 2, 3) for b in (1, 2, 3) if a != b]
    for lost in product([False, True], repeat=6):
        cut = {link for link, is_lost in zip(links, lost, strict=True) if is_lost}
        cluster = Cluster(3, seed=initial_leader)
        cluster.elect(initial_leader)
        cluster.cut = cut
        committed = tick_and_put_until_committed(cluster)
        if connected_majorities(cut):
            assert committed, f"no progress over {sorted(set(links) - cut)}"
        cluster.heal()
        assert tick_and_put_until_committed(cluster), f"no recovery from {cut}"
        longest = max((node.applied for node in cluster.nodes.values()), key=len)
        for node in cluster.nodes.values():
            assert node.applied == longest[: len(node.applied)]


def tick_and_put_until_committed(cluster: Cluster) -> bool:
    """Whether something proposed during this is applied within ten election timeouts."""
    wanted = b"%d" % max(node.raft.last_index for node in cluster.nodes.values())
    for _ in range(10 * ELECTION_TIMEOUT_TICKS // 5):
        cluster.tick(5)
        terms = [cluster[node].term for node in cluster.leaders()]
        assert len(set(terms)) == len(terms), f"two leaders in one term of {terms}"
        for leader in cluster.leaders():
            if wanted in cluster.nodes[leader].committed_payloads():
                return True
            cluster[leader].propose(wanted)
    return False
