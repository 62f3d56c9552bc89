"""The load itself: clients in a closed loop, or a fixed rate in an open one. One process's part of it.

All times are Trio's, so that tests run it on a clock of their own. It knows connections only by their
protocol.
"""

import random
from collections.abc import Sequence

import trio

from bench.config import ERROR_PAUSE_S, OPERATIONS_MAX
from bench.connections import Connection, OperationFailed
from bench.keys import chooser, key_at
from bench.recorder import READ, WRITE, Recorder
from bench.workload import Workload


class Generator:
    """`start`: when the first operation is due; the measured window opens after the warm-up.

    Closed loop: each client sends its next operation when the last one has ended. Open loop: operation n of
    the run is due at `start + n / rate` whatever happened to those before it; the next free client takes it,
    and its response time counts from when it was due.
    """

    def __init__(self, workload: Workload, connections: Sequence[Connection], start: float) -> None:
        self._workload = workload
        self._connections = connections
        self._start = start
        self.begin = start + workload.warmup_s
        self.end = self.begin + workload.seconds if workload.seconds is not None else float("inf")
        self.recorder = Recorder(self.begin, open_loop=workload.rate is not None)
        self.operations_limit_reached = False
        source = random.Random(workload.seed)
        self._source = source
        self._next_key = chooser(
            workload.distribution,
            workload.key_space,
            source,
            first=workload.worker,
            step=workload.workers,
        )
        self._value = source.randbytes(workload.value_size)
        self._reads_share = workload.reads_share
        self._sent = 0
        self._slot = 0
        self._under_way = 0

    async def run(self, stop: trio.Event) -> None:
        """Until the window is over and everything sent has ended, or until `stop` is set. Fills in the rest
        of the recording."""
        client = self._open_client if self._workload.rate is not None else self._closed_client
        await trio.sleep_until(self._start)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._stop_when, stop, nursery.cancel_scope)
            async with trio.open_nursery() as clients:
                for number in range(self._workload.clients):
                    clients.start_soon(client, self._connections[number % len(self._connections)])
            nursery.cancel_scope.cancel()
        self._close()

    @staticmethod
    async def _stop_when(stop: trio.Event, scope: trio.CancelScope) -> None:
        await stop.wait()
        scope.cancel()

    async def _closed_client(self, connection: Connection) -> None:
        while self._may_send(now := trio.current_time()):
            if not await self._operate(connection, now):
                await trio.sleep(ERROR_PAUSE_S)

    async def _open_client(self, connection: Connection) -> None:
        while True:
            due = self._due(self._slot)
            if not self._may_send(due):
                return
            self._slot += 1
            await trio.sleep_until(due)
            if trio.current_time() >= self.end:
                self.recorder.recording.unsent += due >= self.begin
                return
            await self._operate(connection, due)

    def _due(self, slot: int) -> float:
        workload = self._workload
        assert workload.rate is not None
        return self._start + (slot * workload.workers + workload.worker) / workload.rate

    def _may_send(self, due: float) -> bool:
        if due < self.begin:
            return True
        if due >= self.end or (self._workload.total is not None and self._sent >= self._workload.total):
            return False
        if self._sent >= OPERATIONS_MAX:
            self.operations_limit_reached = True
            return False
        self._sent += 1
        return True

    async def _operate(self, connection: Connection, due: float) -> bool:
        """Whether it succeeded."""
        key = key_at(self._next_key())
        reads = self._reads_share and (self._reads_share == 1.0 or self._source.random() < self._reads_share)
        sent = trio.current_time()
        self._under_way += 1
        try:
            if reads:
                await connection.get(key)
            else:
                await connection.put(key, self._value)
        except OperationFailed as failure:
            self._under_way -= 1
            self.recorder.failed(due, trio.current_time(), failure.text)
            return False
        self._under_way -= 1
        self.recorder.done(READ if reads else WRITE, due, sent, trio.current_time())
        return True

    def _close(self) -> None:
        """How long the window really was, and what was due in it and not done."""
        recording = self.recorder.recording
        recording.in_flight = self._under_way
        over = min(trio.current_time(), self.end)
        recording.window_s = max(0.0, over - self.begin)
        if self._workload.rate is not None and self._workload.seconds is not None:
            while self._due(self._slot) < over:
                recording.unsent += self._due(self._slot) >= self.begin
                self._slot += 1
