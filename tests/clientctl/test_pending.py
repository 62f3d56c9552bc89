"""`PendingOperations` alone: messages, answers, deadlines, ends. No clock, no stream."""

from itertools import pairwise

import pytest

from clientctl.config import COMMAND_BYTES_OVERHEAD, DEADLINE_GRAIN_S, PipelineLimits
from clientctl.pending import PendingOperations
from proto import errors
from proto.limits import REQUEST_BYTES_MAX
from proto.options import RECEIVE_BYTES
from proto.session_pb2 import Command, NotLeader, ReadResult, Reply, Request, Result

INF = float("inf")


def operations(limits: PipelineLimits | None = None) -> PendingOperations:
    return PendingOperations(limits or PipelineLimits(), lambda: 1.0)


def add(
    pending: PendingOperations,
    sequence: int,
    results: list[Result],
    *,
    session: int = 7,
    first_outstanding: int = 1,
    deadline: float = INF,
    request: bytes = b"r",
) -> None:
    command = Command(sequence=sequence, kind=Command.PUT, request=request)
    pending.add_command(session, first_outstanding, command, deadline, results.append)


def answer(outcome: Result.Outcome.ValueType, code: int, sequence: int = 1) -> Reply:
    return Reply(results=[Result(session=7, sequence=sequence, outcome=outcome, code=code, text="text")])


def sequences(request: Request | None) -> list[tuple[int, list[int]]]:
    assert request is not None
    return [(batch.session, [c.sequence for c in batch.commands]) for batch in request.batches]


# Messages


def test_one_batch_per_session_with_its_first_outstanding() -> None:
    pending, results = operations(), list[Result]()
    add(pending, 4, results, session=7, first_outstanding=4)
    add(pending, 9, results, session=8, first_outstanding=2)
    add(pending, 6, results, session=7, first_outstanding=5)
    request = pending.next_request(0.0)
    assert request is not None
    assert sequences(request) == [(7, [4, 6]), (8, [9])]
    assert [batch.first_outstanding for batch in request.batches] == [5, 2]
    assert pending.next_request(0.0) is None


def test_first_outstanding_never_goes_back() -> None:
    pending, results = operations(), list[Result]()
    add(pending, 4, results, first_outstanding=4)
    add(pending, 5, results, first_outstanding=3)
    request = pending.next_request(0.0)
    assert request is not None
    assert request.batches[0].first_outstanding == 4


def test_registrations_travel_alone_under_numbers_of_our_own() -> None:
    pending, results = operations(), list[Result]()
    for _ in range(2):
        command = Command(sequence=5, kind=Command.REGISTER)
        pending.add_command(0, 0, command, INF, results.append)
    request = pending.next_request(0.0)
    assert sequences(request) == [(0, [1]), (0, [2])]
    pending.receive(Reply(results=[Result(sequence=2), Result(sequence=1)]), 0.0)
    assert [(result.session, result.sequence) for result in results] == [(0, 5), (0, 5)]


def test_messages_are_bounded_and_nothing_is_lost_between_them() -> None:
    """Hazard 90: a message never outgrows what the other side takes."""
    limits = PipelineLimits(message_bytes_max=1000)
    pending, results = operations(limits), list[Result]()
    for sequence in range(1, 101):
        add(pending, sequence, results, request=b"x" * 100)
        pending.add_read(b"y" * 100, False, 0, INF, lambda result: None)
    sent, reads = [], []
    while (request := pending.next_request(0.0)) is not None:
        assert request.ByteSize() <= limits.message_bytes_max + 20
        sent += [sequence for _, found in sequences(request) for sequence in found]
        reads += [read.id for read in request.reads]
    assert sent == list(range(1, 101))
    assert len(reads) == 100
    assert reads == sorted(set(reads))


def test_neither_reads_nor_commands_starve() -> None:
    pending, results = operations(PipelineLimits(message_bytes_max=1000)), list[Result]()
    for sequence in range(1, 51):
        add(pending, sequence, results, request=b"x" * 100)
        pending.add_read(b"y" * 100, False, 0, INF, lambda result: None)
    request = pending.next_request(0.0)
    assert request is not None
    assert request.reads
    assert request.batches


@pytest.mark.parametrize("first", ["large", "small"])
def test_larger_than_a_message_travels_alone(first: str) -> None:
    pending, results = operations(PipelineLimits(message_bytes_max=1000)), list[Result]()
    sizes = {"large": b"x" * 5000, "small": b"x"}
    add(pending, 1, results, request=sizes.pop(first))
    add(pending, 2, results, request=sizes.popitem()[1])
    assert sequences(pending.next_request(0.0)) == [(7, [1])]
    assert sequences(pending.next_request(0.0)) == [(7, [2])]


