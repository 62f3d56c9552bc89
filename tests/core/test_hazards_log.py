"""Log, commitment, acknowledgements: hazards 20 to 29, beyond the rules of the paper."""

from random import Random

import pytest

from raftd.core.config import RaftConfig
from raftd.core.messages import (
    AppendEntries,
    AppendEntriesReply,
    Entry,
    HardState,
    Heartbeat,
    HeartbeatReply,
)
from raftd.core.progress import ProgressState
from raftd.core.raft import Raft
from tests.core.cluster import ELECTION_TIMEOUT_TICKS, Cluster, entry, log_of


def progress(cluster: Cluster, follower: int) -> tuple[int, int, ProgressState]:
    (status,) = [f for f in cluster[1].status().followers if f.node_id == follower]
    return status.match_index, status.next_index, status.state


def leader_with_five_entries() -> Cluster:
    cluster = Cluster(3)
    cluster.elect(1)
    for _ in range(4):
        cluster.put(1)
    cluster.stabilize()
    assert progress(cluster, 2) == (5, 6, ProgressState.REPLICATE)
    return cluster


def test_match_index_never_moves_back() -> None:
    """Hazard 21: replies that overtake each other."""
    cluster = leader_with_five_entries()
    for index in (3, 0, 5, 1):
        cluster[1].step(2, AppendEntriesReply(1, True, index, 0, 0, 0))
        assert progress(cluster, 2) == (5, 6, ProgressState.REPLICATE)


def test_commit_index_never_moves_back() -> None:
    """Hazard 22: messages that overtake each other carry older commit indexes."""
    cluster = leader_with_five_entries()
    cluster[2].step(1, AppendEntries(1, 5, 1, 2, ()))
    cluster[2].step(1, Heartbeat(1, 1, 0))
    assert cluster[2].commit_index == 5


def test_heartbeats_say_nothing_of_the_log() -> None:
    """Hazard 23: the answer to a heartbeat advanced matchIndex over a tail that differed."""
    cluster = Cluster(3, logs={2: log_of(1, 1, 1, 1)}, terms={1: 1, 3: 1})
    cluster.lose = lambda sender, to, message: 2 in (sender, to)
    cluster.elect(1)
    cluster.lose = lambda sender, to, message: to == 2 and isinstance(message, AppendEntries)
    cluster.tick(50)
    assert cluster[2].leader == 1
    assert cluster[1].commit_index == 1
    assert progress(cluster, 2)[0] == 0
    assert cluster[2].commit_index == 0


def test_match_index_starts_anew_with_each_term() -> None:
    """Hazard 24: it was kept across terms."""
    cluster = leader_with_five_entries()
    cluster.elect(2)
    cluster.lose = lambda sender, to, message: sender == 1 and isinstance(message, AppendEntries)
    cluster.elect(1)
    assert cluster[1].term == 3
    assert progress(cluster, 2) == (0, 7, ProgressState.PROBE)


def test_a_late_refusal_changes_nothing() -> None:
    """Hazard 25: a refusal that arrived after a success crashed the leader, or stalled it."""
    cluster = leader_with_five_entries()
    for rejected, conflict in ((5, 5), (3, 1), (0, 0), (9, 9), (6, 6)):
        cluster[1].step(2, AppendEntriesReply(1, False, 0, rejected, conflict, 0))
        assert progress(cluster, 2) == (5, 6, ProgressState.REPLICATE)
    assert cluster.ignored(1)["stale rejection"] == 5


def test_a_refusal_moves_a_probe_only_once() -> None:
    """Hazard 25: duplicates of a refusal must not walk back over the log."""
    cluster = Cluster(3, logs={1: log_of(1, 1, 1, 1, 1)}, terms={2: 1, 3: 1})
    cluster.cut = {(2, 1)}
    cluster.elect(1)
    assert progress(cluster, 2) == (0, 6, ProgressState.PROBE)
    for _ in range(3):
        cluster[1].step(2, AppendEntriesReply(2, False, 0, 5, 4, 0))
        assert progress(cluster, 2) == (0, 4, ProgressState.PROBE)


