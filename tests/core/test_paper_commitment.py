"""Commitment: §5.3, §5.4 of the Raft paper, with hazards 20, 22, 32."""

import pytest

from raftd.core.messages import AppendEntries, AppendEntriesReply, EntryKind, RequestVoteReply
from raftd.core.ready import Role
from tests.core.cluster import ELECTION_TIMEOUT_TICKS, Cluster, entry, log_of


def leader_with_log(size: int, *terms: int) -> Cluster:
    """Node 1 leads the term after `terms`; nobody else has said anything but yes."""
    cluster = Cluster(size, logs={1: log_of(*terms)})
    cluster.expire_election_timer(1)
    term = cluster[1].term + 1
    for pre_vote in (True, False):
        cluster.gather([1])
        for voter in cluster.voters[1:]:
            if cluster.role(1) is not Role.LEADER:
                cluster[1].step(voter, RequestVoteReply(term, True, pre_vote))
    assert cluster.role(1) is Role.LEADER
    cluster.gather([1])
    cluster.wire.clear()
    return cluster


def acknowledge(cluster: Cluster, follower: int, index: int) -> None:
    cluster[1].step(follower, AppendEntriesReply(cluster[1].term, True, index, 0, 0, 0))


@pytest.mark.parametrize(
    ("size", "acknowledging", "commits"),
    [(2, 0, False), (2, 1, True), (3, 0, False), (3, 1, True), (4, 1, False), (5, 1, False), (5, 2, True)],
)
def test_commits_when_a_majority_holds_the_entry(size: int, acknowledging: int, commits: bool) -> None:
    """ "A log entry is committed once the leader that created the entry has replicated it on a majority
    of the servers." (§5.3)"""
    cluster = leader_with_log(size)
    for follower in cluster.voters[1 : acknowledging + 1]:
        acknowledge(cluster, follower, 1)
    assert cluster[1].commit_index == int(commits)


def test_commits_only_entries_of_its_own_term_by_counting() -> None:
    """ "Raft never commits log entries from previous terms by counting replicas. Only log entries from the
    leader's current term are committed by counting replicas; once an entry from the current term has been
    committed in this way, then all prior entries are committed indirectly because of the Log Matching
    Property." (§5.4.2, hazard 20)"""
    cluster = leader_with_log(3, 1, 2)
    acknowledge(cluster, 2, 2)
    acknowledge(cluster, 3, 2)
    assert cluster[1].commit_index == 0
    acknowledge(cluster, 2, 3)
    assert cluster[1].commit_index == 3


def test_figure_8() -> None:
    """Figure 8: an entry of term 2 on a majority can still be overwritten, so the leader of term 4 must
    not have committed it."""
    logs = {1: log_of(1, 2), 2: log_of(1, 2), 3: log_of(1), 4: log_of(1), 5: log_of(1, 3)}
    cluster = Cluster(5, logs=logs, terms=dict.fromkeys(logs, 3))
    cluster.isolate(5)
    # (c): S1 leads term 4; its own entry does not get out, the one of term 2 reaches S3, a majority.
    cluster.lose = lambda sender, to, message: (
        isinstance(message, AppendEntries) and any(e.term == 4 for e in message.entries)
    )
    cluster.elect(1)
    cluster[1].step(3, AppendEntriesReply(4, True, 2, 0, 0, 0))
    cluster[1].step(2, AppendEntriesReply(4, True, 2, 0, 0, 0))
    cluster.stabilize()
    assert cluster[1].commit_index == 0
    # (d): S5 takes over and overwrites it with the entry of term 3.
    cluster.heal()
    cluster.isolate(1)
    cluster.tick(ELECTION_TIMEOUT_TICKS)
    cluster.elect(5)
    cluster.stabilize()
    for node in (2, 3, 4, 5):
        assert [e.term for e in cluster.nodes[node].applied[:2]] == [1, 3]


