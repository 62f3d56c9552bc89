"""Every bound of `raftd.core.config`, and the clock the node sleeps by."""

from random import Random

import pytest

from raftd.core.config import ENTRY_OVERHEAD_BYTES, RaftConfig
from raftd.core.log import Log
from raftd.core.messages import AppendEntries, AppendEntriesReply, EntryKind, HardState
from raftd.core.proposal import Overloaded, Proposed
from raftd.core.quorum import majority, reached_by_majority
from raftd.core.raft import Raft
from raftd.core.ready import LogRead
from tests.core.cluster import ELECTION_TIMEOUT_TICKS, Cluster, entry, log_of


def test_proposals_are_refused_when_too_much_waits() -> None:
    """Hazard 35: an unbounded backlog is never worked off. What is refused is surely not done."""
    cluster = Cluster(3, max_uncommitted_bytes=1000)
    cluster.elect(1)
    cluster.isolate(1)
    for _ in range(3):
        assert isinstance(cluster[1].propose(b"v" * 300), Proposed)
    assert cluster[1].propose(b"v" * 300) == Overloaded(3 * (300 + ENTRY_OVERHEAD_BYTES))
    cluster.heal()
    cluster.tick(ELECTION_TIMEOUT_TICKS)
    assert isinstance(cluster[1].propose(b"v" * 300), Proposed)


def test_what_is_committed_but_not_applied_counts_as_waiting() -> None:
    raft = Raft(RaftConfig(1, (1,), max_uncommitted_bytes=1000), Random(0), HardState(0, None), 0, 0, [], 0)
    raft.tick(1)
    raft.propose(b"v" * 900)
    raft.ready()
    raft.written(2, 1)
    assert raft.commit_index == 2
    assert isinstance(raft.propose(b"v" * 900), Overloaded)
    raft.ready()
    raft.applied(2)
    assert isinstance(raft.propose(b"v" * 900), Proposed)


def test_one_large_proposal_is_accepted_when_nothing_waits() -> None:
    cluster = Cluster(1, max_uncommitted_bytes=100)
    cluster.tick(1)
    cluster.stabilize()
    assert isinstance(cluster[1].propose(b"v" * 5000), Proposed)
    assert isinstance(cluster[1].propose(b"v"), Overloaded)


def test_the_window_shrinks_only_by_what_is_applied_and_durable() -> None:
    log = Log(0, 0, [], 0)
    log.append([entry(index, 1, b"v" * 68) for index in range(1, 11)])
    log.take_unwritten()
    log.commit_to(8)
    log.take_committed(10_000)
    log.mark_applied(6)
    log.mark_durable(4)
    log.shrink(100)
    assert (log.base_index, log.base_term, log.last_index) == (4, 1, 10)
    log.mark_durable(10)
    log.shrink(100)
    assert log.base_index == 6
    log.mark_applied(8)
    log.shrink(1000)
    assert log.base_index == 6
    assert [e.index for e in log.slice(7, 10, 10_000)] == [7, 8, 9, 10]


def test_a_log_read_names_where_to_begin_and_how_much() -> None:
    cluster = Cluster(3, log_cache_bytes=200, max_append_bytes=150)
    cluster.elect(1)
    cluster.isolate(3)
    for _ in range(20):
        cluster.put(1)
        cluster.stabilize()
    cluster.heal()
    cluster.nodes[1].loads_log = False
    cluster[1].stream_restored(3)
    cluster.gather()
    assert cluster.nodes[1].readys[-1].log_reads == [LogRead(3, 2, 150)]
    cluster.tick(10 * ELECTION_TIMEOUT_TICKS)
    assert sum(len(ready.log_reads) for ready in cluster.nodes[1].readys) == 1


