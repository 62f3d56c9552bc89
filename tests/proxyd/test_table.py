"""What the leader table concludes from what nodes say. No I/O: plain updates in, conclusions out."""

import pytest

from proto.table_pb2 import TableMember, TableUpdate
from proxyd.table import ForeignCluster, Leader, LeaderTable, NodeView

N1, N2, N3 = "127.0.0.1:2371", "127.0.0.1:2372", "127.0.0.1:2373"
IDS = {N1: 1, N2: 2, N3: 3}


def say(
    table: LeaderTable,
    address: str,
    term: int,
    leader: int,
    *,
    now: float = 0.0,
    commit: int = 100,
    applied: int = 100,
    cluster_id: int = 7,
    members: tuple[int, ...] = (),
    leaving: bool = False,
) -> None:
    update = TableUpdate(
        cluster_id=cluster_id,
        member_id=IDS[address],
        term=term,
        leader=leader,
        commit_index=commit,
        applied_index=applied,
        election_timeout_ms=300,
        leaving=leaving,
        members=[
            TableMember(id=member, name=f"n{member}", client_urls=[f"http://127.0.0.1:{2370 + member}"])
            for member in members
        ],
    )
    table.observe(address, update, now)


def view(table: LeaderTable, address: str) -> NodeView:
    return next(view for view in table.live_nodes() if view.address == address)


def test_the_highest_term_wins() -> None:
    table = LeaderTable()
    say(table, N1, 5, 1)
    say(table, N2, 6, 3)
    assert table.leader == Leader(3, 6)
    say(table, N1, 5, 1)
    assert table.leader == Leader(3, 6)


def test_a_stale_leader_does_not_come_back_when_the_new_one_is_lost() -> None:
    """A leader that was cut off still believes in its old term: its word counts no more."""
    table = LeaderTable()
    say(table, N1, 5, 1)
    say(table, N3, 6, 3)
    table.lost(N3)
    assert table.leader is None
    say(table, N1, 5, 1)
    assert table.leader is None
    say(table, N2, 7, 2)
    assert table.leader == Leader(2, 7)


def test_a_leader_that_steps_down_leads_no_more_whatever_followers_still_say() -> None:
    table = LeaderTable()
    for address in IDS:
        say(table, address, 5, 1)
    say(table, N1, 5, 0)
    assert table.leader is None
    say(table, N2, 5, 1)
    assert table.leader is None


def test_a_leader_is_known_from_a_follower_before_its_own_stream_stands() -> None:
    table = LeaderTable()
    say(table, N2, 5, 1, members=(1, 2, 3))
    assert table.leader == Leader(1, 5)
    assert table.leader_address() == N1


def test_a_candidate_does_not_hide_the_leader_of_the_term_before() -> None:
    table = LeaderTable()
    say(table, N1, 5, 1)
    say(table, N2, 6, 0)
    assert table.leader == Leader(1, 5)


def test_of_several_addresses_of_one_node_the_live_one_is_dialled() -> None:
    table = LeaderTable()
    say(table, N1, 5, 1)
    IDS["localhost:2371"] = 1
    say(table, "localhost:2371", 5, 1)
    del IDS["localhost:2371"]
    assert table.leader_address() == N1
    assert len(table.live_nodes()) == 1
    table.lost(N1)
    assert table.leader_address() == "localhost:2371"


def test_healthy_is_heard_within_one_election_timeout() -> None:
    table = LeaderTable()
    say(table, N2, 5, 1, now=10.0)
    assert table.healthy(view(table, N2), 10.29)
    assert not table.healthy(view(table, N2), 10.31)


def test_healthy_is_less_than_a_thousand_entries_behind() -> None:
    table = LeaderTable()
    say(table, N1, 5, 1, commit=2_000, applied=2_000)
    say(table, N2, 5, 1, commit=1_990, applied=1_001)
    assert table.healthy(view(table, N2), 0.0)
    say(table, N2, 5, 1, commit=1_990, applied=1_000)
    assert not table.healthy(view(table, N2), 0.0)


def test_a_node_that_leaves_is_not_healthy() -> None:
    table = LeaderTable()
    say(table, N2, 5, 1, leaving=True)
    assert not table.healthy(view(table, N2), 0.0)


def test_a_node_of_another_cluster_is_refused_and_changes_nothing() -> None:
    table = LeaderTable()
    say(table, N1, 5, 1)
    with pytest.raises(ForeignCluster, match="cluster 8, but this proxyd serves cluster 7"):
        say(table, N2, 9, 2, cluster_id=8)
    assert table.leader == Leader(1, 5)
    assert len(table.live_nodes()) == 1


def test_members_that_no_configured_address_speaks_for() -> None:
    table = LeaderTable()
    say(table, N1, 5, 1, members=(1, 2, 3))
    assert table.addresses_of_unknown_members([N1]) == [N2, N3]
    assert table.addresses_of_unknown_members([N1, N2]) == [N3]
    IDS["localhost:2372"] = 2
    say(table, "localhost:2372", 5, 1)
    del IDS["localhost:2372"]
    assert table.addresses_of_unknown_members([N1, "localhost:2372"]) == [N3]


async def test_changes_wake_those_who_wait_and_progress_does_not() -> None:
    table = LeaderTable()
    say(table, N1, 5, 1)
    before = table._changed
    say(table, N1, 5, 1, commit=101, applied=101)
    assert not before.is_set()
    say(table, N1, 6, 1)
    assert before.is_set()
