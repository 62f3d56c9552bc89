"""`Session` on a pipeline whose upstream is the model, under Trio's autojump clock."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from clientctl.config import SessionLimits
from clientctl.pipeline import Pipeline
from clientctl.session import Session
from proto import errors
from proto.session_pb2 import Command, Reply, Request, Result
from proto.stream import in_memory_pair
from tests.clientctl.model import Cluster


@asynccontextmanager
async def running(
    answer: Callable[[Request], Reply] | None, limits: SessionLimits | None = None
) -> AsyncIterator[tuple[Session, trio.Nursery]]:
    pipeline = Pipeline(jitter=lambda: 1.0)
    ours, theirs = in_memory_pair()

    async def serve() -> None:
        while answer is not None:
            for request in await theirs.receive_all():
                await theirs.send(answer(request))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(pipeline.run)
        nursery.start_soon(pipeline.drive, ours)
        nursery.start_soon(serve)
        yield Session(pipeline, limits), nursery
        nursery.cancel_scope.cancel()


async def execute_all(session: Session, count: int, results: list[Result], deadline: float = 5.0) -> None:
    async def one(number: int) -> None:
        results.append(await session.execute(Command.PUT, b"write %d" % number, deadline))

    async with trio.open_nursery() as nursery:
        for number in range(count):
            nursery.start_soon(one, number)


async def test_registers_once_for_all(autojump_clock: MockClock) -> None:
    cluster, results = Cluster(), list[Result]()
    async with running(cluster.serve) as (session, _):
        await execute_all(session, 100, results)
        assert len(cluster.sessions) == 1
        assert session.id in cluster.sessions
    assert sorted(cluster.executed) == sorted(b"write %d" % n for n in range(100))
    assert {result.outcome for result in results} == {Result.DECIDED}


async def test_an_expired_session_is_replaced_without_the_caller_noticing(autojump_clock: MockClock) -> None:
    """Sent exactly once and met an unknown session: surely not executed, so it may run under a new number."""
    cluster = Cluster()
    async with running(cluster.serve) as (session, _):
        await session.execute(Command.PUT, b"a", 5.0)
        first = session.id
        cluster.sessions.clear()
        result = await session.execute(Command.PUT, b"b", 5.0)
        assert result.outcome == Result.DECIDED
        assert session.id != first
    assert cluster.executed == [b"a", b"b"]


async def test_a_session_that_expires_again_and_again_gives_up(autojump_clock: MockClock) -> None:
    cluster = Cluster()

    def forgetful(request: Request) -> Reply:
        reply = cluster.serve(request)
        cluster.sessions.clear()
        return reply

    async with running(forgetful) as (session, _):
        result = await session.execute(Command.PUT, b"a", 5.0)
        assert result.outcome == Result.NOT_DONE
    assert cluster.executed == []


async def test_failed_registration_means_not_done(autojump_clock: MockClock) -> None:
    """Whatever became of the registration, the write itself was never sent."""
    async with running(None) as (session, _):
        results: list[Result] = []
        await execute_all(session, 3, results, deadline=1.0)
        assert [result.outcome for result in results] == [Result.NOT_DONE] * 3
        assert {result.code for result in results} == {errors.UNAVAILABLE}


async def test_an_abandoned_registration_goes_on_for_the_next_caller(autojump_clock: MockClock) -> None:
    """Hazard 82: callers that leave early neither go without a session nor leave one behind each."""
    cluster, registered = Cluster(), 0

    async with trio.open_nursery() as nursery:
        pipeline = Pipeline(jitter=lambda: 1.0)
        ours, theirs = in_memory_pair()

        async def serve_slowly() -> None:
            nonlocal registered
            while True:
                for request in await theirs.receive_all():
                    await trio.sleep(0.1)
                    registered += sum(
                        command.kind == Command.REGISTER
                        for batch in request.batches
                        for command in batch.commands
                    )
                    await theirs.send(cluster.serve(request))

        nursery.start_soon(pipeline.run)
        nursery.start_soon(pipeline.drive, ours)
        nursery.start_soon(serve_slowly)
        session = Session(pipeline)
        results = [await session.execute(Command.PUT, b"a", trio.current_time() + 0.02) for _ in range(4)]
        assert {result.outcome for result in results} == {Result.NOT_DONE}
        with trio.move_on_after(0.001):
            await session.execute(Command.PUT, b"cancelled", 5.0)
        result = await session.execute(Command.PUT, b"b", 5.0)
        assert result.outcome == Result.DECIDED
        nursery.cancel_scope.cancel()
    assert cluster.executed == [b"b"]
    assert registered == 1


async def test_a_patient_caller_outlasts_a_registration(autojump_clock: MockClock) -> None:
    """An attempt that nobody answers is followed by the next one."""
    cluster = Cluster()

    def answer(request: Request) -> Reply:
        return Reply() if trio.current_time() < 6 else cluster.serve(request)

    async with running(answer) as (session, _):
        result = await session.execute(Command.PUT, b"a", 12.0)
        assert result.outcome == Result.DECIDED
    assert cluster.executed == [b"a"]


async def test_closing_waits_for_the_registration_to_end_it(autojump_clock: MockClock) -> None:
    cluster = Cluster()
    async with trio.open_nursery() as nursery:
        pipeline = Pipeline(jitter=lambda: 1.0)
        ours, theirs = in_memory_pair()
        nursery.start_soon(pipeline.run)
        nursery.start_soon(pipeline.drive, ours)
        session = Session(pipeline)
        await session.execute(Command.PUT, b"a", 0.1)
        nursery.start_soon(session.close, 5.0)
        await wait_all_tasks_blocked()
        closed: list[int] = []

        async def serve() -> None:
            while True:
                for request in await theirs.receive_all():
                    for batch in request.batches:
                        if batch.commands[0].kind == Command.CLOSE:
                            closed.append(batch.session)
                    await theirs.send(cluster.serve(request))

        nursery.start_soon(serve)
        await trio.sleep(1)
        assert closed == list(cluster.sessions)
        nursery.cancel_scope.cancel()
    assert session.id == 0


async def test_a_shut_pipeline_is_said_to_every_caller(autojump_clock: MockClock) -> None:
    """So that they go on without sessions."""
    async with trio.open_nursery() as nursery:
        pipeline = Pipeline(jitter=lambda: 1.0)
        nursery.start_soon(pipeline.run)
        session, results = Session(pipeline), list[Result]()
        nursery.start_soon(execute_all, session, 3, results)
        await wait_all_tasks_blocked()
        pipeline.shut(errors.UNIMPLEMENTED, "no sessions here")
        await execute_all(session, 1, results)
        nursery.cancel_scope.cancel()
    assert [(result.code, result.outcome) for result in results] == [
        (errors.UNIMPLEMENTED, Result.NOT_DONE)
    ] * 4


async def test_a_full_window_makes_callers_wait(autojump_clock: MockClock) -> None:
    cluster, results = Cluster(), list[Result]()
    numbers: list[int] = []

    def answer(request: Request) -> Reply:
        for batch in request.batches:
            for command in batch.commands:
                if batch.session:
                    numbers.append(command.sequence - batch.first_outstanding)
        return cluster.serve(request)

    limits = SessionLimits(window_operations_max=4)
    async with running(answer, limits) as (session, _):
        await execute_all(session, 50, results)
    assert len(results) == 50
    assert max(numbers) < 4


async def test_a_full_window_ends_at_the_deadline_as_not_done(autojump_clock: MockClock) -> None:
    cluster = Cluster()

    def answer(request: Request) -> Reply:
        is_write = any(batch.session for batch in request.batches)
        return Reply() if is_write else cluster.serve(request)

    async with running(answer, SessionLimits(window_bytes_max=10)) as (session, nursery):
        nursery.start_soon(session.execute, Command.PUT, b"a", 5.0)
        await wait_all_tasks_blocked()
        result = await session.execute(Command.PUT, b"b", 1.0)
        assert result.outcome == Result.NOT_DONE


async def test_first_outstanding_passes_what_was_given_up(autojump_clock: MockClock) -> None:
    """Else one lost answer would hold the window for ever."""
    cluster, batches = Cluster(), list[tuple[int, int]]()

    def answer(request: Request) -> Reply:
        reply = cluster.serve(request)
        for batch in request.batches:
            for command in batch.commands:
                batches.append((batch.first_outstanding, command.sequence))
                if command.request == b"lost":
                    return Reply()
        return reply

    async with running(answer) as (session, _):
        await session.execute(Command.PUT, b"a", 5.0)
        lost = await session.execute(Command.PUT, b"lost", 1.0)
        assert lost.outcome == Result.UNKNOWN
        await session.execute(Command.PUT, b"b", 5.0)
    assert batches[-1] == (3, 3)


async def test_close_ends_the_session_at_the_server(autojump_clock: MockClock) -> None:
    kinds: list[int] = []
    cluster = Cluster()

    def answer(request: Request) -> Reply:
        kinds.extend(command.kind for batch in request.batches for command in batch.commands)
        return cluster.serve(request)

    async with running(answer) as (session, _):
        await session.close(1.0)
        assert kinds == []
        await session.execute(Command.PUT, b"a", 5.0)
        await session.close(1.0)
        assert kinds == [Command.REGISTER, Command.PUT, Command.CLOSE]
        assert session.id == 0