def test_what_was_loaded_for_a_position_that_moved_is_dropped() -> None:
    cluster = Cluster(3, log_cache_bytes=200)
    cluster.elect(1)
    cluster.isolate(3)
    for _ in range(20):
        cluster.put(1)
        cluster.stabilize()
    cluster.heal()
    cluster.nodes[1].loads_log = False
    cluster[1].stream_restored(3)
    cluster.gather()
    cluster.wire.clear()
    cluster[1].log_loaded(3, 1, [entry(5, 1)])
    assert cluster.sent(AppendEntries) == []
    cluster[1].log_loaded(2, 1, [entry(2, 1)])
    assert cluster.sent(AppendEntries) == []


def test_only_committed_entries_are_taken_from_the_store() -> None:
    """The tail of the log on disk may have been replaced since it was read; the window holds the truth."""
    cluster = Cluster(3, log_cache_bytes=200)
    cluster.elect(1)
    cluster.isolate(3)
    for _ in range(20):
        cluster.put(1)
        cluster.stabilize()
    cluster.heal()
    cluster.nodes[1].loads_log = False
    cluster[1].stream_restored(3)
    cluster.gather()
    cluster.wire.clear()
    (read,) = cluster.nodes[1].readys[-1].log_reads
    stale = [entry(index, 1, b"stale") for index in range(read.first_index, 40)]
    cluster[1].log_loaded(3, 1, stale)
    (append,) = cluster.sent(AppendEntries)[:1]
    assert append.entries[-1].index < 21


def test_an_idle_node_sleeps_until_something_is_due() -> None:
    cluster = Cluster(3)
    for node in cluster.voters:
        assert ELECTION_TIMEOUT_TICKS <= cluster[node].ticks_until_due() < 2 * ELECTION_TIMEOUT_TICKS
    cluster.elect(1)
    cluster.tick(3)
    assert cluster[1].ticks_until_due() <= 10
    cluster.read(2, 1)
    cluster.gather([2])
    assert cluster[2].ticks_until_due() == 10


def test_ticks_in_one_step_equal_ticks_one_by_one() -> None:
    """A node that slept reports all that passed at once."""
    at_once, one_by_one = Cluster(3), Cluster(3)
    due = at_once[1].ticks_until_due()
    at_once[1].tick(due)
    for _ in range(due):
        one_by_one[1].tick()
    assert at_once[1].role == one_by_one[1].role
    assert at_once[1].ready() == one_by_one[1].ready()


@pytest.mark.parametrize(("voters", "expected"), [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (7, 4)])
def test_majority(voters: int, expected: int) -> None:
    assert majority(voters) == expected
    values = range(voters)
    index = reached_by_majority(values)
    assert sum(value >= index for value in values) == expected


@pytest.mark.parametrize(
    "wrong",
    [
        {"node_id": 9},
        {"voters": (0, 1, 2)},
        {"voters": (1, 2, 2)},
        {"heartbeat_ticks": 60},
        {"fast_election_ticks": (5, 60)},
        {"fast_election_ticks": (0, 8)},
    ],
)
def test_a_contradictory_configuration_is_refused(wrong: dict[str, object]) -> None:
    options: dict[str, object] = {"node_id": 1, "voters": (1, 2, 3), **wrong}
    with pytest.raises(AssertionError):
        RaftConfig(**options)  # type: ignore[arg-type]


def test_a_slow_acknowledgement_is_not_counted_as_lost_contact() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster[1].tick(ELECTION_TIMEOUT_TICKS - 1)
    cluster[1].step(2, AppendEntriesReply(1, True, 1, 0, 0, 0))
    cluster[1].tick(1)
    assert cluster.leaders() == [1]


def test_ready_hands_out_everything_once() -> None:
    raft = Raft(RaftConfig(1, (1,)), Random(0), HardState(2, None), 0, 0, log_of(1, 2), 1)
    raft.tick(1)
    ready = raft.ready()
    assert ready.hard_state == HardState(3, 1)
    assert [(e.index, e.kind) for e in ready.entries] == [(3, EntryKind.NOOP)]
    assert not raft.has_ready()
    raft.written(3, 3)
    assert [e.index for e in raft.ready().committed] == [2, 3]
    assert not raft.has_ready()