def test_the_largest_message_fits_whatever_it_is_made_of() -> None:
    """Hazard 90: what the other side does not take would be sent again for ever."""
    pending, results = operations(), list[Result]()
    largest = bytes(REQUEST_BYTES_MAX)
    for sequence in (1, 2):
        add(pending, sequence, results, request=largest)
        pending.add_read(largest, False, 0, INF, lambda result: None)
    for session in range(1 << 63, (1 << 63) + 9000):
        add(pending, 1 << 63, results, session=session, first_outstanding=1 << 63, request=b"")
    messages = 0
    while (request := pending.next_request(0.0)) is not None:
        messages += 1
        assert request.ByteSize() < RECEIVE_BYTES // 2
    assert messages > 4
    with pytest.raises(AssertionError, match="caller"):
        add(pending, 3, results, request=largest + b"x")
    with pytest.raises(AssertionError, match="caller"):
        pending.add_read(largest + b"x", False, 0, INF, lambda result: None)


def test_command_overhead_is_never_more_than_counted() -> None:
    """The bound of a message is held by a sum of sizes, so each must be an upper bound."""
    highest = (1 << 64) - 1
    command = Command(sequence=highest, kind=Command.ACKNOWLEDGE, remaining_ms=(1 << 32) - 1)
    empty = Request()
    batch = empty.batches.add(session=highest, first_outstanding=highest)
    without = empty.ByteSize()
    batch.commands.append(command)
    assert empty.ByteSize() - without <= COMMAND_BYTES_OVERHEAD


def test_remaining_time_is_that_of_each_sending() -> None:
    """Hazard 92: the server learns how long the caller still waits."""
    pending, results = operations(), list[Result]()
    add(pending, 1, results, deadline=10.0)
    add(pending, 2, results)
    request = pending.next_request(9.0)
    assert request is not None
    assert [command.remaining_ms for command in request.batches[0].commands] == [1000, 0]
    pending.upstream_lost()
    request = pending.next_request(9.9999)
    assert request is not None
    assert [command.remaining_ms for command in request.batches[0].commands] == [1, 0]


# Answers


@pytest.mark.parametrize("code", [errors.OK, errors.INVALID_ARGUMENT])
def test_decided_is_passed_on(code: int) -> None:
    pending, results = operations(), list[Result]()
    add(pending, 1, results)
    pending.next_request(0.0)
    digest = pending.receive(answer(Result.DECIDED, code), 0.0)
    assert digest.served
    assert results[0].code == code
    assert len(pending) == 0


def test_answers_to_the_unknown_are_ignored() -> None:
    pending, results = operations(), list[Result]()
    add(pending, 1, results)
    pending.next_request(0.0)
    pending.receive(answer(Result.DECIDED, errors.OK), 0.0)
    pending.receive(answer(Result.DECIDED, errors.OK), 0.0)
    pending.receive(Reply(read_results=[ReadResult(id=99)]), 0.0)
    assert len(results) == 1


def test_same_number_joins_what_waits() -> None:
    """A client that changed its connection repeats its commands; the state machine need not see both."""
    pending, first, second = operations(), list[Result](), list[Result]()
    add(pending, 1, first, deadline=1.0)
    pending.next_request(0.0)
    add(pending, 1, second, deadline=2.0)
    assert len(pending) == 1
    assert pending.next_request(0.0) is None
    pending.expire(1.5)
    assert not first
    pending.receive(answer(Result.DECIDED, errors.OK), 1.5)
    assert len(first) == len(second) == 1


@pytest.mark.parametrize("outcome", [Result.NOT_DONE, Result.UNKNOWN])
def test_unavailable_is_sent_again_after_a_pause(outcome: Result.Outcome.ValueType) -> None:
    pending, results = operations(), list[Result]()
    for sequence in (1, 2, 3):
        add(pending, sequence, results)
    pending.next_request(0.0)
    digest = pending.receive(
        Reply(
            results=[
                Result(session=7, sequence=sequence, outcome=outcome, code=errors.UNAVAILABLE)
                for sequence in (1, 2)
            ]
        ),
        0.0,
    )
    assert digest.unavailable
    assert not digest.served
    assert pending.next_request(0.0) is None
    assert sequences(pending.next_request(pending.paused_until)) == [(7, [1, 2])]
    assert not results


