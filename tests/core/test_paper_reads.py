"""Linearizable reads without log entries: §8 of the paper, thesis §6.4, with hazards 36 to 39."""

from random import Random
from typing import Any

from raftd.core.config import RaftConfig
from raftd.core.messages import (
    AppendEntriesReply,
    HardState,
    Heartbeat,
    HeartbeatReply,
    ReadIndex,
    ReadIndexReply,
    RequestVoteReply,
)
from raftd.core.raft import Raft
from raftd.core.ready import ReadState, Role
from tests.core.cluster import ELECTION_TIMEOUT_TICKS, Cluster, log_of


def leader(**options: Any) -> Cluster:
    """Node 1 leads term 1 and has committed its no-op."""
    cluster = Cluster(3, **options)
    cluster.elect(1)
    return cluster


def last_round(cluster: Cluster) -> int:
    return max(heartbeat.round for heartbeat in cluster.sent(Heartbeat, 1))


def test_a_read_waits_for_a_round_of_heartbeats() -> None:
    """ "Raft handles this by having the leader exchange heartbeat messages with a majority of the cluster
    before responding to read-only requests." (§8)"""
    cluster = leader()
    cluster.read(1, 7)
    number = last_round(cluster)
    assert cluster.nodes[1].reads == []
    cluster[1].step(2, HeartbeatReply(1, number))
    cluster.gather([1])
    assert cluster.nodes[1].reads == [ReadState(7, 1)]


def test_a_follower_asks_the_leader() -> None:
    """ "The follower could issue a request to the leader that just asks for the current readIndex (the leader
    would execute steps 1–3 above); the follower could then execute steps 4 and 5 on its own state machine."
    (thesis §6.4)"""
    cluster = leader()
    cluster.put(1)
    cluster.stabilize()
    cluster.read(3, 7)
    (question,) = cluster.sent(ReadIndex, 3)
    cluster.stabilize()
    assert cluster.nodes[3].reads == [ReadState(7, 2)]
    assert question.term == 1


def test_the_read_index_covers_every_write_acknowledged_before() -> None:
    """ "The leader saves its current commit index in a local variable readIndex." (thesis §6.4)"""
    cluster = leader()
    for number in range(2, 10):
        cluster.put(1)
        cluster.stabilize()
        for node in cluster.voters:
            cluster.read(node, number)
        cluster.stabilize()
        for node in cluster.voters:
            assert cluster.nodes[node].reads[-1] == ReadState(number, number)


def test_a_read_does_not_join_a_round_under_way_at_the_leader() -> None:
    """A round under way has fixed its index already, perhaps before a write that the reader has seen."""
    cluster = leader(max_read_rounds=1)
    cluster.read(1, 7)
    first = last_round(cluster)
    cluster.wire.clear()
    cluster.put(1)
    cluster.nodes[1].turn()
    cluster[1].step(2, AppendEntriesReply(1, True, 2, 0, 0, 0))
    assert cluster[1].commit_index == 2
    cluster.read(1, 8)
    cluster[1].step(2, HeartbeatReply(1, first))
    cluster.gather([1])
    assert cluster.nodes[1].reads == [ReadState(7, 1)]
    second = last_round(cluster)
    assert second > first
    cluster[1].step(3, HeartbeatReply(1, first))
    cluster.gather([1])
    assert cluster.nodes[1].reads == [ReadState(7, 1)]
    cluster[1].step(3, HeartbeatReply(1, second))
    cluster.gather([1])
    assert cluster.nodes[1].reads == [ReadState(7, 1), ReadState(8, 2)]


def test_a_read_does_not_join_a_question_under_way_at_a_follower() -> None:
    """The same rule at the follower's batcher: the answer may be older than the read."""
    cluster = leader(max_read_rounds=1)
    cluster.read(3, 7)
    (first,) = cluster.sent(ReadIndex, 3)
    cluster.wire.clear()
    cluster.read(3, 8)
    assert cluster.sent(ReadIndex, 3) == []
    cluster[3].step(1, ReadIndexReply(1, first.nonce, 1, False))
    (second,) = cluster.sent(ReadIndex, 3)
    assert cluster.nodes[3].reads == [ReadState(7, 1)]
    assert second.nonce != first.nonce
    cluster[3].step(1, ReadIndexReply(1, second.nonce, 4, False))
    cluster.gather([3])
    assert cluster.nodes[3].reads == [ReadState(7, 1), ReadState(8, 4)]


def test_many_reads_share_a_round() -> None:
    """Reads of one turn cost one round together, on the leader and from a follower."""
    cluster = leader()
    for token in range(100):
        cluster.read(1, token)
        cluster.read(2, token)
    assert len(cluster.sent(ReadIndex, 2)) == 1
    assert len(cluster.sent(Heartbeat, 1)) == 2
    cluster.stabilize()
    assert len(cluster.nodes[1].reads) == len(cluster.nodes[2].reads) == 100


