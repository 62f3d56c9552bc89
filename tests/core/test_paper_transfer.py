"""Leadership transfer: thesis §3.10, with hazard 19."""

import pytest

from raftd.core.messages import AppendEntries, AppendEntriesReply, RequestVote, TimeoutNow
from raftd.core.proposal import NotLeader, Proposed
from raftd.core.ready import Role, SoftState
from tests.core.cluster import ELECTION_TIMEOUT_TICKS, Cluster


def leader() -> Cluster:
    cluster = Cluster(3)
    cluster.elect(1)
    return cluster


@pytest.mark.parametrize("to", [2, 3])
def test_hands_over(to: int) -> None:
    cluster = leader()
    assert cluster[1].transfer_leadership(to)
    cluster.stabilize()
    assert (cluster.leaders(), cluster[to].term, cluster[1].leader) == ([to], 2, to)


def test_the_prior_leader_stops_accepting_proposals() -> None:
    """ "The prior leader stops accepting new client requests." (thesis §3.10) The node sees it in the soft
    state."""
    cluster = leader()
    assert cluster[1].transfer_leadership(2)
    assert cluster[1].propose(b"a") == NotLeader(None, 1)
    assert cluster[1].ready().soft_state == SoftState(Role.LEADER, 1, None)
    assert cluster[1].last_index == 1


def test_the_successor_is_brought_up_to_date_first() -> None:
    """ "The prior leader fully updates the target server's log to match its own […]. The prior leader sends a
    TimeoutNow request to the target server." (thesis §3.10)"""
    cluster = leader()
    cluster.put(1, b"a")
    assert cluster[1].transfer_leadership(3)
    assert cluster.sent(TimeoutNow) == []
    cluster[1].step(2, AppendEntriesReply(1, True, 2, 0, 0, 0))
    assert cluster.sent(TimeoutNow) == []
    cluster[1].step(3, AppendEntriesReply(1, True, 2, 0, 0, 0))
    assert cluster.sent(TimeoutNow) == [TimeoutNow(1)]
    cluster.stabilize()
    assert cluster.leaders() == [3]
    assert cluster.nodes[3].committed_payloads() == [b"a"]


def test_timeout_now_starts_an_election_at_once() -> None:
    """ "This request has the same effect as the target server's election timer firing: the target server
    starts a new election (incrementing its term and becoming a candidate)." (thesis §3.10) Voters that
    hear the leader agree, for the leader itself asked."""
    cluster = leader()
    cluster[2].step(1, TimeoutNow(1))
    assert (cluster.role(2), cluster[2].term) == (Role.CANDIDATE, 2)
    requests = cluster.sent(RequestVote, 2)
    assert [(r.pre_vote, r.leadership_transfer) for r in requests] == [(False, True)] * 2
    cluster.stabilize()
    assert cluster.leaders() == [2]


def test_is_given_up_after_an_election_timeout() -> None:
    """ "If leadership transfer does not complete after about an election timeout, the prior leader aborts the
    transfer and resumes accepting client requests." (thesis §3.10)"""
    cluster = leader()
    cluster.lose = lambda sender, to, message: isinstance(message, TimeoutNow)
    assert cluster[1].transfer_leadership(2)
    cluster.tick(ELECTION_TIMEOUT_TICKS - 1)
    assert cluster[1].propose(b"a") == NotLeader(None, 1)
    cluster.tick(1)
    assert isinstance(cluster[1].propose(b"a"), Proposed)
    assert SoftState(Role.LEADER, 1, 1) in [ready.soft_state for ready in cluster.nodes[1].readys[-3:]]


def test_goes_to_the_best_follower_when_none_is_named() -> None:
    cluster = leader()
    cluster.lose = lambda sender, to, message: to == 2 and isinstance(message, AppendEntries)
    cluster.put(1)
    cluster.stabilize()
    assert cluster[1].transfer_leadership(None)
    cluster.stabilize()
    assert cluster.leaders() == [3]


def test_cannot_begin_towards_what_cannot_lead() -> None:
    cluster = leader()
    assert not cluster[1].transfer_leadership(1)
    assert not cluster[1].transfer_leadership(9)
    assert not cluster[2].transfer_leadership(3)
    cluster.isolate(3)
    cluster.tick(ELECTION_TIMEOUT_TICKS)
    assert not cluster[1].transfer_leadership(3)
    assert cluster[1].transfer_leadership(2)
    assert not cluster[1].transfer_leadership(3)
    assert cluster[1].transfer_leadership(2)


def test_a_single_voter_has_nobody_to_hand_over_to() -> None:
    cluster = Cluster(1)
    cluster.tick(1)
    assert not cluster[1].transfer_leadership(None)


def test_races_with_writes_without_losing_one() -> None:
    """Hazard 19: what was accepted before the transfer is committed by the successor, the rest is refused."""
    cluster = leader()
    accepted = []
    for turn in range(40):
        holder = cluster.leader()
        for number in range(3):
            payload = b"%d.%d" % (turn, number)
            if isinstance(cluster[holder].propose(payload), Proposed):
                accepted.append(payload)
            if number == turn % 3:
                cluster[holder].transfer_leadership(None)
        cluster.stabilize()
    assert len(accepted) > 40
    for node in cluster.nodes.values():
        assert node.committed_payloads() == accepted


def test_word_from_another_than_the_leader_is_ignored() -> None:
    cluster = leader()
    cluster[2].step(3, TimeoutNow(1))
    cluster[2].step(3, TimeoutNow(5))
    assert (cluster.role(2), cluster[2].term) == (Role.FOLLOWER, 5)
    assert cluster.ignored(2)["not for this role"] == 2
