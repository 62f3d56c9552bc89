"""`Pipeline` on in-memory streams, under Trio's autojump clock."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from trio.testing import MockClock

from clientctl.config import PipelineLimits
from clientctl.pipeline import Pipeline, UpstreamEnd
from proto import errors
from proto.errors import Status
from proto.session_pb2 import Command, NotLeader, ReadResult, Reply, Request, Result
from proto.stream import InMemoryStream, in_memory_pair
from tests.clientctl.model import Cluster, StoredSession


def put(sequence: int, request: bytes = b"") -> Command:
    return Command(sequence=sequence, kind=Command.PUT, request=request or b"request %d" % sequence)


@asynccontextmanager
async def running(limits: PipelineLimits | None = None) -> AsyncIterator[tuple[Pipeline, trio.Nursery]]:
    pipeline = Pipeline(limits, jitter=lambda: 1.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(pipeline.run)
        yield pipeline, nursery
        nursery.cancel_scope.cancel()


async def serve(stream: InMemoryStream, answer: Callable[[Request], Reply], seen: list[Request]) -> None:
    while True:
        for request in await stream.receive_all():
            seen.append(request)
            await stream.send(answer(request))


async def drive(pipeline: Pipeline, stream: InMemoryStream, ends: list[UpstreamEnd]) -> None:
    ends.append(await pipeline.drive(stream))


async def results_of(
    pipeline: Pipeline, commands: list[Command], deadline: float, results: list[Result]
) -> None:
    async def one(command: Command) -> None:
        results.append(await pipeline.submit(7, 1, command, deadline))

    async with trio.open_nursery() as nursery:
        for command in commands:
            nursery.start_soon(one, command)


async def test_commands_and_reads_are_answered(autojump_clock: MockClock) -> None:
    cluster, seen = Cluster(sessions={7: StoredSession()}), list[Request]()
    async with running() as (pipeline, nursery):
        ours, theirs = in_memory_pair()
        nursery.start_soon(serve, theirs, cluster.serve, seen)
        nursery.start_soon(drive, pipeline, ours, [])
        result = await pipeline.submit(7, 1, put(1), trio.current_time() + 5)
        assert (result.session, result.sequence, result.code) == (7, 1, errors.OK)
        read = await pipeline.submit_read(b"range", trio.current_time() + 5)
        assert read.body == b"request 1"
        assert len(pipeline) == 0
        assert pipeline.size == 0
    assert seen[0].batches[0].commands[0].remaining_ms == 5000


async def test_what_gathers_without_an_upstream_goes_out_as_one_message(autojump_clock: MockClock) -> None:
    cluster = Cluster(sessions={7: StoredSession()})
    seen, results = list[Request](), list[Result]()
    async with running() as (pipeline, nursery):
        nursery.start_soon(results_of, pipeline, [put(n) for n in range(1, 101)], 5.0, results)
        await trio.testing.wait_all_tasks_blocked()
        ours, theirs = in_memory_pair()
        nursery.start_soon(serve, theirs, cluster.serve, seen)
        nursery.start_soon(drive, pipeline, ours, [])
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(result.sequence for result in results) == list(range(1, 101))
    assert len(seen) == 1
    assert len(seen[0].batches) == 1


@pytest.mark.parametrize(
    "end", ["clean", "failed", "not leader"], ids=["clean end", "failed call", "not leader"]
)
async def test_unanswered_operations_move_to_the_next_upstream(autojump_clock: MockClock, end: str) -> None:
    """Hazard 87: the same numbers, so that the state machine can tell a repetition."""
    results: list[Result] = []
    ends: list[UpstreamEnd] = []
    async with running() as (pipeline, nursery):
        first, theirs = in_memory_pair()
        nursery.start_soon(drive, pipeline, first, ends)
        nursery.start_soon(results_of, pipeline, [put(1), put(2)], 5.0, results)
        await trio.testing.wait_all_tasks_blocked()
        sent = [c.sequence for r in await theirs.receive_all() for b in r.batches for c in b.commands]
        assert sorted(sent) == [1, 2]
        if end == "not leader":
            await theirs.send(Reply(not_leader=NotLeader(leader=3, client_urls=["http://n3"])))
        else:
            theirs.close(Status(errors.UNAVAILABLE, "reset") if end == "failed" else None)
        await trio.testing.wait_all_tasks_blocked()
        assert len(ends) == 1
        assert not pipeline.connected
        second, theirs = in_memory_pair()
        nursery.start_soon(drive, pipeline, second, ends)
        again = await theirs.receive_all()
        assert [c.sequence for r in again for b in r.batches for c in b.commands] == sent
        await theirs.send(Reply(results=[Result(session=7, sequence=n) for n in sent]))
        await trio.testing.wait_all_tasks_blocked()
        assert sorted(result.sequence for result in results) == [1, 2]
    match end:
        case "clean":
            assert ends == [UpstreamEnd()]
        case "failed":
            assert ends[0].error is not None
            assert ends[0].error.text == "reset"
        case _:
            assert ends[0].not_leader is not None
            assert ends[0].not_leader.leader == 3


async def test_answers_that_came_before_the_failure_count(autojump_clock: MockClock) -> None:
    results: list[Result] = []
    async with running() as (pipeline, nursery):
        ours, theirs = in_memory_pair()
        nursery.start_soon(drive, pipeline, ours, [])
        nursery.start_soon(results_of, pipeline, [put(1)], 5.0, results)
        await theirs.receive_all()
        theirs.offer(Reply(results=[Result(session=7, sequence=1)]))
        theirs.close(Status(errors.UNAVAILABLE, "reset"))
        await trio.testing.wait_all_tasks_blocked()
        assert [result.outcome for result in results] == [Result.DECIDED]


async def test_deadline_without_upstream_is_not_done(autojump_clock: MockClock) -> None:
    async with running() as (pipeline, _):
        result = await pipeline.submit(7, 1, put(1), trio.current_time() + 1)
        assert (result.outcome, result.code) == (Result.NOT_DONE, errors.UNAVAILABLE)
        assert trio.current_time() == pytest.approx(1.0, abs=0.006)
        assert len(pipeline) == 0


async def test_deadline_after_sending_is_unknown(autojump_clock: MockClock) -> None:
    """Hazard 87: what was sent and never answered may have happened."""
    async with running() as (pipeline, nursery):
        ours, _theirs = in_memory_pair()
        nursery.start_soon(drive, pipeline, ours, [])
        result = await pipeline.submit(7, 1, put(1), trio.current_time() + 1)
        assert result.outcome == Result.UNKNOWN
        assert result.text == "etcdserver: request timed out"


async def test_nearer_deadline_wakes_earlier(autojump_clock: MockClock) -> None:
    async with running() as (pipeline, nursery):
        results: list[Result] = []
        nursery.start_soon(results_of, pipeline, [put(1)], 10.0, results)
        await trio.testing.wait_all_tasks_blocked()
        await pipeline.submit(7, 1, put(2), trio.current_time() + 1)
        assert trio.current_time() < 1.01
        assert not results


async def test_past_deadline_is_refused_at_once(autojump_clock: MockClock) -> None:
    """Hazard 92: no work for a caller who has gone."""
    async with running() as (pipeline, _):
        result = await pipeline.submit(7, 1, put(1), trio.current_time())
        assert result.outcome == Result.NOT_DONE
        assert not pipeline.offer(7, 1, put(1), trio.current_time(), lambda result: None)


async def test_full_pipeline_makes_callers_wait_and_refuses_relays(autojump_clock: MockClock) -> None:
    results: list[Result] = []
    async with running(PipelineLimits(operations_max=2)) as (pipeline, nursery):
        nursery.start_soon(results_of, pipeline, [put(n) for n in range(1, 6)], 5.0, results)
        await trio.testing.wait_all_tasks_blocked()
        assert len(pipeline) == 2
        assert not pipeline.offer(7, 1, put(9), 5.0, lambda result: None)
        ours, theirs = in_memory_pair()
        nursery.start_soon(drive, pipeline, ours, [])
        while len(results) < 5:
            for request in await theirs.receive_all():
                assert sum(len(batch.commands) for batch in request.batches) <= 2
                sequences = [c.sequence for b in request.batches for c in b.commands]
                await theirs.send(Reply(results=[Result(session=7, sequence=n) for n in sequences]))
            await trio.testing.wait_all_tasks_blocked()
        assert {result.sequence for result in results} == {1, 2, 3, 4, 5}


async def test_a_shut_pipeline_refuses_at_once(autojump_clock: MockClock) -> None:
    results: list[Result] = []
    async with running(PipelineLimits(operations_max=1)) as (pipeline, nursery):
        nursery.start_soon(results_of, pipeline, [put(1), put(2), put(3)], 5.0, results)
        await trio.testing.wait_all_tasks_blocked()
        pipeline.shut(errors.UNIMPLEMENTED, "no such service")
        await trio.testing.wait_all_tasks_blocked()
        result = await pipeline.submit(7, 1, put(4), 5.0)
        read = await pipeline.submit_read(b"", 5.0)
        assert not pipeline.offer(7, 1, put(5), 5.0, results.append)
        assert {found.outcome for found in [*results, result]} == {Result.NOT_DONE}
        assert {found.code for found in [*results, result]} == {errors.UNIMPLEMENTED}
        assert read.code == errors.UNIMPLEMENTED
        assert len(results) == 3
    assert trio.current_time() == 0


async def test_cancelled_before_sending_is_never_sent(autojump_clock: MockClock) -> None:
    """Hazard 82: cancelling says nothing by itself; before the sending it is a withdrawal."""
    async with running() as (pipeline, nursery):
        with trio.move_on_after(1):
            await pipeline.submit(7, 1, put(1), trio.current_time() + 5)
        assert len(pipeline) == 0
        ours, theirs = in_memory_pair()
        nursery.start_soon(drive, pipeline, ours, [])
        with trio.move_on_after(1) as scope:
            await theirs.receive_all()
        assert scope.cancelled_caught


async def test_dropped_after_sending_is_not_sent_again(autojump_clock: MockClock) -> None:
    results: list[Result] = []
    async with running(PipelineLimits(operations_max=1)) as (pipeline, nursery):
        first, theirs = in_memory_pair()
        nursery.start_soon(drive, pipeline, first, [])
        operation = pipeline.take(7, 1, put(1), 5.0, results.append)
        assert operation is not None
        assert pipeline.take(7, 1, put(2), 5.0, results.append) is None
        await theirs.receive_all()
        pipeline.drop(operation, results.append)
        pipeline.drop(operation, results.append)
        theirs.close()
        await trio.testing.wait_all_tasks_blocked()
        second, theirs = in_memory_pair()
        nursery.start_soon(drive, pipeline, second, [])
        assert pipeline.offer(7, 2, put(2), 5.0, results.append)
        (request,) = await theirs.receive_all()
        assert [command.sequence for command in request.batches[0].commands] == [2]
    assert not results


async def test_relayed_registrations_keep_their_own_numbers(autojump_clock: MockClock) -> None:
    cluster = Cluster()
    results: list[Result] = []
    async with running() as (pipeline, nursery):
        ours, theirs = in_memory_pair()
        nursery.start_soon(serve, theirs, cluster.serve, [])
        nursery.start_soon(drive, pipeline, ours, [])
        for _ in range(2):
            command = Command(sequence=5, kind=Command.REGISTER)
            assert pipeline.offer(0, 0, command, 5.0, results.append)
        await trio.testing.wait_all_tasks_blocked()
        assert [result.sequence for result in results] == [5, 5]
        assert len(cluster.sessions) == 2


async def test_unavailable_reads_are_asked_again_after_a_pause(autojump_clock: MockClock) -> None:
    """Hazard 95: a pause that doubles."""
    times: list[float] = []

    def answer(request: Request) -> Reply:
        times.append(trio.current_time())
        code = errors.OK if len(times) == 4 else errors.UNAVAILABLE
        return Reply(read_results=[ReadResult(id=read.id, code=code) for read in request.reads])

    async with running() as (pipeline, nursery):
        ours, theirs = in_memory_pair()
        nursery.start_soon(serve, theirs, answer, [])
        nursery.start_soon(drive, pipeline, ours, [])
        result = await pipeline.submit_read(b"range", 5.0)
        assert result.code == errors.OK
    assert times == pytest.approx([0, 0.02, 0.06, 0.14])


async def test_read_that_may_not_move_ends_with_its_upstream(autojump_clock: MockClock) -> None:
    results: list[ReadResult] = []
    async with running() as (pipeline, nursery):
        ours, theirs = in_memory_pair()
        nursery.start_soon(drive, pipeline, ours, [])
        assert pipeline.offer_read(b"range", 5.0, results.append, keep=False)
        await theirs.receive_all()
        theirs.close()
        await trio.testing.wait_all_tasks_blocked()
        assert [result.code for result in results] == [errors.UNAVAILABLE]


async def test_leaves_an_upstream_that_cannot_serve(autojump_clock: MockClock) -> None:
    ends: list[UpstreamEnd] = []

    async def drive_and_leave(stream: InMemoryStream) -> None:
        ends.append(await pipeline.drive(stream, leave_when_unavailable=True))

    async with running() as (pipeline, nursery):
        ours, theirs = in_memory_pair()
        nursery.start_soon(drive_and_leave, ours)
        nursery.start_soon(pipeline.submit_read, b"range", 5.0)
        (request,) = await theirs.receive_all()
        await theirs.send(Reply(read_results=[ReadResult(id=request.reads[0].id, code=errors.UNAVAILABLE)]))
        await trio.testing.wait_all_tasks_blocked()
        assert ends == [UpstreamEnd(unavailable=True)]
        assert len(pipeline) == 1
