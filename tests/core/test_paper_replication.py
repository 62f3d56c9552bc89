"""Log replication: §5.3, §5.5 and Figure 2 of the Raft paper. Each test quotes the rule it checks."""

import pytest

from raftd.core.messages import AppendEntries, AppendEntriesReply, EntryKind, Heartbeat
from raftd.core.progress import ProgressState
from raftd.core.proposal import NotLeader, Proposed
from raftd.core.ready import Role
from tests.core.cluster import ELECTION_TIMEOUT_TICKS, Cluster, entry, log_of


def terms_of(cluster: Cluster, node_id: int) -> list[int]:
    return [e.term for e in cluster.nodes[node_id].disk.entries]


def test_leader_appends_and_sends_in_the_same_turn() -> None:
    """ "The leader appends the command to its log as a new entry, then issues AppendEntries RPCs in
    parallel to each of the other servers." (§5.3) Its own write need not be done (thesis §10.2.1)."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.nodes[1].disk.is_held = True
    assert cluster.put(1, b"a") == Proposed(2, 1)
    ready = cluster[1].ready()
    assert ready.entries == [entry(2, 1, b"a")]
    appends = [e for e in ready.messages if isinstance(e.message, AppendEntries)]
    assert [e.to for e in appends] == [2, 3]
    assert appends[0].message == AppendEntries(1, 1, 1, 1, (entry(2, 1, b"a"),))
    assert ready.messages_after_write == []


def test_proposals_of_one_turn_travel_together() -> None:
    """A batch costs one message and one write, however many proposals it holds."""
    cluster = Cluster(3)
    cluster.elect(1)
    for payload in (b"a", b"b", b"c"):
        cluster.put(1, payload)
    appends = cluster.sent(AppendEntries)
    assert [[e.payload for e in append.entries] for append in appends] == [[b"a", b"b", b"c"]] * 2


def test_followers_refuse_proposals_and_name_the_leader() -> None:
    """ "If a client contacts a follower, the follower redirects it to the leader." (§5.1)"""
    cluster = Cluster(3)
    assert cluster[2].propose(b"a") == NotLeader(None, 0)
    cluster.elect(1)
    assert cluster[2].propose(b"a") == NotLeader(1, 1)
    assert cluster[2].last_index == 1


def test_follower_acknowledges_only_after_its_write() -> None:
    """ "Updated on stable storage before responding to RPCs" (Figure 2, hazard 4)."""
    cluster = Cluster(3)
    append = AppendEntries(1, 0, 0, 0, (entry(1, 1),))
    cluster[1].step(2, append)
    ready = cluster[1].ready()
    assert ready.entries == [entry(1, 1)]
    assert ready.messages == []
    (reply,) = ready.messages_after_write
    assert reply.message == AppendEntriesReply(1, True, 1, 0, 0, 0)


def test_refuses_when_the_previous_entry_is_missing_or_another() -> None:
    """ "Reply false if log doesn't contain an entry at prevLogIndex whose term matches prevLogTerm."
    (Figure 2) "When rejecting an AppendEntries request, the follower can include the term of the
    conflicting entry and the first index it stores for that term." (§5.3)"""
    cluster = Cluster(3, logs={1: log_of(1, 1, 2, 2, 2)}, terms={1: 4})
    (reply,) = cluster.ask(1, 2, AppendEntries(4, 7, 3, 0, ()))
    assert reply == AppendEntriesReply(4, False, 0, 7, 6, 0)
    (reply,) = cluster.ask(1, 2, AppendEntries(4, 5, 3, 0, ()))
    assert reply == AppendEntriesReply(4, False, 0, 5, 3, 2)
    assert terms_of(cluster, 1) == [1, 1, 2, 2, 2]


def test_conflicting_entries_and_all_after_them_give_way() -> None:
    """ "If an existing entry conflicts with a new one (same index but different terms), delete the existing
    entry and all that follow it." (Figure 2, AppendEntries 3)"""
    cluster = Cluster(3, logs={1: log_of(1, 1, 1, 1)})
    (reply,) = cluster.ask(1, 2, AppendEntries(2, 1, 1, 0, (entry(2, 1), entry(3, 2))))
    assert reply == AppendEntriesReply(2, True, 3, 0, 0, 0)
    assert terms_of(cluster, 1) == [1, 1, 2]


