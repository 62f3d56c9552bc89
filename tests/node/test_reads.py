"""Reads between arrival and answer: which round they join, what they wait for, what runs beside what.

Raft and the store are stand-ins that the test moves by hand; the worker threads are real, the clock is not.
"""

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, cast

import lmdb
import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from proto import errors
from proto.errors import Status
from raftd import config
from raftd.core.raft import Raft
from raftd.core.ready import ReadState
from raftd.reads import Read, Reads
from raftd.store import ReadTransaction, Store


class Data:
    """A store with nothing in it but a revision."""

    def __init__(self) -> None:
        self.revision = 1
        self.opened = 0

    @contextmanager
    def read(self) -> Iterator["Data"]:
        self.opened += 1
        yield self


class Leadership:
    """As much of Raft as `Reads` asks: begins a round, whose end is for the test to say."""

    def __init__(self) -> None:
        self.leader: int | None = 1
        self.rounds: list[int] = []

    def read_index(self, token: int) -> None:
        self.rounds.append(token)


class Desk:
    def __init__(self) -> None:
        self.data = Data()
        self.raft = Leadership()
        self.wakes = 0
        self.woken = trio.Event()
        self.reads = Reads(
            cast(Store, self.data), lambda reader: cast(Data, reader).revision, self._count_wake
        )
        self.answers: dict[str, bytes | Status] = {}
        self.answered = trio.Event()

    def _count_wake(self) -> None:
        self.wakes += 1
        woken, self.woken = self.woken, trio.Event()
        woken.set()

    async def put_off(self, times: int) -> None:
        """Until so many reads have found the state behind and wait."""
        while self.wakes < times:
            await self.woken.wait()

    def ask(
        self,
        name: str,
        run: Callable[[ReadTransaction], bytes] = lambda _: b"",
        **options: Any,
    ) -> Read:
        def done(answer: bytes | Status) -> None:
            assert name not in self.answers, f"{name} is answered twice"
            self.answers[name] = answer
            answered, self.answered = self.answered, trio.Event()
            answered.set()

        read = Read(run, done, **options)
        self.reads.add(read)
        return read

    def begin_round(self) -> int | None:
        """The token of the round that begins now, if one does."""
        before = len(self.raft.rounds)
        self.reads.begin_round(cast(Raft, self.raft))
        begun = self.raft.rounds[before:]
        assert len(begun) <= 1
        return begun[0] if begun else None

    def end_round(self, token: int, index: int | None) -> None:
        self.reads.round_ended(ReadState(token, index))

    async def all_answered(self, *names: str) -> None:
        while not set(names) <= set(self.answers):
            await self.answered.wait()
        assert set(self.answers) == set(names)


@asynccontextmanager
async def desk() -> AsyncIterator[Desk]:
    made = Desk()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(made.reads.run)
        yield made
        nursery.cancel_scope.cancel()


async def test_a_round_answers_what_arrived_before_it(mock_clock: MockClock) -> None:
    async with desk() as it:
        it.ask("one")
        it.ask("two")
        token = it.begin_round()
        assert token is not None
        it.end_round(token, 5)
        assert not it.reads.release(5, 5)
        await it.all_answered("one", "two")
        assert it.data.opened == 1, "one transaction for all"
        assert it.reads.served == 2
        assert len(it.reads) == 0


async def test_a_round_under_way_is_not_joined(mock_clock: MockClock) -> None:
    """Hazards 36, 37: that round may have fixed its index before a write which the reader has seen."""
    async with desk() as it:
        it.ask("early")
        first = it.begin_round()
        it.ask("late")
        assert first is not None
        it.end_round(first, 5)
        it.reads.release(5, 5)
        await it.all_answered("early")
        second = it.begin_round()
        assert second not in (None, first)
        assert second is not None
        it.end_round(second, 7)
        it.reads.release(6, 6)
        await wait_all_tasks_blocked()
        assert "late" not in it.answers, "the state at index 7 is not there yet"
        it.reads.release(7, 7)
        await it.all_answered("early", "late")


async def test_no_round_without_a_leader(mock_clock: MockClock) -> None:
    async with desk() as it:
        it.raft.leader = None
        it.ask("one")
        assert it.begin_round() is None
        assert it.reads.next_due_at() > trio.current_time(), "waiting for a leader must not keep a node busy"
        it.raft.leader = 2
        assert it.begin_round() is not None


