"""The election that follows a broken stream from the leader, with hazard 17."""

import pytest

from raftd.core.messages import Heartbeat, RequestVote, RequestVoteReply
from raftd.core.ready import Role
from tests.core.cluster import ELECTION_TIMEOUT_TICKS, Cluster

SHORT = range(1, 9)
"""5–40 ms in ticks of 5 ms."""


def pre_vote(cluster: Cluster, node_id: int) -> RequestVote:
    last = cluster.nodes[node_id].disk.entries[-1]
    return RequestVote(cluster[node_id].term + 1, last.index, last.term, True, False)


def cluster_with_dead_leader(size: int = 3, seed: int = 0) -> Cluster:
    """The highest node led, and is gone; its followers see their streams break."""
    cluster = Cluster(size, seed)
    cluster.elect(size)
    cluster.isolate(size)
    for node in range(1, size):
        cluster[node].leader_stream_broken(size)
    return cluster


def test_waits_a_short_random_time() -> None:
    waits = set()
    for seed in range(60):
        cluster = Cluster(3, seed)
        cluster.elect(3)
        cluster[1].leader_stream_broken(3)
        waits.add(cluster[1].ticks_until_due())
    assert waits == set(SHORT)


def test_asks_for_pre_votes_after_it() -> None:
    cluster = Cluster(3)
    cluster.elect(3)
    cluster.wire.clear()
    cluster[1].leader_stream_broken(3)
    cluster[1].tick(cluster[1].ticks_until_due())
    assert cluster.role(1) is Role.PRE_CANDIDATE
    assert cluster.sent(RequestVote) == [pre_vote(cluster, 1)] * 2


def test_a_heartbeat_calls_it_off() -> None:
    cluster = Cluster(3)
    cluster.elect(3)
    cluster[1].leader_stream_broken(3)
    cluster[1].step(3, Heartbeat(1, 1, 9))
    assert cluster[1].ticks_until_due() >= ELECTION_TIMEOUT_TICKS
    assert cluster.ask(1, 2, pre_vote(cluster, 2)) == [RequestVoteReply(1, False, True)]


def test_only_the_leaders_stream_matters() -> None:
    cluster = Cluster(3)
    cluster.elect(3)
    cluster[1].leader_stream_broken(2)
    assert cluster[1].ticks_until_due() >= ELECTION_TIMEOUT_TICKS - 1


def test_a_voter_grants_when_its_own_stream_is_broken() -> None:
    cluster = Cluster(3)
    cluster.elect(3)
    assert cluster.ask(2, 1, pre_vote(cluster, 1)) == [RequestVoteReply(1, False, True)]
    cluster[2].leader_stream_broken(3)
    assert cluster.ask(2, 1, pre_vote(cluster, 1)) == [RequestVoteReply(2, True, True)]


def test_a_leader_with_quorum_contact_always_refuses() -> None:
    cluster = Cluster(3)
    cluster.elect(3)
    cluster[1].leader_stream_broken(3)
    cluster[1].tick(8)
    cluster.stabilize()
    assert (cluster.leaders(), cluster.role(1)) == ([3], Role.PRE_CANDIDATE)
    cluster.tick(10)
    assert (cluster[1].leader, cluster[1].term) == (3, 1)


def test_at_most_one_fast_attempt_for_each_break() -> None:
    """A broken stream that stays broken must not become a stream of elections."""
    cluster = Cluster(3)
    cluster.elect(3)
    cluster.cut = {(3, 1), (1, 3)}
    cluster[1].leader_stream_broken(3)
    cluster.tick(max(SHORT))
    assert cluster.role(1) is Role.PRE_CANDIDATE
    asked: list[RequestVote] = []
    for _ in range(ELECTION_TIMEOUT_TICKS - 1 - max(SHORT)):
        cluster[1].leader_stream_broken(3)
        cluster[1].tick(1)
        asked += cluster.sent(RequestVote, 1)
        cluster.stabilize()
    assert asked == []


def test_a_repeated_report_of_one_break_does_not_draw_again() -> None:
    cluster = Cluster(3)
    cluster.elect(3)
    cluster[1].leader_stream_broken(3)
    wait = cluster[1].ticks_until_due()
    for _ in range(20):
        cluster[1].leader_stream_broken(3)
    assert cluster[1].ticks_until_due() == wait


def test_of_two_equal_pre_candidates_the_lower_id_waits() -> None:
    cluster = cluster_with_dead_leader()
    for node in (1, 2):
        cluster[node].tick(max(SHORT))
        assert cluster.role(node) is Role.PRE_CANDIDATE
        cluster.gather()
    answers = cluster.ask(2, 1, pre_vote(cluster, 1))
    assert RequestVoteReply(1, False, True) in answers
    assert pre_vote(cluster, 2) in answers
    assert cluster.ask(1, 2, pre_vote(cluster, 2))[-1] == RequestVoteReply(2, True, True)
    assert cluster.role(1) is Role.FOLLOWER
    assert cluster[1].ticks_until_due() in SHORT


@pytest.mark.parametrize("size", [3, 5])
def test_failover_takes_a_fraction_of_the_election_timeout(size: int) -> None:
    for seed in range(100):
        cluster = cluster_with_dead_leader(size, seed)
        ticks = 0
        while len(cluster.leaders()) < 2:
            cluster.tick(1)
            ticks += 1
        assert ticks <= 2 * max(SHORT), f"{ticks} ticks with seed {seed}"


def test_equal_timers_do_not_split_votes_for_ever() -> None:
    """Hazard 17: all nodes draw the same random numbers, start together and stand at the same moment."""
    for size in (2, 3, 4, 5, 7):
        cluster = Cluster(size, equal_seeds=True)
        leader = cluster.elect_any(timeouts=4)
        cluster.tick(ELECTION_TIMEOUT_TICKS)
        assert cluster.leaders() == [leader]


def test_a_split_vote_is_retried_soon_and_then_ever_later() -> None:
    cluster = Cluster(3)
    waits = []
    for lost in range(8):
        cluster.expire_election_timer(1)
        term = cluster[1].term + 1
        cluster[1].step(2, RequestVoteReply(term, True, True))
        assert cluster.role(1) is Role.CANDIDATE
        cluster[1].step(2, RequestVoteReply(term, False, False))
        waits.append(cluster[1].ticks_until_due())
        assert waits[lost] <= min(max(SHORT) << lost, ELECTION_TIMEOUT_TICKS)
    assert waits[0] in SHORT
    assert waits[-1] == ELECTION_TIMEOUT_TICKS


def test_silence_is_not_a_split_vote() -> None:
    """Nobody answers a candidate that is cut off: asking faster would not help."""
    cluster = Cluster(3)
    cluster.expire_election_timer(1)
    cluster[1].step(2, RequestVoteReply(1, True, True))
    assert cluster[1].ticks_until_due() >= ELECTION_TIMEOUT_TICKS