def test_rounds_under_way_are_bounded() -> None:
    """However fast reads arrive: those that find no round share the next one."""
    cluster = leader(max_read_rounds=2)
    for token in range(10):
        cluster.read(1, token)
        cluster.gather([1])
    assert len(cluster.sent(Heartbeat, 1)) == 2 * 2
    cluster.stabilize()
    assert len(cluster.nodes[1].reads) == 10


def test_a_new_leader_serves_no_read_before_its_no_op_is_committed() -> None:
    """ "If the leader has not yet marked an entry from its current term committed, it waits until it has done
    so." (thesis §6.4, hazards 36, 39)"""
    cluster = Cluster(3, logs={node: log_of(1, 1) for node in (1, 2, 3)})
    cluster.expire_election_timer(1)
    cluster[1].step(2, RequestVoteReply(2, True, True))
    cluster[1].step(2, RequestVoteReply(2, True, False))
    assert cluster.role(1) is Role.LEADER
    cluster.read(1, 7)
    assert cluster.ask(1, 3, ReadIndex(2, 99)) != []  # Its heartbeat and its append, but no answer.
    for number in range(1, 5):
        cluster[1].step(2, HeartbeatReply(2, number))
        cluster[1].tick(10)
        cluster.gather([1])
    assert cluster.nodes[1].reads == []
    assert cluster.sent(ReadIndexReply) == []
    cluster.wire.clear()
    cluster[1].step(2, AppendEntriesReply(2, True, 3, 0, 0, 0))
    cluster.gather([1])
    cluster[1].step(2, HeartbeatReply(2, last_round(cluster)))
    assert [reply.index for reply in cluster.sent(ReadIndexReply)] == [3]
    assert cluster.nodes[1].reads == [ReadState(7, 3)]


def test_a_deposed_leader_fails_its_reads() -> None:
    """ "A leader must check whether it has been deposed before processing a read-only request." (§8)"""
    cluster = leader()
    cluster.read(1, 7)
    cluster[2].read_index(8)
    cluster.deliver()
    cluster[1].step(3, Heartbeat(2, 0, 1))
    cluster.gather([1])
    assert cluster.nodes[1].reads == [ReadState(7, None)]
    (refusal,) = cluster.sent(ReadIndexReply, 1)
    assert (refusal.refused, refusal.term) == (True, 2)


def test_an_isolated_leader_never_serves_a_read() -> None:
    """No lease: without a majority's answer after the read arrived there is no read (hazard 38)."""
    cluster = leader()
    cluster.isolate(1)
    cluster.read(1, 7)
    cluster.tick(ELECTION_TIMEOUT_TICKS - 1)
    assert cluster.nodes[1].reads == []
    cluster.tick(ELECTION_TIMEOUT_TICKS)
    assert cluster.nodes[1].reads == [ReadState(7, None)]


def test_late_answers_confirm_nothing() -> None:
    """Hazard 37: heartbeat answers delayed over a pause and a change of leader confirmed a reused
    context. The answer to a round before the read, or of another term, says nothing."""
    cluster = leader()
    cluster.read(1, 7)
    number = last_round(cluster)
    for late in (HeartbeatReply(1, number - 1), HeartbeatReply(1, 1), HeartbeatReply(1, number + 1)):
        cluster[1].step(2, late)
    cluster.gather([1])
    assert cluster.nodes[1].reads == []
    assert cluster.ignored(1)["answer to a round that never was"] == 1


def test_rounds_are_not_carried_over_to_the_next_term() -> None:
    """Hazard 37: the same round number of an older term is stale by its term."""
    cluster = leader()
    cluster.read(1, 1)
    cluster.stabilize()
    cluster.elect(2)
    cluster.elect(1)
    assert cluster[1].term == 3
    cluster.read(1, 7)
    number = last_round(cluster)
    cluster[1].step(2, HeartbeatReply(1, number))
    cluster[1].step(3, HeartbeatReply(2, number))
    cluster.gather([1])
    assert ReadState(7, 3) not in cluster.nodes[1].reads
    assert cluster.ignored(1)["stale term"] == 2


def test_nonces_are_not_reused_after_a_restart() -> None:
    """Hazard 37: an answer to this node's former self, of the same term, must not answer a new read."""
    cluster = leader()
    cluster.read(3, 7)
    (question,) = cluster.sent(ReadIndex, 3)
    cluster.wire.clear()
    cluster.crash(3)
    cluster.tick(10)
    assert cluster[3].leader == 1
    cluster.read(3, 8)
    (repeated,) = cluster.sent(ReadIndex, 3)
    assert (repeated.term, repeated.nonce != question.nonce) == (question.term, True)
    cluster[3].step(1, ReadIndexReply(1, question.nonce, 1, False))
    cluster.gather([3])
    assert cluster.nodes[3].reads == []
    assert cluster.ignored(3)["stale read index"] == 1