@pytest.mark.parametrize(
    ("rejected", "conflict_index", "conflict_term"),
    [(5, 5, 0), (5, 99, 0), (5, 0, 0), (5, 0, 1), (5, 7, 2), (5, 1, 1)],
)
def test_every_refusal_makes_progress(rejected: int, conflict_index: int, conflict_term: int) -> None:
    """The next probe is below the rejected place, whatever the follower says, or the search never ends."""
    cluster = Cluster(3, logs={1: log_of(1, 1, 1, 1, 1)}, terms={2: 1, 3: 1})
    cluster.cut = {(2, 1)}
    cluster.elect(1)
    cluster[1].step(2, AppendEntriesReply(2, False, 0, rejected, conflict_index, conflict_term))
    _, next_index, _ = progress(cluster, 2)
    assert 1 <= next_index <= rejected


def test_the_next_probe_follows_the_leaders_last_entry_of_the_conflicting_term() -> None:
    """§5.3: up to there the logs may agree; if they do not, the next refusal steps over the whole term."""
    cluster = Cluster(3, logs={1: log_of(1, 1, 2, 2, 4)}, terms={2: 4, 3: 4})
    cluster.cut = {(2, 1)}
    cluster.elect(1)
    cluster[1].step(2, AppendEntriesReply(5, False, 0, 5, 2, 2))
    assert progress(cluster, 2) == (0, 5, ProgressState.PROBE)
    cluster.gather()
    cluster[1].step(2, AppendEntriesReply(5, False, 0, 4, 2, 1))
    assert progress(cluster, 2) == (0, 3, ProgressState.PROBE)
    cluster.gather()
    cluster[1].step(2, AppendEntriesReply(5, False, 0, 2, 2, 0))
    assert progress(cluster, 2) == (0, 2, ProgressState.PROBE)


def test_stale_appends_cut_nothing() -> None:
    """Hazard 26: a late append, shorter than what came after it, cut acknowledged entries."""
    cluster = leader_with_five_entries()
    cluster[2].step(1, AppendEntries(1, 1, 1, 1, (entry(2, 1),)))
    cluster[2].step(1, AppendEntries(1, 2, 1, 1, ()))
    assert cluster[2].last_index == 5


def follower() -> Raft:
    return Raft(RaftConfig(1, (1, 2, 3)), Random(0), HardState(1, None), 0, 0, log_of(1), 0)


def test_an_overwritten_write_makes_nothing_durable() -> None:
    """Hazard 27, A-B: the sync of an entry that was replaced meanwhile says nothing of its successor."""
    raft = follower()
    raft.step(2, AppendEntries(2, 1, 1, 0, (entry(2, 2), entry(3, 2))))
    raft.ready()
    raft.step(3, AppendEntries(3, 1, 1, 0, (entry(2, 3),)))
    raft.ready()
    assert raft.status().durable_index == 1
    raft.written(3, 2)
    assert raft.status().durable_index == 1
    raft.written(2, 3)
    assert raft.status().durable_index == 2


def test_a_write_that_was_overwritten_and_came_back_is_not_durable() -> None:
    """Hazard 27, A-B-A: index and term are the same again, but the disk will hold something else in
    between; a crash then would take an acknowledged entry."""
    raft = follower()
    raft.step(2, AppendEntries(2, 1, 1, 0, (entry(2, 2),)))
    raft.ready()
    raft.step(3, AppendEntries(3, 1, 1, 0, (entry(2, 3),)))
    raft.ready()
    raft.step(2, AppendEntries(4, 1, 1, 0, (entry(2, 2),)))
    raft.ready()
    raft.written(2, 2)
    assert raft.status().durable_index == 1
    raft.written(2, 3)
    assert raft.status().durable_index == 1
    raft.written(2, 2)
    assert raft.status().durable_index == 2


def test_what_is_cut_is_not_durable_any_more() -> None:
    """Hazard 27: this node, become leader, must not count itself for entries that replaced durable ones."""
    raft = Raft(RaftConfig(1, (1, 2, 3)), Random(0), HardState(1, None), 0, 0, log_of(1, 1, 1), 0)
    assert raft.status().durable_index == 3
    raft.step(2, AppendEntries(2, 1, 1, 0, (entry(2, 2), entry(3, 2))))
    assert raft.status().durable_index == 1


