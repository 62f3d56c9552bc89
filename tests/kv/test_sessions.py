"""Exactly once: numbers, stored results, duplicates, acknowledgements, windows, expiry and eviction (hazard
87)."""

import itertools

import pytest

from proto import rpc_pb2, session_pb2
from proto.errors import FAILED_PRECONDITION, RESOURCE_EXHAUSTED
from raftd.kv.command import Kind, Outcome, Result
from raftd.kv.limits import Limits
from tests.kv.invariants import check_sessions
from tests.kv.replica import Command, Replica, put, replay

DECIDED, UNKNOWN, EXPIRED = Outcome.DECIDED, Outcome.UNKNOWN, Outcome.SESSION_EXPIRED


def revision_of(result: Result) -> int:
    assert (result.code, result.outcome) == (0, DECIDED)
    return rpc_pb2.PutResponse.FromString(result.body).header.revision


def current_revision(replica: Replica) -> int:
    return replica.machine.current_revision(replica.transaction)


class Model:
    """What a session must do, said as simply as possible: every put executed makes one revision."""

    def __init__(self) -> None:
        self.is_open = True
        self.first_outstanding = 0
        self.revision_of_number: dict[int, int] = {}
        self.revision = 1

    def expect(self, event: tuple[Kind, int]) -> tuple[Outcome, int | None]:
        """The outcome of the event and the revision in its reply."""
        kind, number = event
        if not self.is_open:
            return EXPIRED, None
        if kind is Kind.CLOSE:
            self.is_open = False
            return DECIDED, None
        if kind is Kind.ACKNOWLEDGE:
            self.first_outstanding = max(self.first_outstanding, number)
            return DECIDED, None
        if number < self.first_outstanding:
            return UNKNOWN, None
        if number not in self.revision_of_number:
            self.revision += 1
            self.revision_of_number[number] = self.revision
        return DECIDED, self.revision_of_number[number]


EVENTS: list[tuple[Kind, int]] = [
    *((Kind.PUT, number) for number in (1, 2, 3)),
    *((Kind.ACKNOWLEDGE, number) for number in (2, 3, 4)),
    (Kind.CLOSE, 0),
]


def command(session: int, event: tuple[Kind, int]) -> Command:
    kind, number = event
    return kind, session, number, put(b"k", b"%d" % number) if kind is Kind.PUT else b""


def summary(result: Result) -> tuple[Outcome, int | None]:
    if result.outcome is not DECIDED or not result.body:
        return result.outcome, None
    return result.outcome, revision_of(result)


@pytest.mark.parametrize("entries", ["one", "one each"])
def test_every_short_history_of_a_session(entries: str) -> None:
    """All 19,607 sequences of at most five puts, acknowledgements and closes: out of order, repeated in every
    state, below what is acknowledged. Each number is executed once at most, whatever is sent."""
    for length in range(1, 6):
        for events in itertools.product(EVENTS, repeat=length):
            replica, model = Replica(), Model()
            session = replica.register()
            expected = [model.expect(event) for event in events]
            commands = [command(session, event) for event in events]
            if entries == "one":
                results = replica.apply(*commands)
            else:
                results = [result for each in commands for result in replica.apply(each)]
            assert [summary(result) for result in results] == expected, events
            assert current_revision(replica) == model.revision, events
            check_sessions(replica.transaction)


def test_a_registered_session_has_an_id_of_its_own_for_ever() -> None:
    replica = Replica()
    first, second = replica.apply((Kind.REGISTER, 0, 71, b""), (Kind.REGISTER, 0, 72, b""))
    assert [first.sequence, second.sequence] == [71, 72]
    ids = [session_pb2.Registered.FromString(result.body).session for result in (first, second)]
    assert ids == [2 << 16, 2 << 16 | 1]
    (closed,) = replica.apply((Kind.CLOSE, ids[0], 0, b""))
    assert closed.outcome is DECIDED
    assert replica.register() == 4 << 16
    (late,) = replica.apply((Kind.PUT, ids[0], 1, put(b"k")))
    assert (late.outcome, late.code) == (EXPIRED, FAILED_PRECONDITION)
    assert current_revision(replica) == 1


