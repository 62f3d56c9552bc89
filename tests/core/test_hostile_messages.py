"""Nothing that a peer sends trips an assertion: malformed, stale, repeated, reordered, from a stranger."""

from random import Random

import pytest

from raftd.core.config import MAX_TERM_OR_INDEX
from raftd.core.messages import (
    AppendEntries,
    AppendEntriesReply,
    Entry,
    EntryKind,
    Envelope,
    Heartbeat,
    HeartbeatReply,
    Message,
    ReadIndex,
    ReadIndexReply,
    RequestVote,
    RequestVoteReply,
    TimeoutNow,
)
from raftd.core.ready import Ready
from tests.core.cluster import ELECTION_TIMEOUT_TICKS, Cluster, entry


@pytest.mark.parametrize(
    "message",
    [
        Heartbeat(0, 0, 1),
        Heartbeat(-1, 0, 1),
        Heartbeat(MAX_TERM_OR_INDEX + 1, 0, 1),
        Heartbeat(1, -1, 1),
        Heartbeat(1, 0, -1),
        AppendEntries(1, -1, 0, 0, ()),
        AppendEntries(1, 0, 1, 0, ()),
        AppendEntries(1, 3, 0, 0, ()),
        AppendEntries(1, 3, 2, 0, ()),
        AppendEntries(2, 0, 0, 0, (entry(2, 1),)),
        AppendEntries(2, 0, 0, 0, (entry(1, 1), entry(3, 1))),
        AppendEntries(2, 0, 0, 0, (entry(1, 2), entry(2, 1))),
        AppendEntries(2, 0, 0, 0, (entry(1, 3),)),
        AppendEntries(2, 0, 0, 0, (entry(1, 0),)),
        AppendEntries(2, 0, 0, -5, ()),
        AppendEntriesReply(1, True, -1, 0, 0, 0),
        AppendEntriesReply(1, False, 0, 1, 1, 9),
        RequestVote(1, 0, 1, False, False),
        RequestVote(1, 5, 9, True, False),
        ReadIndexReply(1, 1, -3, False),
    ],
)
def test_malformed_messages_are_counted_and_change_nothing(message: Message) -> None:
    cluster = Cluster(3)
    assert cluster.ask(1, 2, message) == []
    assert cluster.ignored(1) == {"malformed": 1}
    assert (cluster[1].term, cluster[1].leader) == (0, None)


@pytest.mark.parametrize("sender", [0, 1, 9])
def test_strangers_are_not_heard(sender: int) -> None:
    """Nor is a message that claims to come from this node itself."""
    cluster = Cluster(3)
    cluster[1].step(sender, Heartbeat(7, 0, 1))
    assert cluster.ignored(1) == {"unknown sender": 1}
    assert cluster[1].term == 0


def test_an_acknowledgement_beyond_the_log_commits_nothing() -> None:
    cluster = Cluster(3)
    cluster.elect(1)
    cluster[1].step(2, AppendEntriesReply(1, True, 99, 0, 0, 0))
    assert cluster.ignored(1)["acknowledgement beyond the log"] == 1
    assert cluster[1].status().followers[0].match_index == 1


def random_message(random: Random) -> Message:
    """Any message at all, mostly with numbers near those of a young cluster."""

    def number() -> int:
        return random.choice([0, 1, 1, 2, 2, 3, 4, 5, 6, 7, 8, 30, 2**40, -1])

    def flag() -> bool:
        return random.random() < 0.5

    def entries() -> tuple[Entry, ...]:
        first, term = number(), number()
        return tuple(
            Entry(first + offset, term + offset // 2, EntryKind.COMMANDS, b"evil")
            for offset in range(random.randrange(4))
        )

    term = random.choice([1, 1, 2, 2, 3, 4, 5])
    match random.randrange(9):
        case 0:
            return RequestVote(term, number(), number(), flag(), flag())
        case 1:
            return RequestVoteReply(term, flag(), flag())
        case 2 | 3:
            return AppendEntries(term, number(), number(), number(), entries())
        case 4:
            return AppendEntriesReply(term, flag(), number(), number(), number(), number())
        case 5:
            return Heartbeat(term, number(), number())
        case 6:
            return HeartbeatReply(term, number())
        case 7:
            if flag():
                return ReadIndex(term, number())
            return ReadIndexReply(term, 1, number(), flag())
        case _:
            return TimeoutNow(term)


@pytest.mark.parametrize("seed", range(40))
def test_no_message_trips_an_assertion(seed: int) -> None:
    """Assertions are for this program's own mistakes: whatever comes from outside, the node goes on.
    Safety is not asked for here, for such peers are traitors, which Raft does not stand."""
    random = Random(seed)
    cluster = Cluster(3, seed)
    node = cluster.nodes[1]
    if seed % 2:
        cluster.elect(1)
    for _ in range(500):
        cluster[1].step(random.choice([2, 3]), random_message(random))
        match random.randrange(8):
            case 0:
                cluster[1].tick(random.randrange(ELECTION_TIMEOUT_TICKS))
            case 1:
                cluster[1].propose(b"x")
            case 2:
                cluster[1].read_index(1)
            case 3:
                node.disk.is_held = not node.disk.is_held
            case 4:
                cluster[1].leader_stream_broken(random.choice([2, 3]))
                cluster[1].stream_restored(random.choice([2, 3]))
        cluster.gather([1])
        cluster.wire.clear()


@pytest.mark.parametrize("seed", range(30))
def test_duplicates_delays_and_reordering_do_no_harm(seed: int) -> None:
    """ "Raft RPCs are idempotent, so this causes no harm." (§5.5) Honest messages, but each may come
    late, several times, or never; logs and what is applied stay equal, and all heal."""
    random = Random(seed)
    cluster = Cluster(3, seed, max_inflight_appends=4, max_append_bytes=200, log_cache_bytes=800)
    past: list[tuple[int, Envelope]] = []
    for turn in range(400):
        for node_id in cluster.voters:
            cluster[node_id].tick(random.randrange(12))
            cluster[node_id].propose(b"%d" % turn)
            cluster[node_id].read_index(turn)
            cluster.nodes[node_id].disk.is_held = random.random() < 0.3
        cluster.gather()
        past = (past + cluster.wire)[-60:]
        cluster.wire = random.choices(past, k=random.randrange(12)) if past else []
        if random.random() < 0.7:
            cluster.wire += past[-12:]
        if random.random() < 0.02:
            crashed = random.choice(cluster.voters)
            in_flight, cluster.wire = cluster.wire, []
            cluster.crash(crashed)
            cluster.wire = in_flight
        cluster.deliver()
    for node in cluster.nodes.values():
        node.disk.is_held = False
    cluster.wire.clear()
    leader = cluster.elect_any(timeouts=20)
    cluster.tick(3 * ELECTION_TIMEOUT_TICKS)
    leader = cluster.leader()
    cluster.put(leader, b"end")
    cluster.tick(ELECTION_TIMEOUT_TICKS)
    cluster.assert_logs_equal()
    applied = [node.applied for node in cluster.nodes.values()]
    assert applied[0] == applied[1] == applied[2]
    assert applied[0][-1].payload == b"end"


def test_an_empty_turn_has_nothing_to_say() -> None:
    """`has_ready` is exact: a node that asks it may sleep."""
    cluster = Cluster(3)
    cluster.elect(1)
    for node_id in cluster.voters:
        assert not cluster[node_id].has_ready()
        assert cluster[node_id].ready() == Ready()
