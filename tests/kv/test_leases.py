"""Leases as replicated state: granted, attached, detached, revoked, expired by the leader's word."""

import pytest

from proto import rpc_pb2, session_pb2
from proto.errors import (
    LEASE_EXISTS,
    LEASE_NOT_FOUND,
    LEASE_TTL_TOO_LARGE,
    REQUEST_TOO_LARGE,
    TOO_MANY_REQUESTS,
    Status,
)
from raftd.core.messages import Entry, EntryKind
from raftd.kv.check import check_lease_grant
from raftd.kv.command import Kind, Outcome, encode_command, encode_payload
from raftd.kv.events import read_events
from raftd.kv.keyspace import CHUNK_BYTES
from raftd.kv.leases import Lease
from raftd.kv.limits import LIMITS, Limits
from tests.kv.invariants import check_tables
from tests.kv.replica import Replica

TERM = 1
"""Of every entry that a Replica makes."""


def grant(replica: Replica, lease: int, ttl_s: int = 60) -> int:
    response = replica.call(rpc_pb2.LeaseGrantRequest(ID=lease, TTL=ttl_s))
    assert isinstance(response, rpc_pb2.LeaseGrantResponse)
    assert lease == response.ID
    return response.TTL


def put(replica: Replica, key: bytes, lease: int = 0, ignore_lease: bool = False) -> None:
    replica.call(rpc_pb2.PutRequest(key=key, lease=lease, ignore_lease=ignore_lease))


def keys_of(replica: Replica, lease: int) -> list[bytes]:
    response = replica.call(rpc_pb2.LeaseTimeToLiveRequest(ID=lease, keys=True))
    assert isinstance(response, rpc_pb2.LeaseTimeToLiveResponse)
    return list(response.keys)


def live_keys(replica: Replica) -> list[bytes]:
    response = replica.call(rpc_pb2.RangeRequest(key=b"\x00", range_end=b"\x00"))
    assert isinstance(response, rpc_pb2.RangeResponse)
    return [key_value.key for key_value in response.kvs]


def leases_of(replica: Replica) -> list[Lease]:
    return list(replica.machine.leases(replica.transaction))


def revision_of(replica: Replica) -> int:
    return replica.machine.current_revision(replica.transaction)


def expire(replica: Replica, leases: list[Lease], term: int = TERM) -> None:
    expiry = session_pb2.LeaseExpiry(term=term)
    expiry.leases.extend(session_pb2.LeaseExpiry.Lease(id=lease.id, grant=lease.grant) for lease in leases)
    (result,) = replica.apply((Kind.LEASE_EXPIRE, 0, 0, expiry.SerializeToString()))
    assert (result.code, result.outcome) == (0, Outcome.DECIDED)


@pytest.mark.parametrize(
    ("asked_s", "granted_s"),
    [
        (-(1 << 63), 2),
        (-1, 2),
        (0, 2),
        (1, 2),
        (2, 2),
        (3, 3),
        (9_000_000_000, 9_000_000_000),
    ],
)
def test_a_short_time_is_raised_to_the_minimum(asked_s: int, granted_s: int) -> None:
    replica = Replica()
    assert grant(replica, 7, asked_s) == granted_s
    assert [(lease.id, lease.ttl_s) for lease in leases_of(replica)] == [(7, granted_s)]


@pytest.mark.parametrize(
    ("lease", "ttl_s", "error"),
    [
        (1, 9_000_000_001, LEASE_TTL_TOO_LARGE),
        (1, (1 << 63) - 1, LEASE_TTL_TOO_LARGE),
        (5, 60, LEASE_EXISTS),
        (0, 60, LEASE_NOT_FOUND),
        (6, 60, TOO_MANY_REQUESTS),
    ],
)
def test_a_grant_that_cannot_be(lease: int, ttl_s: int, error: tuple[int, str]) -> None:
    """ID 0 never gets here from a node, which chooses one; in the log it would be refused."""
    replica = Replica(Limits(max_leases=1))
    grant(replica, 5)
    with pytest.raises(Status) as refused:
        grant(replica, lease, ttl_s)
    assert (refused.value.code, refused.value.text) == error
    assert [lease.id for lease in leases_of(replica)] == [5]


def test_what_a_grant_may_weigh() -> None:
    """Unknown fields go into the log as well."""
    request = rpc_pb2.LeaseGrantRequest(ID=1, TTL=60)
    check_lease_grant(request)
    request.MergeFromString(b"\x7a\x80\x80\x80\x01" + bytes(1 << 21))
    assert request.ByteSize() > LIMITS.max_request_bytes
    with pytest.raises(Status) as refused:
        check_lease_grant(request)
    assert (refused.value.code, refused.value.text) == REQUEST_TOO_LARGE


def test_a_key_belongs_to_the_lease_of_its_last_put() -> None:
    replica = Replica()
    grant(replica, 1)
    grant(replica, -2)
    put(replica, b"k", 1)
    assert keys_of(replica, 1) == [b"k"]
    put(replica, b"k", -2)
    assert (keys_of(replica, 1), keys_of(replica, -2)) == ([], [b"k"])
    put(replica, b"k", ignore_lease=True)
    assert keys_of(replica, -2) == [b"k"]
    put(replica, b"k")
    assert keys_of(replica, -2) == []
    put(replica, b"k", 1)
    replica.call(rpc_pb2.DeleteRangeRequest(key=b"k"))
    assert keys_of(replica, 1) == []
    check_tables(replica.transaction)