async def test_a_failed_round_is_tried_again_together_with_what_came_since(mock_clock: MockClock) -> None:
    async with desk() as it:
        it.ask("one")
        first = it.begin_round()
        it.ask("two")
        assert first is not None
        it.end_round(first, None)
        assert it.begin_round() is None, "not at once"
        assert it.reads.next_due_at() == trio.current_time() + config.READ_RETRY_S
        mock_clock.jump(config.READ_RETRY_S)
        second = it.begin_round()
        assert second is not None
        it.end_round(second, 1)
        it.reads.release(1, 1)
        await it.all_answered("one", "two")


async def test_a_commit_is_asked_for_only_where_it_helps(mock_clock: MockClock) -> None:
    async with desk() as it:
        it.ask("one")
        token = it.begin_round()
        assert token is not None
        it.end_round(token, 5)
        assert not it.reads.release(4, 3), "index 5 is not applied: no commit could make it visible"
        assert it.reads.release(5, 3)
        assert not it.reads.release(5, 5)
        await it.all_answered("one")


async def test_local_reads_ask_nobody(mock_clock: MockClock) -> None:
    async with desk() as it:
        it.raft.leader = None
        it.ask("local", linearizable=False)
        await it.all_answered("local")
        assert not it.raft.rounds


async def test_a_read_waits_for_its_revision(mock_clock: MockClock) -> None:
    """Read-your-writes: a node that is behind answers when it has caught up, and not before."""
    async with desk() as it:
        it.ask("mine", linearizable=False, min_revision=3)
        it.ask("any", linearizable=False)
        await it.all_answered("any")
        await it.put_off(1)
        it.data.revision = 2
        it.reads.release(8, 8)
        await it.put_off(2)
        it.data.revision = 3
        opened = it.data.opened
        it.reads.release(8, 8)
        await wait_all_tasks_blocked()
        assert it.data.opened == opened, "nothing new was committed: nothing to look at"
        it.reads.release(9, 9)
        await it.all_answered("any", "mine")


async def test_a_state_that_advances_during_the_read_is_not_missed(mock_clock: MockClock) -> None:
    """Else a read would sleep although its revision is there: the lost wake-up."""
    reading, advanced = threading.Event(), threading.Event()

    def hold(_: ReadTransaction) -> bytes:
        reading.set()
        assert advanced.wait(60)
        return b""

    async with desk() as it:
        it.ask("behind", linearizable=False, min_revision=2)
        it.ask("slow", hold, linearizable=False)
        await trio.to_thread.run_sync(reading.wait, 60)
        it.data.revision = 2
        it.reads.release(9, 9)
        advanced.set()
        await it.all_answered("slow", "behind")


async def test_deadlines_end_every_kind_of_waiting(mock_clock: MockClock) -> None:
    async with desk() as it:
        deadline = trio.current_time() + 1
        it.ask("applying", deadline=deadline)
        token = it.begin_round()
        assert token is not None
        it.end_round(token, 5)
        it.ask("asking", deadline=deadline)
        assert it.begin_round() is not None
        it.ask("leaderless", deadline=deadline)
        it.ask("behind", linearizable=False, min_revision=9, deadline=deadline)
        it.ask("patient", deadline=deadline + 100)
        await it.put_off(1)
        mock_clock.jump(0.999)
        it.reads.expire()
        assert not it.answers
        assert it.reads.next_due_at() < deadline + config.DEADLINE_MARGIN_S
        mock_clock.jump(config.DEADLINE_MARGIN_S)
        it.reads.expire()
        texts = {name: answer.text for name, answer in it.answers.items() if isinstance(answer, Status)}
        assert texts == {
            "applying": errors.TIMEOUT_APPLIED_INDEX[1],
            "asking": errors.TIMEOUT[1],
            "leaderless": errors.TIMEOUT[1],
            "behind": errors.TIMEOUT_APPLIED_INDEX[1],
        }
        assert len(it.reads) == 1


async def test_nobody_is_answered_who_left(mock_clock: MockClock) -> None:
    """Hazard 92, and nothing leaks: wherever the read was."""
    async with desk() as it:
        waiting = it.ask("waiting")
        running = it.ask("running", linearizable=False)
        waiting.abandoned = running.abandoned = True
        await wait_all_tasks_blocked()
        mock_clock.jump(config.READ_SWEEP_S)
        it.reads.expire()
        assert len(it.reads) == 0
        assert not it.answers
        assert it.data.opened == 0


