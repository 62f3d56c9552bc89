"""The countdown of leases: against a model, and its cost while nothing happens."""

import random

import pytest

from raftd.kv.leases import Lease, LeaseChange
from raftd.lease_clock import LeaseClock

GRACE_MS = 300


def granted(lease: Lease) -> LeaseChange:
    return LeaseChange(lease, granted=True)


def revoked(lease: Lease) -> LeaseChange:
    return LeaseChange(lease, granted=False)


def test_a_new_leader_gives_the_full_time_and_the_grace() -> None:
    """Hazard 38: it cannot know what its predecessor renewed."""
    lease = Lease(1, 5, 1)
    clock = LeaseClock([lease], 1000, GRACE_MS)
    assert clock.take_due(1000 + 5000 + GRACE_MS - 1, 10) == []
    assert clock.take_due(1000 + 5000 + GRACE_MS, 10) == [lease]


def test_a_renewal_begins_the_time_anew() -> None:
    lease = Lease(1, 5, 1)
    clock = LeaseClock([], 0, GRACE_MS)
    clock.follow(granted(lease), 0)
    assert clock.renew(1, 4000) == 5
    assert clock.take_due(8999, 10) == []
    assert clock.due_at_ms() == 9000
    assert clock.take_due(9000, 10) == [lease]


def test_a_renewal_never_takes_time_away() -> None:
    clock = LeaseClock([Lease(1, 5, 1)], 0, GRACE_MS)
    clock.renew(1, 0)
    assert clock.take_due(5000 + GRACE_MS - 1, 10) == []


def test_what_is_over_is_not_renewed() -> None:
    lease = Lease(1, 5, 1)
    clock = LeaseClock([lease], 0, 0)
    clock.take_due(5000, 10)
    assert clock.renew(1, 5000) == 0
    assert clock.remaining_s(1, 5000) == -1
    assert clock.take_due(5000, 10) == []
    clock.put_back([lease], 6000)
    assert clock.take_due(5999, 10) == []
    assert clock.take_due(6000, 10) == [lease]
    clock.follow(revoked(lease), 6001)
    clock.put_back([lease], 7000)
    assert clock.due_at_ms() is None


def test_unknown_leases() -> None:
    clock = LeaseClock([], 0, 0)
    assert clock.renew(7, 0) == 0
    assert clock.remaining_s(7, 0) == -1
    assert clock.due_at_ms() is None


def test_whole_seconds_are_left() -> None:
    clock = LeaseClock([Lease(1, 5, 1)], 0, 0)
    assert [clock.remaining_s(1, now_ms) for now_ms in (0, 1, 1000, 4001, 5000, 9000)] == [5, 4, 4, 0, 0, 0]


def test_an_id_granted_again_has_all_its_time() -> None:
    first, second = Lease(1, 5, 1), Lease(1, 50, 2)
    clock = LeaseClock([first], 0, 0)
    clock.follow(revoked(first), 1000)
    clock.follow(granted(second), 1000)
    assert clock.take_due(50_999, 10) == []
    assert clock.take_due(51_000, 10) == [second]


def test_changes_told_twice_do_no_harm() -> None:
    """What is gathered while the leases are read may be in what was read."""
    kept, gone, back = Lease(1, 5, 1), Lease(2, 5, 2), Lease(2, 5, 3)
    clock = LeaseClock([kept, back], 0, GRACE_MS)
    for change in (granted(kept), granted(gone), revoked(gone), granted(back)):
        clock.follow(change, 100)
    assert len(clock) == 2
    assert clock.take_due(5000 + GRACE_MS - 1, 10) == []
    assert set(clock.take_due(6000, 10)) == {kept, back}


@pytest.mark.parametrize("seed", range(20))
def test_against_a_model(seed: int) -> None:
    dice = random.Random(seed)
    clock = LeaseClock([], 0, 0)
    deadlines: dict[Lease, int] = {}
    now_ms = grant = 0
    for _ in range(500):
        now_ms += dice.randrange(400)
        lease_id = dice.randrange(1, 9)
        known = next((lease for lease in deadlines if lease.id == lease_id), None)
        match dice.randrange(3):
            case 0 if known is None:
                grant += 1
                lease = Lease(lease_id, dice.randrange(2, 6), grant)
                clock.follow(granted(lease), now_ms)
                deadlines[lease] = now_ms + lease.ttl_s * 1000
            case 1 if known is not None:
                clock.follow(revoked(known), now_ms)
                del deadlines[known]
            case _:
                assert clock.renew(lease_id, now_ms) == (known.ttl_s if known else 0)
                if known is not None:
                    deadlines[known] = now_ms + known.ttl_s * 1000
        due = set()
        while (due_ms := clock.due_at_ms()) is not None and due_ms <= now_ms:
            due |= set(clock.take_due(now_ms, dice.randrange(1, 4)))
        assert due == {lease for lease, deadline in deadlines.items() if deadline <= now_ms}
        for lease in due:
            clock.follow(revoked(lease), now_ms)
            del deadlines[lease]
        assert len(clock) == len(deadlines)


def test_idle_leases_cost_nothing() -> None:
    clock = LeaseClock((Lease(number, 60, number) for number in range(1, 100_001)), 0, 0)
    assert clock.take_due(59_999, 1_000_000) == []
    for number in range(1, 100_001):
        clock.renew(number, 30_000)
    assert len(clock._heap) == 100_000
    assert clock.due_at_ms() == 60_000
    taken = clock.take_due(60_000, 500)
    assert taken == []