def test_only_new_entries_are_appended() -> None:
    """ "Append any new entries not already in the log." (Figure 2, AppendEntries 4)"""
    cluster = Cluster(3, logs={1: log_of(1, 1)})
    cluster[1].step(2, AppendEntries(1, 1, 1, 0, (entry(2, 1), entry(3, 1))))
    ready = cluster[1].ready()
    assert ready.entries == [entry(3, 1)]


def test_repeated_and_late_appends_change_nothing() -> None:
    """ "Raft RPCs are idempotent […] if a follower receives an AppendEntries request that includes log
    entries already present in its log, it ignores those entries in the new request." (§5.5, hazard 26)"""
    cluster = Cluster(3, logs={1: log_of(1, 1, 1, 1, 1)})
    for append in (
        AppendEntries(1, 0, 0, 0, (entry(1, 1), entry(2, 1))),
        AppendEntries(1, 2, 1, 0, ()),
        AppendEntries(1, 1, 1, 0, (entry(2, 1),)),
    ):
        (reply,) = cluster.ask(1, 2, append)
        assert reply == AppendEntriesReply(1, True, append.prev_log_index + len(append.entries), 0, 0, 0)
    assert terms_of(cluster, 1) == [1] * 5
    assert not cluster.nodes[1].readys[-1].entries


def test_commit_stops_at_the_last_new_entry() -> None:
    """ "If leaderCommit > commitIndex, set commitIndex = min(leaderCommit, index of last new entry)."
    (Figure 2, AppendEntries 5; hazard 22) What lies beyond may differ from the leader's log."""
    cluster = Cluster(3, logs={1: log_of(1, 1, 1)})
    cluster[1].step(2, AppendEntries(2, 1, 1, 3, (entry(2, 1),)))
    assert cluster[1].commit_index == 2
    cluster[1].step(2, AppendEntries(2, 2, 1, 1, ()))
    assert cluster[1].commit_index == 2


def test_new_leader_starts_after_its_last_entry() -> None:
    """ "When a leader first comes to power, it initializes all nextIndex values to the index just after
    the last one in its log." (§5.3); matchIndex "initialized to 0" (Figure 2, hazard 24)."""
    cluster = Cluster(3, logs={1: log_of(1, 1)}, terms={2: 1, 3: 1})
    cluster.lose = lambda sender, to, message: isinstance(message, AppendEntries)
    cluster.elect(1)
    followers = cluster[1].status().followers
    assert [(f.match_index, f.next_index, f.state) for f in followers] == [(0, 3, ProgressState.PROBE)] * 2


@pytest.mark.parametrize(
    ("follower", "probes"),
    [
        # Figure 7, cases a to f; the leader's log is 1 1 1 4 4 5 5 6 6 6, its own no-op is of term 8.
        ((1, 1, 1, 4, 4, 5, 5, 6, 6), 2),
        ((1, 1, 1, 4), 2),
        ((1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6), 1),
        ((1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7), 1),
        ((1, 1, 1, 4, 4, 4, 4), 3),
        ((1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3), 3),
    ],
)
def test_figure_7(follower: tuple[int, ...], probes: int) -> None:
    """ "The leader handles inconsistencies by forcing the followers' logs to duplicate its own." (§5.3)
    And "one AppendEntries RPC will be required for each term with conflicting entries, rather than one
    RPC per entry"."""
    leader_log = log_of(1, 1, 1, 4, 4, 5, 5, 6, 6, 6)
    cluster = Cluster(3, logs={1: leader_log, 2: log_of(*follower), 3: leader_log}, terms={1: 7, 2: 7, 3: 7})
    cluster.isolate(2)
    cluster.elect(1)
    cluster.heal()
    cluster[1].stream_restored(2)
    refused = 0
    for _ in range(50):
        cluster.gather()
        refused += sum(not reply.success for reply in cluster.sent(AppendEntriesReply, 2))
        cluster.deliver()
    assert terms_of(cluster, 2) == terms_of(cluster, 1) == [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 8]
    assert refused == probes - 1