def test_a_leader_counts_itself_only_after_its_own_write() -> None:
    """The leader may write in parallel with its followers, "but it must not count itself before" (thesis
    §10.2.1); they alone may be the majority."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.nodes[1].disk.is_held = True
    cluster.cut = {(3, 1), (1, 3)}
    cluster.put(1)
    cluster.stabilize()
    assert cluster[1].commit_index == 1
    cluster.nodes[1].disk.is_held = False
    cluster.stabilize()
    assert cluster[1].commit_index == 2


def test_followers_alone_are_a_majority() -> None:
    """A slow disk of the leader does not slow the cluster: two of three have the entry (hazard 78)."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.nodes[1].disk.is_held = True
    cluster.put(1)
    cluster.stabilize()
    assert cluster[1].commit_index == 2
    assert cluster[1].status().durable_index == 1


def test_a_single_voter_commits_only_what_is_durable() -> None:
    """Hazard 32: a cluster of one acknowledged before its own disk did."""
    cluster = Cluster(1)
    cluster.tick(1)
    cluster.nodes[1].disk.is_held = True
    cluster.put(1, b"a")
    cluster.stabilize()
    assert cluster[1].commit_index == 1
    cluster.nodes[1].disk.is_held = False
    cluster.stabilize()
    assert cluster.nodes[1].committed_payloads() == [b"a"]


def test_a_new_leader_commits_a_no_op_first() -> None:
    """ "Raft handles this by having each leader commit a blank no-op entry into the log at the start of its
    term." (§8)"""
    cluster = Cluster(3, logs={node: log_of(1, 1) for node in (1, 2, 3)})
    cluster.elect(2)
    for node in cluster.nodes.values():
        assert [(e.index, e.term, e.kind) for e in node.applied] == [
            (1, 1, EntryKind.COMMANDS),
            (2, 1, EntryKind.COMMANDS),
            (3, 2, EntryKind.NOOP),
        ]


def test_nothing_counts_as_committed_after_a_restart() -> None:
    """ "commitIndex: initialized to 0" (Figure 2); here to what is applied on disk. The rest of the log waits
    for a leader (hazards 28, 39)."""
    cluster = Cluster(3)
    cluster.elect(1)
    for _ in range(5):
        cluster.put(1)
    cluster.stabilize()
    cluster.nodes[2].disk.applied_index = 3
    cluster.crash(2)
    assert (cluster[2].commit_index, cluster[2].last_applied, cluster[2].last_index) == (3, 3, 6)
    assert not cluster[2].has_ready()
    cluster.tick(ELECTION_TIMEOUT_TICKS)
    assert cluster[2].commit_index == 6


def test_a_leader_has_all_committed_entries() -> None:
    """ "Leader Completeness: if a log entry is committed in a given term, then that entry will be present
    in the logs of the leaders for all higher-numbered terms." (Figure 3)"""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.cut = {(1, 3), (3, 1)}
    cluster.put(1, b"a")
    cluster.stabilize()
    assert cluster[1].commit_index == 2
    cluster.heal()
    cluster.isolate(1)
    cluster.lose = lambda sender, to, message: isinstance(message, AppendEntries)
    leader = cluster.elect_any_but(1)
    assert leader == 2  # Node 3 lacks the entry.


def test_applied_entries_are_handed_out_in_bounded_batches() -> None:
    """A long backlog is not one batch: other work comes in between."""
    cluster = Cluster(1, max_apply_bytes=200)
    cluster.tick(1)
    for _ in range(20):
        cluster.put(1, b"v" * 68)
    cluster.stabilize()
    sizes = [len(ready.committed) for ready in cluster.nodes[1].readys if ready.committed]
    assert sum(sizes) == 21
    assert max(sizes) <= 3


def test_commit_never_outruns_the_log_of_a_follower() -> None:
    """Appends carry the leader's commit index, which may be far beyond what this follower holds (hazard
    22)."""
    cluster = Cluster(3)
    cluster[1].step(2, AppendEntries(1, 0, 0, 100, (entry(1, 1),)))
    assert cluster[1].commit_index == 1