def test_a_result_is_the_same_on_its_second_asking() -> None:
    """Errors, too: a compare that would hold by now does not change what the number has been answered."""
    replica = Replica()
    session = replica.register()
    request = rpc_pb2.TxnRequest(
        compare=[rpc_pb2.Compare(key=b"k", target=rpc_pb2.Compare.VERSION, version=1)],
        success=[rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"won"))],
        failure=[rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=b"k"))],
    ).SerializeToString()
    lease = rpc_pb2.PutRequest(key=b"k", lease=9).SerializeToString()
    sent = [(Kind.TXN, session, 1, request), (Kind.PUT, session, 2, lease), (Kind.PUT, session, 3, put(b"k"))]
    first = replica.apply(*sent)
    assert [result.code for result in first] == [0, 5, 0]
    assert not rpc_pb2.TxnResponse.FromString(first[0].body).succeeded
    assert replica.apply(*reversed(sent)) == list(reversed(first))
    assert current_revision(replica) == 2


def test_sessions_do_not_see_one_another() -> None:
    replica = Replica()
    sessions = [replica.register() for _ in range(3)]
    results = replica.apply(*((Kind.PUT, session, 1, put(b"k")) for session in sessions))
    assert [revision_of(result) for result in results] == [2, 3, 4]
    replica.apply((Kind.ACKNOWLEDGE, sessions[1], 2, b""), (Kind.CLOSE, sessions[2], 0, b""))
    results = replica.apply(*((Kind.PUT, session, 1, put(b"k")) for session in sessions))
    assert [result.outcome for result in results] == [DECIDED, UNKNOWN, EXPIRED]
    assert revision_of(results[0]) == 2
    check_sessions(replica.transaction)


def test_without_a_session_a_command_is_executed_each_time() -> None:
    replica = Replica()
    results = replica.apply((Kind.PUT, 0, 1, put(b"k")), (Kind.PUT, 0, 1, put(b"k")))
    assert [revision_of(result) for result in results] == [2, 3]


def test_the_window_is_bounded_in_commands() -> None:
    replica = Replica(Limits(session_window_commands=4))
    session = replica.register()
    replica.apply((Kind.ACKNOWLEDGE, session, 10, b""))
    inside, beyond = replica.apply((Kind.PUT, session, 13, put(b"k")), (Kind.PUT, session, 14, put(b"k")))
    assert revision_of(inside) == 2
    assert (beyond.code, beyond.outcome) == (RESOURCE_EXHAUSTED, UNKNOWN)
    assert current_revision(replica) == 2
    _, again = replica.apply((Kind.ACKNOWLEDGE, session, 11, b""), (Kind.PUT, session, 14, put(b"k")))
    assert revision_of(again) == 3
    check_sessions(replica.transaction)


def read_of_large_value(session: int, number: int) -> Command:
    operation = rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=b"large"))
    write = rpc_pb2.RequestOp(request_put=rpc_pb2.PutRequest(key=b"k"))
    return (
        Kind.TXN,
        session,
        number,
        rpc_pb2.TxnRequest(success=[operation, write]).SerializeToString(),
    )


@pytest.mark.parametrize("same_entry", [False, True])
def test_a_large_reply_is_given_once_and_then_only_said_to_be_applied(same_entry: bool) -> None:
    replica = Replica(Limits(max_kept_result_bytes=100))
    session = replica.register()
    replica.apply((Kind.PUT, 0, 0, put(b"large", bytes(200))))
    sent = read_of_large_value(session, 1)
    if same_entry:
        first, second = replica.apply(sent, sent)
    else:
        (first,), (second,) = replica.apply(sent), replica.apply(sent)
    assert len(first.body) > 200
    assert (second.outcome, second.body) == (UNKNOWN, b"")
    assert second.text == "raftd: applied at revision 3, reply gone"
    assert current_revision(replica) == 3
    check_sessions(replica.transaction)


def test_the_kept_replies_of_a_session_are_bounded_in_bytes() -> None:
    replica = Replica(Limits(max_kept_session_bytes=600))
    session = replica.register()
    replica.apply((Kind.PUT, 0, 0, put(b"large", bytes(200))))
    sent = [read_of_large_value(session, number) for number in (1, 2, 3)]
    first = replica.apply(sent[0], sent[1]) + replica.apply(sent[2])
    again = replica.apply(*sent)
    assert again[:2] == first[:2]
    assert again[2].outcome is UNKNOWN
    assert "applied at revision 5" in again[2].text
    # What is acknowledged makes room again.
    replica.apply((Kind.ACKNOWLEDGE, session, 3, b""))
    fourth = replica.apply(read_of_large_value(session, 4))
    assert replica.apply(read_of_large_value(session, 4)) == fourth
    check_sessions(replica.transaction)