def test_leader_retries_for_ever() -> None:
    """ "If followers crash or run slowly, or if network packets are lost, the leader retries
    AppendEntries RPCs indefinitely (even after it has responded to the client) until all followers
    eventually store all log entries." (§5.3)"""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.cut = {(1, 3), (3, 1)}
    cluster.put(1, b"a")
    cluster.stabilize()
    assert cluster.nodes[1].committed_payloads() == [b"a"]
    cluster.lose = lambda sender, to, message: to == 3 and isinstance(message, AppendEntries)
    cluster.cut.clear()
    cluster.tick(5 * ELECTION_TIMEOUT_TICKS)
    assert cluster.nodes[3].committed_payloads() == []
    cluster.heal()
    cluster.tick(ELECTION_TIMEOUT_TICKS)
    assert cluster.nodes[3].committed_payloads() == [b"a"]


def test_logs_converge_after_any_leadership() -> None:
    """ "Log Matching: if two logs contain an entry with the same index and term, then the logs are
    identical in all entries up through the given index." (Figure 3)"""
    cluster = Cluster(5, seed=3)
    for turn in range(12):
        leader = cluster.elect_any()
        cluster.put(leader, b"kept %d" % turn)
        cluster.stabilize()
        others = [node for node in cluster.voters if node != leader]
        cluster.isolate(leader, others[turn % 4])
        cluster.put(leader, b"lost %d" % turn)
        cluster.tick(3 * ELECTION_TIMEOUT_TICKS)
        cluster.heal()
    cluster.elect_any()
    cluster.tick(3 * ELECTION_TIMEOUT_TICKS)
    cluster.assert_logs_equal()
    applied = [cluster.nodes[node].applied for node in cluster.voters]
    assert all(log == applied[0] for log in applied)
    kept = [payload for payload in cluster.nodes[1].committed_payloads() if payload.startswith(b"kept")]
    assert kept == [b"kept %d" % turn for turn in range(12)]


def test_entries_are_applied_once_and_in_order() -> None:
    """ "If commitIndex > lastApplied: increment lastApplied, apply log[lastApplied] to state machine."
    (Figure 2) "…it applies the entry to its local state machine (in log order)." (§5.3)"""
    cluster = Cluster(3)
    cluster.elect(1)
    for number in range(50):
        cluster.put(1, b"%d" % number)
        if number % 7 == 0:
            cluster.stabilize()
    cluster.stabilize()
    for node in cluster.nodes.values():
        assert [e.index for e in node.applied] == list(range(1, 52))
        assert node.committed_payloads() == [b"%d" % number for number in range(50)]


def test_appends_are_sent_ahead_of_their_acknowledgements_up_to_a_bound() -> None:
    """Pipelining (thesis §10.2.1): bounded for each follower, and resumed as room returns."""
    cluster = Cluster(3, max_inflight_appends=4, max_append_bytes=1)
    cluster.elect(1)
    for _ in range(10):
        cluster.put(1)
    sent = [a for a in cluster.sent(AppendEntries) if a.entries]
    assert sorted(a.entries[0].index for a in sent) == [2, 2, 3, 3, 4, 4, 5, 5]
    assert {f.inflight_appends for f in cluster[1].status().followers} == {4}
    cluster.stabilize()
    assert {f.inflight_appends for f in cluster[1].status().followers} == {0}
    assert cluster[1].commit_index == 11


def test_appends_in_flight_are_bounded_in_bytes_too() -> None:
    """What carries them to a follower holds only so much; more would be dropped and asked for again."""
    cluster = Cluster(2, max_inflight_bytes=1000, max_append_bytes=400)
    cluster.elect(1)
    for _ in range(10):
        cluster.put(1, b"v" * 400)
    assert len([a for a in cluster.sent(AppendEntries) if a.entries]) == 3
    cluster.stabilize()
    assert cluster[1].commit_index == 11


