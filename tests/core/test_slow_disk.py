"""A disk that hangs decides leadership, with hazards 18 and 78."""

from raftd.core.messages import AppendEntries, RequestVote, RequestVoteReply, TimeoutNow
from raftd.core.ready import Role
from tests.core.cluster import ELECTION_TIMEOUT_TICKS, Cluster


def hung(cluster: Cluster, *node_ids: int) -> None:
    for node_id in node_ids:
        cluster.nodes[node_id].disk.is_held = True


def test_a_leader_with_a_hung_disk_gives_way() -> None:
    """Hazard 18: it kept up its heartbeats, and the cluster stood still for ever. It steps down when a
    majority has acknowledged entries that came after its sync began, and that sync is as old as the
    election timeout."""
    cluster = Cluster(3)
    cluster.elect(1)
    hung(cluster, 1)
    cluster.put(1, b"a")
    cluster.tick(ELECTION_TIMEOUT_TICKS - 1)
    cluster.put(1, b"b")
    cluster.stabilize()
    assert cluster.leaders() == [1]
    cluster.tick(1)
    assert cluster.role(1) is Role.FOLLOWER
    leader = cluster.elect_any()
    assert leader != 1
    cluster.put(leader, b"c")
    cluster.stabilize()
    assert cluster.nodes[leader].committed_payloads() == [b"a", b"b", b"c"]


def test_a_leader_whose_lone_entry_hangs_gives_way_later() -> None:
    """The others hold what its sync is to bring: they may just have begun before it. It gets more time."""
    cluster = Cluster(3)
    cluster.elect(1)
    hung(cluster, 1)
    cluster.put(1)
    for _ in range(4):
        assert cluster.leaders() == [1]
        cluster.tick(ELECTION_TIMEOUT_TICKS)
    assert cluster.role(1) is Role.FOLLOWER


def test_it_does_not_come_back_before_its_disk_does() -> None:
    """ "A node with an overdue sync neither starts nor grants a PreVote." """
    cluster = Cluster(3)
    cluster.elect(1)
    hung(cluster, 1)
    cluster.put(1)
    cluster.tick(4 * ELECTION_TIMEOUT_TICKS)
    for _ in range(20):
        cluster.expire_election_timer(1)
        assert cluster.role(1) is Role.FOLLOWER
    pre_vote = RequestVote(2, 9, 1, pre_vote=True, leadership_transfer=False)
    assert cluster.ask(1, 2, pre_vote) == [RequestVoteReply(1, False, True)]
    cluster.nodes[1].disk.is_held = False
    cluster.gather([1])
    assert cluster.ask(1, 2, pre_vote) == [RequestVoteReply(2, True, True)]
    cluster.expire_election_timer(1)
    assert cluster.role(1) is Role.PRE_CANDIDATE


def test_a_disk_that_is_slow_for_everybody_deposes_nobody() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    hung(cluster, 1, 2, 3)
    cluster.put(1)
    cluster.tick(10 * ELECTION_TIMEOUT_TICKS)
    assert (cluster.leaders(), cluster[1].term) == ([1], 1)


def test_one_fast_follower_is_no_majority() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    hung(cluster, 1, 2)
    cluster.put(1)
    cluster.tick(10 * ELECTION_TIMEOUT_TICKS)
    assert cluster.leaders() == [1]


def test_a_slow_disk_that_moves_deposes_nobody() -> None:
    """Each sync ends within the election timeout: the followers carry the commits meanwhile (hazard 78)."""
    cluster = Cluster(3)
    cluster.elect(1)
    for number in range(10):
        hung(cluster, 1)
        cluster.put(1, b"%d" % number)
        cluster.tick(ELECTION_TIMEOUT_TICKS - 1)
        cluster.nodes[1].disk.is_held = False
        cluster.stabilize()
    assert cluster.leaders() == [1]
    assert len(cluster.nodes[1].committed_payloads()) == 10


def test_an_idle_leader_has_nothing_overdue() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.tick(10 * ELECTION_TIMEOUT_TICKS)
    hung(cluster, 1)
    cluster.tick(10 * ELECTION_TIMEOUT_TICKS)
    assert cluster.leaders() == [1]


def test_a_hung_disk_does_not_take_over() -> None:
    """Nor by TimeoutNow: such a leader could commit nothing by itself."""
    cluster = Cluster(3)
    cluster.elect(1)
    hung(cluster, 2)
    cluster.put(1)
    cluster.tick(ELECTION_TIMEOUT_TICKS)
    cluster[2].step(1, TimeoutNow(1))
    assert cluster.role(2) is Role.FOLLOWER
    assert cluster.ignored(2)["handing over to a hung disk"] == 1


def test_heartbeats_do_not_wait_for_the_disk() -> None:
    """A follower whose disk hangs still answers its leader, which would lose its quorum otherwise."""
    cluster = Cluster(3)
    cluster.elect(1)
    hung(cluster, 2, 3)
    cluster.put(1)
    cluster.tick(5 * ELECTION_TIMEOUT_TICKS)
    assert cluster.leaders() == [1]
    assert cluster[1].commit_index == 1


def test_a_slow_follower_is_not_sent_everything_again_and_again() -> None:
    """Hazard 35: repeating the backlog to a follower that is merely slow makes it slower still."""
    cluster = Cluster(3)
    cluster.elect(1)
    hung(cluster, 3)
    carried = 0

    def count(sender: int, to: int, message: object) -> bool:
        nonlocal carried
        if to == 3 and isinstance(message, AppendEntries):
            carried += len(message.entries)
        return False

    cluster.lose = count
    for _ in range(20):
        cluster.put(1)
        cluster.stabilize()
    cluster.tick(20 * ELECTION_TIMEOUT_TICKS)
    assert carried == 20
    cluster.nodes[3].disk.is_held = False
    cluster.stabilize()
    assert cluster[3].commit_index == 21