def test_idle_sessions_expire_by_cluster_time() -> None:
    replica = Replica(Limits(session_idle_ms=1000, session_touch_ms=1))
    idle, busy = replica.register(), replica.register()
    for replica.time_ms in (500, 999):
        replica.apply((Kind.PUT, busy, replica.time_ms, put(b"k")))
    (last_moment,) = replica.apply((Kind.ACKNOWLEDGE, busy, 0, b""))
    assert last_moment.outcome is DECIDED
    replica.time_ms = 1000
    results = replica.apply((Kind.PUT, idle, 1, put(b"k")), (Kind.PUT, busy, 999, put(b"k")))
    assert [result.outcome for result in results] == [EXPIRED, DECIDED]
    assert revision_of(results[1]) == 3, "the stored result of a session that lives"
    check_sessions(replica.transaction)


def test_cluster_time_never_goes_back() -> None:
    """A new leader whose clock is behind ends no session early and keeps none for longer (hazard 83)."""
    replica = Replica(Limits(session_idle_ms=1000, session_touch_ms=1))
    replica.time_ms = 5000
    session = replica.register()
    replica.time_ms = 10
    replica.apply((Kind.PUT, 0, 0, put(b"k")))
    assert replica.machine.cluster_time_ms(replica.transaction) == 5000
    replica.time_ms = 5999
    (alive,) = replica.apply((Kind.PUT, session, 1, put(b"k")))
    assert alive.outcome is DECIDED
    check_sessions(replica.transaction)


def test_many_sessions_expire_over_several_entries() -> None:
    replica = Replica(Limits(session_idle_ms=1000, max_expired_per_entry=3))
    for _ in range(8):
        replica.register()
    left = []
    for replica.time_ms in (1500, 1501, 1502, 1503):
        replica.apply((Kind.PUT, 0, 0, put(b"k")))
        left.append(len(replica.tables()["sessions"]))
        check_sessions(replica.transaction)
    assert left == [5, 2, 0, 0]


def test_a_session_too_many_ends_the_one_idle_for_longest() -> None:
    replica = Replica(Limits(max_sessions=3, session_touch_ms=1))
    sessions = []
    for replica.time_ms in (10, 20, 30):
        sessions.append(replica.register())
    replica.time_ms = 40
    replica.apply((Kind.PUT, sessions[0], 1, put(b"k")))
    replica.apply(
        (Kind.PUT, sessions[1], 1, put(b"k")), (Kind.REGISTER, 0, 0, b""), (Kind.REGISTER, 0, 0, b"")
    )
    results = replica.apply(*((Kind.ACKNOWLEDGE, session, 1, b"") for session in sessions))
    assert [result.outcome for result in results] == [EXPIRED, DECIDED, EXPIRED]
    check_sessions(replica.transaction)


def test_expiry_and_eviction_are_the_same_on_every_replica() -> None:
    """Hazard 33: a replica that applies the log later, on another day, ends the same sessions."""
    limits = Limits(max_sessions=5, session_idle_ms=300, session_touch_ms=20, max_expired_per_entry=2)
    replica = Replica(limits)
    sessions = [replica.register()]
    for step in range(400):
        replica.time_ms += 7 * (step % 11)
        if step % 3 == 0:
            sessions.append(replica.register())
        for session in sessions[-7::2]:
            replica.apply(
                (Kind.ACKNOWLEDGE, session, step // 2, b""), (Kind.PUT, session, step, put(b"k%d" % step))
            )
        check_sessions(replica.transaction)
    assert replay(replica.log, limits).tables() == replica.tables()
    assert len(replica.tables()["sessions"]) <= 5


def test_an_acknowledgement_of_everything_imaginable() -> None:
    replica = Replica()
    session = replica.register()
    highest = (1 << 64) - 1
    replica.apply((Kind.PUT, session, 1, put(b"k")), (Kind.ACKNOWLEDGE, session, highest, b""))
    below, at = replica.apply(
        (Kind.PUT, session, highest - 1, put(b"k")), (Kind.PUT, session, highest, put(b"k"))
    )
    assert below.outcome is UNKNOWN
    assert revision_of(at) == 3
    check_sessions(replica.transaction)


def test_the_highest_session_id_imaginable_is_not_known() -> None:
    replica = Replica()
    (result,) = replica.apply((Kind.PUT, (1 << 64) - 1, 1, put(b"k")))
    assert result.outcome is EXPIRED
