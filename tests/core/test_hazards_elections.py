"""Terms, votes and leaders: hazards 1 to 7 and 16, beyond the rules of the paper."""

from raftd.core.messages import (
    AppendEntries,
    HardState,
    Heartbeat,
    HeartbeatReply,
    ReadIndex,
    RequestVote,
    RequestVoteReply,
)
from raftd.core.proposal import NotLeader
from raftd.core.ready import Role
from tests.core.cluster import Cluster, entry, log_of


def vote(term: int) -> RequestVote:
    return RequestVote(term, 9, term - 1, pre_vote=False, leadership_transfer=False)


def test_term_and_vote_change_in_one_write() -> None:
    """Hazard 1: a crash between two writes made a double vote."""
    cluster = Cluster(3)
    cluster[1].step(2, vote(4))
    ready = cluster[1].ready()
    assert ready.hard_state == HardState(4, 2)
    assert not cluster[1].has_ready()


def test_a_vote_leaves_after_its_write() -> None:
    """Hazard 4: the reply left before term and vote were durable."""
    cluster = Cluster(3)
    cluster[1].step(2, vote(4))
    ready = cluster[1].ready()
    assert ready.messages == []
    assert [e.message for e in ready.messages_after_write] == [RequestVoteReply(4, True, False)]


def test_a_candidacy_leaves_after_its_write() -> None:
    """Hazard 4: its own term and vote come first; a crash after the request would free a second vote."""
    cluster = Cluster(3)
    cluster.expire_election_timer(1)
    cluster[1].ready()
    cluster[1].step(2, RequestVoteReply(1, True, True))
    ready = cluster[1].ready()
    assert ready.hard_state == HardState(1, 1)
    assert ready.messages == []
    assert [e.message for e in ready.messages_after_write] == [RequestVote(1, 0, 0, False, False)] * 2


def test_nothing_tells_of_a_term_that_is_not_on_disk() -> None:
    """Hazard 4: neither heartbeat answers nor questions may speak of a term that a crash would take back."""
    cluster = Cluster(3)
    cluster[1].step(2, Heartbeat(6, 0, 3))
    cluster[1].read_index(7)
    ready = cluster[1].ready()
    assert ready.messages == []
    later = [type(e.message) for e in ready.messages_after_write]
    assert later == [HeartbeatReply, ReadIndex]
    cluster[1].step(2, Heartbeat(6, 0, 4))
    assert [e.message for e in cluster[1].ready().messages_after_write] == [HeartbeatReply(6, 4)]
    cluster[1].written(0, 0)
    cluster[1].step(2, Heartbeat(6, 0, 5))
    assert [e.message for e in cluster[1].ready().messages] == [HeartbeatReply(6, 5)]


def test_an_earlier_write_does_not_cover_a_later_term() -> None:
    """Hazard 4: the term rose again while the write of the one before was under way."""
    cluster = Cluster(3)
    cluster[1].step(2, Heartbeat(5, 0, 1))
    cluster[1].ready()
    cluster[1].step(3, Heartbeat(6, 0, 1))
    cluster[1].ready()
    cluster[1].written(0, 0)
    cluster[1].step(3, Heartbeat(6, 0, 2))
    assert cluster[1].ready().messages == []
    cluster[1].written(0, 0)
    cluster[1].step(3, Heartbeat(6, 0, 3))
    assert [e.message for e in cluster[1].ready().messages] == [HeartbeatReply(6, 3)]


def test_terms_survive_a_restart_of_all() -> None:
    """Hazard 2: after a full restart terms collapsed, and committed data was overwritten."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.elect(2)
    cluster.put(2, b"a")
    cluster.stabilize()
    for node in cluster.voters:
        cluster.crash(node)
    assert {cluster[node].term for node in cluster.voters} == {2}
    leader = cluster.elect_any()
    cluster.stabilize()
    assert cluster[leader].term == 3
    assert cluster.nodes[leader].committed_payloads() == [b"a"]


def test_a_vote_is_kept_when_the_candidate_loses_the_term() -> None:
    """Hazard 3: stepping down within the term erased the vote, and freed a second one."""
    cluster = Cluster(3)
    cluster.expire_election_timer(1)
    cluster[1].step(2, RequestVoteReply(1, True, True))
    cluster[1].step(3, Heartbeat(1, 0, 1))
    cluster.gather([1])
    assert cluster.nodes[1].disk.hard_state == HardState(1, 1)
    cluster.wire.clear()
    assert cluster.ask(1, 2, RequestVote(1, 0, 0, False, False)) == [RequestVoteReply(1, False, False)]


def test_a_leader_that_steps_down_keeps_its_vote() -> None:
    """Hazard 3, by CheckQuorum."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster[1].tick(60)
    assert cluster.role(1) is Role.FOLLOWER
    assert cluster.ask(1, 2, RequestVote(1, 9, 1, False, False))[-1] == RequestVoteReply(1, False, False)


def test_nobody_votes_where_a_leader_is_known() -> None:
    """The term is decided; a late request of it changes nothing (hazard 5)."""
    cluster = Cluster(3)
    cluster[1].step(2, Heartbeat(1, 0, 1))
    assert RequestVoteReply(1, False, False) in cluster.ask(1, 3, RequestVote(1, 0, 0, False, False))


def test_a_second_leader_in_one_term_is_not_believed() -> None:
    """Hazard 5: it cannot be; so the message is wrong, and this node must not trip over it."""
    cluster = Cluster(3)
    cluster.elect(1)
    for node in (1, 2):
        cluster.ask(node, 3, AppendEntries(1, 1, 1, 2, (entry(2, 1),)))
        cluster.ask(node, 3, Heartbeat(1, 1, 1))
        assert cluster.ignored(node)["second leader in one term"] == 2
        assert cluster[node].leader == 1
        assert cluster[node].last_index == 1


def test_the_same_candidate_gets_its_vote_again() -> None:
    """Hazard 6: the reply was lost, and the repeated request was refused."""
    cluster = Cluster(3)
    for _ in range(3):
        assert cluster.ask(1, 2, vote(4)) == [RequestVoteReply(4, True, False)]


def test_no_entry_carries_a_term_that_its_leader_did_not_win() -> None:
    """Hazard 7: a term that rose between two steps of the leader's loop was stamped on its entries."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster[1].propose(b"a")
    cluster[1].step(2, HeartbeatReply(5, 1))
    assert cluster[1].propose(b"b") == NotLeader(None, 5)
    ready = cluster[1].ready()
    assert [e.term for e in ready.entries] == [1]
    assert all(
        envelope.message.term == 1
        for envelope in ready.messages
        if isinstance(envelope.message, AppendEntries)
    )


def test_an_old_leader_reached_by_one_node_does_not_stop_the_others() -> None:
    """Hazard 16: heartbeats of an old leader, through one node that still hears it, kept a connected majority
    from electing."""
    cluster = Cluster(5, logs={node: log_of(1) for node in range(1, 6)})
    cluster.elect(1)
    cluster.cut = {(a, b) for a in (1,) for b in (3, 4, 5)} | {(b, 1) for b in (3, 4, 5)}
    leader = cluster.elect_any_but(1)
    cluster.tick(120)
    assert cluster.role(1) is Role.FOLLOWER
    cluster.put(cluster.leader(), b"a")
    cluster.stabilize()
    assert leader in (2, 3, 4, 5)
    assert cluster.nodes[cluster.leader()].committed_payloads()[-1:] == [b"a"]