async def test_a_slow_scan_does_not_delay_points(mock_clock: MockClock) -> None:
    release = threading.Event()

    def hold(_: ReadTransaction) -> bytes:
        assert release.wait(60)
        return b""

    async with desk() as it:
        for number in range(config.MAX_CONCURRENT_SCANS):
            it.ask(f"scan {number}", hold, scan=True, linearizable=False)
        it.ask("one scan more", scan=True, linearizable=False)
        it.ask("point", linearizable=False)
        await it.all_answered("point")
        release.set()
        scans = [f"scan {number}" for number in range(config.MAX_CONCURRENT_SCANS)]
        await it.all_answered("point", "one scan more", *scans)


async def test_scans_run_beside_each_other_time_and_again(mock_clock: MockClock) -> None:
    """As many as may, also after quiet: a task that sleeps through its wake-up would be lost for good."""
    async with desk() as it:
        for turn in range(3):
            meeting = threading.Barrier(config.MAX_CONCURRENT_SCANS)

            def meet(_: ReadTransaction, meeting: threading.Barrier = meeting) -> bytes:
                meeting.wait(60)
                return b""

            for number in range(config.MAX_CONCURRENT_SCANS):
                it.ask(f"{turn} {number}", meet, scan=True, linearizable=False)
                await wait_all_tasks_blocked()
            names = [f"{a} {b}" for a in range(turn + 1) for b in range(config.MAX_CONCURRENT_SCANS)]
            await it.all_answered(*names)


async def test_a_batch_is_bounded_in_bytes(mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "MAX_READ_BATCH_BYTES", 10)
    async with desk() as it:
        for number in range(6):
            it.ask(f"{number}", lambda _: bytes(6), linearizable=False)
        await it.all_answered(*map(str, range(6)))
        assert list(it.answers) == ["0", "1", "2", "3", "4", "5"]
        assert it.data.opened == 3


async def test_too_many_are_refused_at_once(mock_clock: MockClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "MAX_PENDING_READS", 1)
    async with desk() as it:
        it.ask("one")
        it.ask("two")
        refused = it.answers["two"]
        assert isinstance(refused, Status)
        assert (refused.code, refused.text) == errors.TOO_MANY_REQUESTS
        token = it.begin_round()
        assert token is not None
        it.end_round(token, 1)
        it.reads.release(1, 1)
        await it.all_answered("one", "two")
        it.ask("three", linearizable=False)
        await it.all_answered("one", "two", "three")


async def test_a_read_that_goes_wrong_ends_alone(mock_clock: MockClock) -> None:
    """Else one client could end one node after another with one request."""

    def refuse(_: ReadTransaction) -> bytes:
        raise Status(*errors.FUTURE_REVISION)

    def fail(_: ReadTransaction) -> bytes:
        raise MemoryError

    async with desk() as it:
        it.ask("refused", refuse, linearizable=False)
        it.ask("fails", fail, linearizable=False)
        it.ask("good", lambda _: b"good", linearizable=False)
        await it.all_answered("refused", "fails", "good")
        answers = it.answers
        refused, failed = answers["refused"], answers["fails"]
        assert isinstance(refused, Status)
        assert (refused.code, refused.text) == errors.FUTURE_REVISION
        assert isinstance(failed, Status)
        assert failed.code == errors.UNKNOWN
        assert answers["good"] == b"good"


async def test_a_storage_error_ends_the_node(mock_clock: MockClock) -> None:
    """Hazard 61: it says nothing of the request and all of the disk."""

    def fail(_: ReadTransaction) -> bytes:
        raise lmdb.DiskError("cannot read")

    with pytest.RaisesGroup(lmdb.DiskError, flatten_subgroups=True):
        async with desk() as it:
            it.ask("one", fail, linearizable=False)
            await trio.sleep_forever()
    assert not it.answers


async def test_a_thread_that_is_left_behind_is_known(mock_clock: MockClock) -> None:
    """A scan may outlast the time there is to stop; the store must not be closed under it."""
    reading, release = threading.Event(), threading.Event()

    def hold(_: ReadTransaction) -> bytes:
        reading.set()
        assert release.wait(60)
        return b""

    async with desk() as it:
        it.ask("slow", hold, scan=True, linearizable=False)
        await trio.to_thread.run_sync(reading.wait, 60)
    assert it.reads.is_in_threads
    release.set()
    with trio.fail_after(60):
        while it.reads.is_in_threads:
            await trio.lowlevel.checkpoint()