def test_a_put_under_an_unknown_lease_changes_nothing() -> None:
    replica = Replica()
    put(replica, b"k")
    for lease in (1, -1, 1 << 62):
        with pytest.raises(Status) as refused:
            put(replica, b"k", lease)
        assert (refused.value.code, refused.value.text) == LEASE_NOT_FOUND
    assert revision_of(replica) == 2


def test_a_revoke_deletes_its_keys_in_order_at_one_revision() -> None:
    """Long keys stand elsewhere in the tables than short ones; the events come in the order of the keys."""
    keys = [b"a", b"a" * CHUNK_BYTES + b"b", b"a" * (CHUNK_BYTES - 1) + b"c", b"\x00", b"\xff", b"b"]
    replica = Replica()
    grant(replica, 9)
    put(replica, b"stays")
    for key in keys:
        put(replica, key, 9)
    assert keys_of(replica, 9) == sorted(keys)
    before = revision_of(replica)
    replica.call(rpc_pb2.LeaseRevokeRequest(ID=9))
    assert revision_of(replica) == before + 1
    ((_, events),) = read_events(replica.transaction, before + 1)
    assert [event.kv.key for event in events] == sorted(keys)
    assert live_keys(replica) == [b"stays"]
    assert leases_of(replica) == []
    check_tables(replica.transaction)


def test_a_lease_without_keys_goes_without_a_revision() -> None:
    replica = Replica()
    grant(replica, 9)
    replica.call(rpc_pb2.LeaseRevokeRequest(ID=9))
    assert revision_of(replica) == 1
    with pytest.raises(Status) as refused:
        replica.call(rpc_pb2.LeaseRevokeRequest(ID=9))
    assert (refused.value.code, refused.value.text) == LEASE_NOT_FOUND


def test_leases_that_run_out_go_each_at_a_revision_of_its_own() -> None:
    replica = Replica()
    for lease in (1, 2, 3):
        grant(replica, lease)
        put(replica, b"%d/a" % lease, lease)
        put(replica, b"%d/b" % lease, lease)
    before = revision_of(replica)
    one, two, three = leases_of(replica)
    gone = Lease(4, 60, 4 << 16)
    expire(replica, [three, gone, one])
    groups = [
        [event.kv.key for event in events] for _, events in read_events(replica.transaction, before + 1)
    ]
    assert groups == [[b"3/a", b"3/b"], [b"1/a", b"1/b"]]
    assert leases_of(replica) == [two]
    check_tables(replica.transaction)


def test_another_leaders_time_does_not_count() -> None:
    """Hazard 33: whose clock ran out is in the log. A new leader gives every lease its full time again."""
    replica = Replica()
    grant(replica, 1)
    put(replica, b"k", 1)
    for term in (TERM - 1, TERM + 1):
        expire(replica, leases_of(replica), term)
    assert live_keys(replica) == [b"k"]
    assert len(leases_of(replica)) == 1


def test_a_lease_granted_anew_does_not_run_out_for_the_old_one() -> None:
    replica = Replica()
    grant(replica, 1)
    (old,) = leases_of(replica)
    replica.call(rpc_pb2.LeaseRevokeRequest(ID=1))
    grant(replica, 1)
    expire(replica, [old])
    (new,) = leases_of(replica)
    assert new.grant > old.grant


def test_an_entry_says_which_leases_it_changed() -> None:
    """Several in one entry, in order; a refused grant and one answered from a session change nothing."""
    replica = Replica()
    session = replica.register()
    request = rpc_pb2.LeaseGrantRequest(ID=5, TTL=60).SerializeToString()
    revoke = rpc_pb2.LeaseRevokeRequest(ID=5).SerializeToString()
    commands = [
        encode_command(Kind.LEASE_GRANT, session, 1, request),
        encode_command(Kind.LEASE_GRANT, session, 1, request),
        encode_command(Kind.LEASE_GRANT, session, 2, request),
        encode_command(Kind.LEASE_REVOKE, session, 3, revoke),
        encode_command(Kind.LEASE_GRANT, 0, 0, request),
    ]
    entry = Entry(9, TERM, EntryKind.COMMANDS, encode_payload(0, commands))
    applied = replica.machine.apply(replica.transaction, entry)
    assert [result.code for result in applied.results] == [0, 0, LEASE_EXISTS[0], 0, 0]
    first, second = Lease(5, 60, 9 << 16), Lease(5, 60, 9 << 16 | 4)
    assert [(change.lease, change.granted) for change in applied.lease_changes] == [
        (first, True),
        (first, False),
        (second, True),
    ]
    assert leases_of(replica) == [second]


def test_the_time_to_live_of_no_lease() -> None:
    replica = Replica()
    put(replica, b"k")
    response = replica.call(rpc_pb2.LeaseTimeToLiveRequest(ID=3, keys=True))
    expected = rpc_pb2.LeaseTimeToLiveResponse(ID=3, TTL=-1)
    expected.header.revision = 2
    assert response == expected


def test_what_can_be_asked_of_a_lease() -> None:
    replica = Replica()
    grant(replica, 3, 77)
    put(replica, b"b", 3)
    put(replica, b"a", 3)
    expected = rpc_pb2.LeaseTimeToLiveResponse(ID=3, grantedTTL=77)
    expected.header.revision = 3
    assert replica.call(rpc_pb2.LeaseTimeToLiveRequest(ID=3)) == expected
    expected.keys.extend([b"a", b"b"])
    assert replica.call(rpc_pb2.LeaseTimeToLiveRequest(ID=3, keys=True)) == expected
    grant(replica, -8)
    listed = replica.call(rpc_pb2.LeaseLeasesRequest())
    assert isinstance(listed, rpc_pb2.LeaseLeasesResponse)
    assert {lease.ID for lease in listed.leases} == {3, -8}
    assert listed.header.revision == 3