def test_one_report_may_stand_for_several_writes() -> None:
    """Group commit: what the last one holds is durable, and all before it."""
    raft = follower()
    for index in (2, 3, 4):
        raft.step(2, AppendEntries(1, index - 1, 1, 0, (entry(index, 1),)))
        raft.ready()
    raft.written(4, 1)
    assert raft.status().durable_index == 4


def test_a_report_of_an_unknown_write_is_the_nodes_mistake() -> None:
    raft = follower()
    with pytest.raises(AssertionError, match="no write under way ends with entry 7 of term 1"):
        raft.written(7, 1)


def test_a_commit_beyond_the_log_is_not_believed() -> None:
    """Hazard 28: after a lost tail or a restored backup, "tocommit out of range" crashed the node over
    and over. It must neither crash nor apply what stands there now."""
    cluster = Cluster(3, logs={2: log_of(1, 1)})
    assert cluster.ask(2, 1, Heartbeat(1, 9, 4)) == [HeartbeatReply(1, 4)]
    assert cluster[2].commit_index == 0
    assert cluster.ignored(2) == {"commit beyond the log": 1}


def test_a_follower_that_lost_its_tail_does_not_crash_the_leader() -> None:
    """Hazard 28: one bad follower must not take the leader with it."""
    cluster = leader_with_five_entries()
    cluster.nodes[3].disk.entries = cluster.nodes[3].disk.entries[:2]
    cluster.nodes[3].disk.applied_index = 1
    cluster.crash(3)
    cluster.put(1, b"a")
    cluster.tick(5 * ELECTION_TIMEOUT_TICKS)
    assert cluster.leaders() == [1]
    assert cluster.nodes[2].committed_payloads()[-1] == b"a"


def test_an_append_against_what_is_committed_is_not_believed() -> None:
    """A committed entry is never replaced (§5.4); who asks for it is wrong."""
    cluster = leader_with_five_entries()
    for append in (
        AppendEntries(3, 3, 1, 5, (entry(4, 2), entry(5, 2), entry(6, 2))),
        AppendEntries(3, 5, 2, 5, (entry(6, 2),)),
    ):
        assert cluster.ask(2, 3, append) == []
    assert cluster.ignored(2)["append contradicts a committed entry"] == 2
    assert [e.term for e in cluster.nodes[2].disk.entries] == [1] * 5


@pytest.mark.parametrize(
    ("base_index", "base_term", "entries", "applied_index", "message"),
    [
        (0, 0, [entry(2, 1)], 0, "entry 2 after 0"),
        (0, 0, [entry(1, 1), entry(3, 1)], 0, "entry 3 after 1"),
        (0, 0, [entry(1, 2), entry(2, 1)], 0, "term 1 after 2 at 2"),
        (0, 0, [entry(1, 1)], 2, "applied 2 outside of the log 0..1"),
        (5, 1, [], 4, "applied 4 outside of the log 5..5"),
        (0, 0, [entry(1, 9)], 1, "log of term 9 in term 3"),
    ],
)
def test_a_log_with_a_gap_does_not_start(
    base_index: int, base_term: int, entries: list[Entry], applied_index: int, message: str
) -> None:
    """Hazard 29: a gap or missing entries after a restart. The store must not hand out such a log."""
    with pytest.raises(AssertionError, match=message):
        Raft(
            RaftConfig(1, (1, 2, 3)),
            Random(0),
            HardState(3, None),
            base_index,
            base_term,
            entries,
            applied_index,
        )


def test_an_empty_window_after_a_restart_is_sound() -> None:
    """Everything may be applied and none of it loaded (hazard 29)."""
    raft = Raft(RaftConfig(1, (1, 2, 3)), Random(0), HardState(3, None), 7, 2, [], 7)
    assert (raft.last_index, raft.commit_index, raft.last_applied) == (7, 7, 7)
    raft.step(2, AppendEntries(3, 7, 2, 8, (entry(8, 3),)))
    ready = raft.ready()
    assert ready.entries == ready.committed == [entry(8, 3)]
    raft.step(2, AppendEntries(3, 3, 1, 8, (entry(4, 1),)))
    assert raft.ready().messages_after_write[0].message == AppendEntriesReply(3, True, 8, 0, 0, 0)
