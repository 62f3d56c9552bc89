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


async def test_cancelled_registration_leaves_it_to_the_next_caller(autojump_clock: MockClock) -> None:
    """Hazard 82."""
    cluster = Cluster()
    silent = True

    def answer(request: Request) -> Reply:
        return Reply() if silent else cluster.serve(request)

    async with running(answer) as (session, _):
        with trio.move_on_after(1):
            await session.execute(Command.PUT, b"a", 5.0)
        silent = False
        result = await session.execute(Command.PUT, b"b", 5.0)
        assert result.outcome == Result.DECIDED
    assert cluster.executed == [b"b"]


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