def test_pauses_double_up_to_a_bound_and_start_afresh_after_an_answer() -> None:
    """Hazard 95."""
    pending, results = operations(), list[Result]()
    add(pending, 1, results)
    add(pending, 2, results)
    now, pauses = 0.0, []
    for _ in range(7):
        pending.next_request(now)
        pending.receive(answer(Result.NOT_DONE, errors.UNAVAILABLE), now)
        pauses.append(pending.paused_until - now)
        now = pending.paused_until
    assert pauses == pytest.approx([0.02, 0.04, 0.08, 0.16, 0.32, 0.32, 0.32])
    pending.next_request(now)
    pending.receive(answer(Result.DECIDED, errors.OK, sequence=2), now)
    pending.receive(answer(Result.NOT_DONE, errors.UNAVAILABLE), now)
    assert pending.paused_until - now == pytest.approx(0.02)


@pytest.mark.parametrize(
    ("outcome", "code", "told"),
    [
        (Result.NOT_DONE, errors.RESOURCE_EXHAUSTED, Result.NOT_DONE),
        (Result.NOT_DONE, errors.INVALID_ARGUMENT, Result.NOT_DONE),
        (Result.UNKNOWN, errors.UNKNOWN, Result.UNKNOWN),
        (Result.SESSION_EXPIRED, errors.FAILED_PRECONDITION, Result.SESSION_EXPIRED),
    ],
)
def test_verdicts_on_the_only_sending(
    outcome: Result.Outcome.ValueType, code: int, told: Result.Outcome.ValueType
) -> None:
    pending, results = operations(), list[Result]()
    add(pending, 1, results)
    pending.next_request(0.0)
    pending.receive(answer(outcome, code), 0.0)
    assert [(result.outcome, result.text) for result in results] == [(told, "text")]


@pytest.mark.parametrize(
    ("outcome", "code", "told"),
    [
        # Too busy now says nothing of the earlier sending: ask again.
        (Result.NOT_DONE, errors.RESOURCE_EXHAUSTED, None),
        # No node would have executed this one.
        (Result.NOT_DONE, errors.INVALID_ARGUMENT, Result.NOT_DONE),
        (Result.SESSION_EXPIRED, errors.FAILED_PRECONDITION, Result.UNKNOWN),
    ],
)
def test_verdicts_on_a_second_sending(
    outcome: Result.Outcome.ValueType, code: int, told: Result.Outcome.ValueType | None
) -> None:
    """Hazard 87: a "not done" speaks of one sending, and the first may have been executed."""
    pending, results = operations(), list[Result]()
    add(pending, 1, results)
    pending.next_request(0.0)
    pending.upstream_lost()
    pending.next_request(0.0)
    pending.receive(answer(outcome, code), 0.0)
    assert [result.outcome for result in results] == ([] if told is None else [told])


def test_a_refused_sending_does_not_count() -> None:
    pending, results = operations(), list[Result]()
    add(pending, 1, results, deadline=1.0)
    pending.next_request(0.0)
    pending.receive(answer(Result.NOT_DONE, errors.UNAVAILABLE), 0.0)
    pending.expire(1.0)
    assert [result.outcome for result in results] == [Result.NOT_DONE]


def test_reads_are_kept_or_ended_as_asked() -> None:
    pending, kept, ended = operations(), list[ReadResult](), list[ReadResult]()
    pending.add_read(b"a", False, 0, INF, kept.append)
    pending.add_read(b"b", True, 5, INF, ended.append, keep=False)
    request = pending.next_request(0.0)
    assert request is not None
    assert [(read.txn, read.min_revision) for read in request.reads] == [(False, 0), (True, 5)]
    pending.upstream_lost()
    assert [result.code for result in ended] == [errors.UNAVAILABLE]
    request = pending.next_request(0.0)
    assert request is not None
    (read,) = request.reads
    pending.receive(Reply(read_results=[ReadResult(id=read.id, code=errors.OUT_OF_RANGE)]), 0.0)
    assert [result.code for result in kept] == [errors.OUT_OF_RANGE]


def test_not_leader_comes_after_the_results_beside_it() -> None:
    pending, results = operations(), list[Result]()
    add(pending, 1, results)
    add(pending, 2, results)
    pending.next_request(0.0)
    reply = answer(Result.DECIDED, errors.OK)
    reply.not_leader.CopyFrom(NotLeader(leader=2, term=3))
    assert pending.receive(reply, 0.0).not_leader == NotLeader(leader=2, term=3)
    pending.upstream_lost()
    assert [result.sequence for result in results] == [1]
    assert sequences(pending.next_request(0.0)) == [(7, [2])]


# Ends