def test_a_lost_question_is_repeated_under_a_fresh_nonce() -> None:
    cluster = leader()
    cluster.read(3, 7)
    (lost,) = cluster.sent(ReadIndex, 3)
    cluster.wire.clear()
    cluster[3].tick(cluster[3].ticks_until_due())
    (repeated,) = cluster.sent(ReadIndex, 3)
    assert repeated.nonce != lost.nonce
    cluster.stabilize()
    assert cluster.nodes[3].reads == [ReadState(7, 1)]


def test_a_question_without_an_answer_fails_in_time() -> None:
    """Reads end: the node must be able to say that nothing is known."""
    cluster = leader()
    cluster.lose = lambda sender, to, message: isinstance(message, ReadIndex)
    cluster.read(3, 7)
    cluster.stabilize()
    cluster.tick(ELECTION_TIMEOUT_TICKS - 1)
    assert cluster.nodes[3].reads == []
    cluster.tick(1)
    assert cluster.nodes[3].reads == [ReadState(7, None)]
    assert cluster[3].leader == 1


def test_a_leader_that_cannot_commit_fails_reads_in_time() -> None:
    """Contact alone is not enough to serve; those who asked stop waiting, and their places become free."""
    cluster = Cluster(3, max_pending_reads=2)
    cluster.lose = lambda sender, to, message: isinstance(message, AppendEntriesReply)
    cluster.elect(1)
    for token in (7, 8, 9):
        cluster.read(1, token)
    cluster.stabilize()
    assert cluster.nodes[1].reads == [ReadState(9, None)]
    cluster.tick(ELECTION_TIMEOUT_TICKS + 1)
    assert cluster.nodes[1].reads == [ReadState(token, None) for token in (9, 7, 8)]
    cluster.heal()
    cluster.read(1, 10)
    cluster.tick(ELECTION_TIMEOUT_TICKS)
    assert cluster.nodes[1].reads[-1] == ReadState(10, 1)


def test_a_follower_fails_its_reads_when_the_leader_changes() -> None:
    cluster = leader()
    cluster.read(3, 7)
    cluster.sent(ReadIndex, 3)
    cluster[3].step(2, Heartbeat(2, 0, 1))
    cluster.gather([3])
    assert cluster.nodes[3].reads == [ReadState(7, None)]


def test_without_a_leader_a_read_fails_at_once() -> None:
    cluster = Cluster(3)
    cluster.read(1, 7)
    cluster.expire_election_timer(1)
    cluster.read(1, 8)
    cluster.gather([1])
    assert cluster.nodes[1].reads == [ReadState(7, None), ReadState(8, None)]


def test_pending_reads_are_bounded() -> None:
    cluster = leader(max_pending_reads=3)
    for token in range(5):
        cluster.read(1, token)
        cluster.read(3, token)
    cluster.gather()
    for node in (1, 3):
        assert cluster.nodes[node].reads == [ReadState(3, None), ReadState(4, None)]
    cluster.stabilize()
    assert len(cluster.nodes[1].reads) == 5


def test_the_commit_index_rides_on_the_answer() -> None:
    """A follower that holds the entry need not wait for the next word of the commit to serve the read."""
    cluster = leader()
    cluster.lose = lambda sender, to, message: isinstance(message, Heartbeat) and to == 3
    cluster.put(1)
    cluster.stabilize()
    assert cluster[3].commit_index == 1
    cluster.read(3, 7)
    cluster.stabilize()
    assert cluster.nodes[3].reads == [ReadState(7, 2)]
    assert cluster[3].last_applied == 2


def test_the_answer_commits_nothing_that_is_not_verified() -> None:
    """Beyond what this term's leader has verified, the follower's log may differ (hazard 22)."""
    cluster = Cluster(3, logs={1: log_of(1, 1, 1)}, terms={1: 2})
    cluster[1].step(2, Heartbeat(2, 0, 1))
    cluster.read(1, 7)
    (question,) = cluster.sent(ReadIndex, 1)
    cluster[1].step(2, ReadIndexReply(2, question.nonce, 3, False))
    cluster.gather([1])
    assert cluster.nodes[1].reads == [ReadState(7, 3)]
    assert cluster[1].commit_index == 0


def test_a_single_voter_reads_at_once() -> None:
    """A majority of one needs no heartbeat, but still a committed entry of its term."""
    raft = Raft(RaftConfig(1, (1,)), Random(0), HardState(0, None), 0, 0, [], 0)
    raft.tick(1)
    raft.read_index(7)
    ready = raft.ready()
    assert ready.reads == []
    raft.written(1, 1)
    assert raft.ready().reads == [ReadState(7, 1)]