def test_a_probe_is_sent_one_at_a_time() -> None:
    """Until the place where the logs part is known, more than one append would mostly be wasted (§5.3)."""
    cluster = Cluster(3, logs={1: log_of(1)}, terms={2: 1, 3: 1})
    cluster.lose = lambda sender, to, message: isinstance(message, AppendEntries)
    cluster.elect(1)
    for _ in range(5):
        cluster.put(1)
        assert cluster.sent(AppendEntries) == []
    assert {f.state for f in cluster[1].status().followers} == {ProgressState.PROBE}


def test_messages_are_bounded_but_a_large_entry_travels_alone() -> None:
    """Hazard 90: a batch grows no further than the bound; an entry above it is not stuck for ever."""
    cluster = Cluster(2, max_append_bytes=1000)
    cluster.elect(1)
    for size in (400, 400, 400, 5000, 10):
        cluster.put(1, b"v" * size)
    sizes = [[len(e.payload) for e in append.entries] for append in cluster.sent(AppendEntries)]
    assert sizes == [[400, 400], [400], [5000], [10]]


def test_commit_is_told_at_once() -> None:
    """A follower learns of a commit with the next message, not with the next heartbeat tick."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster.put(1, b"a")
    cluster.stabilize()  # No tick passes.
    assert {cluster[node].commit_index for node in cluster.voters} == {2}


def test_a_commit_announcement_asks_for_no_answer() -> None:
    """Round 0 belongs to no read and no quorum check; answering it would double the messages of a lone
    put."""
    cluster = Cluster(3, logs={1: log_of(1)})
    assert cluster.ask(1, 2, Heartbeat(1, 1, 0)) == []
    assert (cluster[1].commit_index, cluster.role(1)) == (1, Role.FOLLOWER)


def test_entries_outside_of_the_window_come_from_the_store() -> None:
    """The leader keeps only so much in memory; a follower that lags further behind still catches up."""
    cluster = Cluster(3, log_cache_bytes=2000, max_append_bytes=500)
    cluster.elect(1)
    cluster.isolate(3)
    for number in range(200):
        cluster.put(1, b"%d" % number)
        cluster.stabilize()
    cluster.heal()
    cluster.tick(ELECTION_TIMEOUT_TICKS)
    assert any(ready.log_reads for ready in cluster.nodes[1].readys)
    assert cluster.nodes[3].committed_payloads() == [b"%d" % number for number in range(200)]
    cluster.assert_logs_equal()


def test_a_follower_asked_below_its_window_compares_from_its_commit_index() -> None:
    """What is committed cannot differ (Leader Completeness, Figure 3), so it need not be in memory."""
    cluster = Cluster(3, log_cache_bytes=200)
    cluster.elect(1)
    for _ in range(50):
        cluster.put(1)
        cluster.stabilize()
    below = AppendEntries(1, 2, 1, 51, (entry(3, 1), entry(4, 1)))
    assert cluster.ask(2, 1, below) == [AppendEntriesReply(1, True, 51, 0, 0, 0)]
    assert cluster[2].last_index == 51


def test_a_leader_never_cuts_its_own_log() -> None:
    """ "A leader never overwrites or deletes entries in its own log." (§5.3, Leader Append-Only)"""
    cluster = Cluster(3, logs={1: log_of(1, 1, 2)}, terms={2: 2, 3: 2})
    cluster.elect(1)
    assert terms_of(cluster, 1) == [1, 1, 2, 3]
    cluster[1].step(2, AppendEntries(3, 1, 1, 0, (entry(2, 3),)))
    assert cluster.ignored(1)["second leader in one term"] == 1
    cluster.gather([1])
    assert terms_of(cluster, 1) == [1, 1, 2, 3]


def test_payloads_and_kinds_are_carried_untouched() -> None:
    """Raft never looks into a payload (§5.3: a log entry "contains a command to be executed")."""
    cluster = Cluster(3)
    cluster.elect(1)
    cluster[1].propose(b"\x00\xff", EntryKind.MEMBERSHIP)
    cluster.stabilize()
    assert [(e.kind, e.payload) for e in cluster.nodes[3].applied] == [
        (EntryKind.NOOP, b""),
        (EntryKind.MEMBERSHIP, b"\x00\xff"),
    ]
