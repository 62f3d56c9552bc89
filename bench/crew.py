"""The parent of the generator processes: starts them, lets them begin together, gathers what they measured.

They are new processes and not forks, because grpc does not survive a fork. Each is Python, hence one core.
"""

import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import trio

from bench.config import GENERATOR_BUSY_SHARE, READY_TIMEOUT_S, START_DELAY_S, WORKER_GRACE_S
from bench.lines import LineEnd, LineReader
from bench.process import how_it_ended
from bench.recorder import Interval, Recording
from bench.workload import Workload

_T = TypeVar("_T")


class LoadFailed(Exception):
    """The load could not be generated; the text is one line for the user."""


@dataclass(slots=True)
class LoadResult(Generic[_T]):
    """What all processes measured together. `before` and `after`: what `look` returned at the begin and the
    end of the measured window."""

    recording: Recording
    cpu_shares: list[float]
    before: _T
    after: _T
    interrupted: bool = False
    operations_limit_reached: bool = False

    @property
    def limited_by_generator(self) -> bool:
        return max(self.cpu_shares, default=0.0) > GENERATOR_BUSY_SHARE


@dataclass(slots=True)
class _Worker:
    process: trio.Process
    ready: bool = False
    done: dict[str, Any] | None = None
    _lines: LineReader = field(init=False)

    def __post_init__(self) -> None:
        assert self.process.stdout is not None
        self._lines = LineReader(self.process.stdout)

    async def next(self) -> Any:
        """What it says next. Raises LoadFailed when it ends."""
        try:
            return await self._lines.next()
        except LineEnd:
            status = await self.process.wait()
            raise LoadFailed(f"a generator process {how_it_ended(status)}") from None

    async def order(self, message: Any) -> None:
        assert self.process.stdin is not None
        try:
            await self.process.stdin.send_all(json.dumps(message).encode() + b"\n")
        except trio.BrokenResourceError:
            return  # It is gone; whoever reads from it says so.


async def generate(
    workload: Workload,
    processes: int,
    *,
    look: Callable[[], _T],
    on_interval: Callable[[Interval], None] | None = None,
    on_start: Callable[[float], None] | None = None,
    stop: trio.Event | None = None,
) -> LoadResult[_T]:
    """Carry out `workload` with that many processes and merge the result.

    `on_interval` sees what each process did in the last half second. `on_start` gets the time on Trio's clock
    at which the measured window opens. `stop` ends the run early; what was measured by then is the result.
    Raises LoadFailed.
    """
    stop = trio.Event() if stop is None else stop
    async with _started([workload.share(number, processes) for number in range(processes)]) as workers:
        start = time.monotonic() + START_DELAY_S
        begin = trio.current_time() + START_DELAY_S + workload.warmup_s
        end = begin + workload.seconds if workload.seconds is not None else float("inf")
        if on_start is not None:
            on_start(begin)
        watch = _Watch(look, begin, end)
        for worker in workers:
            await worker.order({"start_at": start})
        with trio.CancelScope(deadline=end + workload.timeout_s + WORKER_GRACE_S) as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch.run)
                nursery.start_soon(_pass_on, stop, workers, scope, workload.timeout_s)
                async with trio.open_nursery() as readers:
                    for worker in workers:
                        readers.start_soon(_read, worker, on_interval)
                watch.finish()
                nursery.cancel_scope.cancel()
        if any(worker.done is None for worker in workers):
            raise LoadFailed("a generator process did not hand over its samples in time")
    return _merged(workers, watch, stop.is_set())


def _merged(workers: list[_Worker], watch: "_Watch[_T]", interrupted: bool) -> LoadResult[_T]:
    whole = Recording()
    shares = []
    limit_reached = False
    for worker in workers:
        assert worker.done is not None
        whole.add(Recording.from_json(worker.done["recording"]))
        shares.append(worker.done["cpu_share"])
        limit_reached |= worker.done["operations_limit_reached"]
        worker.done = {}
    return LoadResult(whole, shares, watch.before, watch.after, interrupted, limit_reached)


class _Watch(Generic[_T]):
    """Looks when the measured window opens and when it is over."""

    def __init__(self, look: Callable[[], _T], begin: float, end: float) -> None:
        self._look, self._begin, self._end = look, begin, end
        self.before = self.after = look()
        self._over = False

    async def run(self) -> None:
        await trio.sleep_until(self._begin)
        self.before = self.after = self._look()
        await trio.sleep_until(self._end)
        self._over = True
        self.after = self._look()

    def finish(self) -> None:
        """All have ended, perhaps before their time."""
        if not self._over:
            self.after = self._look()


@asynccontextmanager
async def _started(shares: list[Workload]) -> AsyncIterator[list[_Worker]]:
    """The processes, connected and waiting for the order to start; killed at the end if they are still
    there. Raises LoadFailed."""
    workers: list[_Worker] = []
    try:
        for _ in shares:
            process = await trio.lowlevel.open_process(
                [sys.executable, "-m", "bench", "worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                # A Ctrl-C is for the parent, who stops them in order.
                process_group=0,
            )
            workers.append(_Worker(process))
        with trio.move_on_after(READY_TIMEOUT_S):
            for worker, share in zip(workers, shares, strict=True):
                await worker.order(share.to_json())
            for worker in workers:
                worker.ready = bool((await worker.next())["ready"])
        if not all(worker.ready for worker in workers):
            raise LoadFailed(f"the generator processes were not ready after {READY_TIMEOUT_S:g} s")
        yield workers
    finally:
        with trio.CancelScope(shield=True):
            for worker in workers:
                worker.process.kill()
                await worker.process.wait()
                for pipe in (worker.process.stdin, worker.process.stdout):
                    assert pipe is not None
                    await pipe.aclose()


async def _read(worker: _Worker, on_interval: Callable[[Interval], None] | None) -> None:
    while worker.done is None:
        message = await worker.next()
        if "done" in message:
            worker.done = message["done"]
        elif on_interval is not None:
            on_interval(Interval(message["operations"], message["errors"], message["p99_ms"]))


async def _pass_on(
    stop: trio.Event, workers: list[_Worker], scope: trio.CancelScope, timeout_s: float
) -> None:
    await stop.wait()
    scope.deadline = min(scope.deadline, trio.current_time() + timeout_s + WORKER_GRACE_S)
    for worker in workers:
        await worker.order("stop")