def test_resending_keeps_the_order() -> None:
    pending, results = operations(PipelineLimits(message_bytes_max=100)), list[Result]()
    for sequence in range(1, 11):
        add(pending, sequence, results)
    pending.next_request(0.0)
    pending.upstream_lost()
    sent = []
    while (request := pending.next_request(0.0)) is not None:
        sent += sequences(request)[0][1]
    assert sent == list(range(1, 11))


def test_upstream_without_the_service_leaves_no_doubt() -> None:
    pending, results = operations(), list[Result]()
    add(pending, 1, results)
    pending.next_request(0.0)
    pending.upstream_lost(unprocessed=True)
    pending.end_all(errors.UNIMPLEMENTED, "no such service")
    assert [(result.outcome, result.code) for result in results] == [(Result.NOT_DONE, errors.UNIMPLEMENTED)]


def test_expiry_ends_what_is_due_and_only_that() -> None:
    pending, results = operations(), list[Result]()
    for sequence in range(1, 6):
        add(pending, sequence, results, deadline=float(sequence))
    pending.next_request(0.0)
    pending.expire(3.0)
    assert [result.sequence for result in results] == [1, 2, 3]
    assert {result.outcome for result in results} == {Result.UNKNOWN}
    assert pending.nearest_deadline() == pytest.approx(4.0)
    assert (len(pending), pending.size) == (2, 2 * (COMMAND_BYTES_OVERHEAD + 1))


def test_what_is_past_its_deadline_is_not_sent() -> None:
    """Hazard 92."""
    pending, results = operations(), list[Result]()
    add(pending, 1, results, deadline=1.0)
    add(pending, 2, results, deadline=2.0)
    assert sequences(pending.next_request(1.5)) == [(7, [2])]
    assert [result.outcome for result in results] == [Result.NOT_DONE]


def test_finished_operations_leave_no_deadline_behind() -> None:
    pending, results = operations(), list[Result]()
    for sequence in range(1, 1001):
        add(pending, sequence, results, deadline=sequence / 100)
        pending.next_request(0.0)
        pending.receive(answer(Result.DECIDED, errors.OK, sequence), 0.0)
    assert pending.nearest_deadline() == INF
    assert len(results) == 1000


def test_deadlines_are_not_early_and_late_by_a_grain_at_most() -> None:
    pending, results = operations(), list[Result]()
    add(pending, 1, results, deadline=1.0001)
    assert 1.0001 <= pending.nearest_deadline() <= 1.0001 + DEADLINE_GRAIN_S
    pending.expire(1.0001)
    assert not results


def test_withdrawn_before_sending_is_never_sent() -> None:
    pending, results = operations(), list[Result]()
    command = Command(sequence=1, kind=Command.PUT)
    operation = pending.add_command(7, 1, command, 5.0, results.append)
    pending.withdraw(operation, results.append)
    assert pending.next_request(0.0) is None
    assert (len(pending), pending.size, pending.nearest_deadline()) == (0, 0, INF)


def test_ending_all_tells_who_may_have_been_served() -> None:
    pending, results, reads = operations(), list[Result](), list[ReadResult]()
    add(pending, 1, results)
    pending.next_request(0.0)
    add(pending, 2, results)
    pending.add_read(b"", False, 0, INF, reads.append)
    pending.end_all(errors.UNAVAILABLE, "stopping")
    assert [(r.sequence, r.outcome) for r in results] == [(1, Result.UNKNOWN), (2, Result.NOT_DONE)]
    assert [(read.code, read.text) for read in reads] == [(errors.UNAVAILABLE, "stopping")]


def test_room_counts_operations_and_bytes() -> None:
    pending, results = operations(PipelineLimits(operations_max=2, bytes_max=1000)), list[Result]()
    assert pending.has_room(10_000), "a large one is taken when nothing else is there"
    add(pending, 1, results, request=b"x" * 500)
    assert pending.has_room(400)
    assert not pending.has_room(600)
    add(pending, 2, results)
    assert not pending.has_room(0)


def test_results_come_once_though_waiters_add_and_end_within() -> None:
    pending, results = operations(), list[Result]()

    def retry(result: Result) -> None:
        results.append(result)
        if result.sequence < 3:
            command = Command(sequence=result.sequence + 1, kind=Command.PUT)
            pending.add_command(7, 1, command, INF, retry)

    pending.add_command(7, 1, Command(sequence=1, kind=Command.PUT), 1.0, retry)
    pending.expire(1.0)
    pending.end_all(errors.UNAVAILABLE, "")
    pending.end_all(errors.UNAVAILABLE, "")
    assert all(a.sequence + 1 == b.sequence for a, b in pairwise(results))
    assert len(results) == 3
