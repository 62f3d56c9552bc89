"""`bench watch`, one process's part: watchers of one prefix, and in the first process the writer.

An operation is one event in the hands of one watcher, and its latency counts from when the write was due or
sent: both moments travel in the value, by the clock that all processes of a machine share. Events are
numbered, so that a watcher knows what it did not get.
"""

import struct
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Self

import trio

from bench.config import READY_TIMEOUT_S
from bench.connections import Connection, NoServer, OperationFailed, open_connections, turned_endpoints
from bench.recorder import EVENT, Recorder
from bench.workload import Workload
from clientctl.client import Client
from clientctl.errors import KeyValueError
from clientctl.watch import Watch

HEADER = struct.Struct("<qqq")
"""Number, due and sent, in nanoseconds of the monotonic clock. The last one has the number END."""

END = -1
MISSED = "an event was not delivered"
REPEATED = "an event was delivered again, or out of order"
UNFINISHED = "a watcher had not received everything when its time was up"


def prefix(workload: Workload) -> bytes:
    return b"bench/watch/%b/" % workload.token.encode()


class Audience:
    """Watchers that are there already, and what they measure once `run` says when to begin."""

    def __init__(self, workload: Workload, watches: Sequence[Watch], writer: Connection | None) -> None:
        self._workload = workload
        self._watches = watches
        self._writer = writer
        self._monotonic_ahead = time.monotonic() - trio.current_time()
        self.begin = self.end = 0.0
        self.recorder = Recorder(0.0, open_loop=True)
        self.operations_limit_reached = False

    def starting_at(self, start: float) -> Self:
        """Itself, told when the first write is due, on Trio's clock."""
        workload = self._workload
        self.begin = start + workload.warmup_s
        assert workload.seconds is not None
        self.end = self.begin + workload.seconds
        self.recorder = Recorder(self.begin, open_loop=True)
        return self

    async def run(self, stop: trio.Event) -> None:
        """Until every watcher has seen the last event, or its time is up, or `stop` is set."""
        unfinished = len(self._watches)

        async def listen(watch: Watch) -> None:
            nonlocal unfinished
            await self._listen(watch)
            unfinished -= 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stop_when, stop, nursery.cancel_scope)
            nursery.cancel_scope.deadline = self.end + 2 * self._workload.timeout_s
            async with trio.open_nursery() as parts:
                for watch in self._watches:
                    parts.start_soon(listen, watch)
                if self._writer is not None:
                    parts.start_soon(self._write_all, self._writer)
            nursery.cancel_scope.cancel()
        now = trio.current_time()
        if not stop.is_set():
            for _ in range(unfinished):
                self.recorder.failed(now, now, UNFINISHED)
        self.recorder.recording.window_s = max(0.0, min(now, self.end) - self.begin)

    @staticmethod
    async def _stop_when(stop: trio.Event, scope: trio.CancelScope) -> None:
        await stop.wait()
        scope.cancel()

    async def _listen(self, watch: Watch) -> None:
        expected = 0
        try:
            async for event in watch:
                now = trio.current_time()
                number, due_ns, sent_ns = HEADER.unpack_from(event.kv.value)
                if number == END:
                    # Its `due` says how many there were.
                    for _ in range(due_ns - expected):
                        self.recorder.failed(now, now, MISSED)
                    return
                if number < expected:
                    self.recorder.failed(now, now, REPEATED)
                    continue
                for _ in range(number - expected):
                    self.recorder.failed(now, now, MISSED)
                expected = number + 1
                self.recorder.done(EVENT, self._trio_time(due_ns), self._trio_time(sent_ns), now)
        except KeyValueError as error:
            now = trio.current_time()
            self.recorder.failed(now, now, f"a watch ended: {error}")

    def _trio_time(self, monotonic_ns: int) -> float:
        # A microsecond more than the way there and back may cost: what is due at the begin belongs to it.
        return monotonic_ns / 1e9 - self._monotonic_ahead + 1e-6

    def _monotonic_ns(self, moment: float) -> int:
        return int((moment + self._monotonic_ahead) * 1e9)

    async def _write_all(self, writer: Connection) -> None:
        """One write after the other, each when it is due or as soon after as the last one was done: events
        of one writer are in order, and numbers without holes."""
        workload = self._workload
        assert workload.rate is not None
        start = self.begin - workload.warmup_s
        number = slot = 0
        while (due := start + slot / workload.rate) < self.end:
            slot += 1
            await trio.sleep_until(due)
            sent = trio.current_time()
            if sent >= self.end:
                break
            failure = await self._put(writer, number, self._monotonic_ns(due), self._monotonic_ns(sent))
            # One that may have happened has used its number.
            number += failure is None or not failure.not_done
        await trio.sleep_until(self.end)
        # Until it is acknowledged: a watcher stops at the first, so that another one does no harm.
        while True:
            if await self._put(writer, END, number, 0) is None:
                return
            await trio.sleep(1 / workload.rate)

    async def _put(
        self, writer: Connection, number: int, due_ns: int, sent_ns: int
    ) -> OperationFailed | None:
        value = HEADER.pack(number, due_ns, sent_ns).ljust(self._workload.value_size, b".")
        key = prefix(self._workload) + b"%d" % (max(number, 0) % self._workload.key_space)
        try:
            await writer.put(key, value)
        except OperationFailed as failure:
            now = trio.current_time()
            self.recorder.failed(now, now, failure.text)
            return failure
        return None


@asynccontextmanager
async def open_audience(workload: Workload) -> AsyncIterator[Audience]:
    """Connect, and begin all watches. Raises NoServer if they cannot all be had in time."""
    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(Client(endpoints, timeout=workload.timeout_s))
            for endpoints in turned_endpoints(workload)
        ]
        watches = [
            clients[number % len(clients)].watch(prefix(workload), prefix=True)
            for number in range(workload.clients)
        ]
        await _begin_all(watches)
        writer = None
        if workload.worker == 0:
            (writer,) = await stack.enter_async_context(open_connections(replace(workload, connections=1)))
        yield Audience(workload, watches, writer)
        for watch in watches:
            watch.close()


async def _begin_all(watches: Sequence[Watch]) -> None:
    """Entering a watch waits until a server has begun it; all at once."""
    failure: str | None = None
    try:
        with trio.move_on_after(READY_TIMEOUT_S) as scope:
            async with trio.open_nursery() as nursery:
                for watch in watches:
                    nursery.start_soon(watch.__aenter__)
    except* KeyValueError as group:
        failure = str(group.exceptions[0])
    if failure is not None:
        raise NoServer(f"the watches could not be begun: {failure}")
    if scope.cancelled_caught:
        raise NoServer(f"the watches were not begun after {READY_TIMEOUT_S:g} s")
