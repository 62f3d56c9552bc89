"""One generator process: `python -m bench worker`, which `bench.crew` starts and talks to in lines of JSON.

In: the workload, then when to start, then perhaps `stop`; the end of its input ends it at once, so that it
does not outlive its parent. Out: ready or failed, then an interval now and then, then all samples.
"""

import gc
import json
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Protocol

import click
import trio

from bench.audience import open_audience
from bench.config import PROGRESS_INTERVAL_S
from bench.connections import open_connections
from bench.generator import Generator
from bench.lines import LineEnd, LineReader
from bench.recorder import Recorder
from bench.workload import Workload


@click.command(hidden=True)
def worker() -> None:
    """Generate load as the process that started this one says."""
    trio.run(_work)


async def _work() -> None:
    orders = LineReader(trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())))
    workload = Workload.from_json(await orders.next())
    async with _prepared(workload) as make:
        _say({"ready": True})
        start_monotonic = (await orders.next())["start_at"]
        # What exists now lives as long as the process: no collection has to look at it again.
        gc.collect()
        gc.freeze()
        start = trio.current_time() + start_monotonic - time.monotonic()
        generator = make(start)
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_obey, orders, stop)
            nursery.start_soon(_report, generator)
            cpu = _CpuMeter()
            nursery.start_soon(cpu.start_at, generator.begin)
            await generator.run(stop)
            done = {
                "recording": generator.recorder.recording.to_json(),
                "cpu_share": cpu.share(),
                "operations_limit_reached": generator.operations_limit_reached,
            }
            nursery.cancel_scope.cancel()
        _say({"done": done})


class _Source(Protocol):
    """What makes load, and measures it."""

    begin: float
    recorder: Recorder
    operations_limit_reached: bool

    async def run(self, stop: trio.Event) -> None: ...


@asynccontextmanager
async def _prepared(workload: Workload) -> AsyncIterator[Callable[[float], _Source]]:
    """Connected, and to be called with the moment of the start."""
    if workload.operation == "watch":
        async with open_audience(workload) as audience:
            yield audience.starting_at
    else:
        async with open_connections(workload) as connections:
            yield lambda start: Generator(workload, connections, start)


async def _obey(orders: LineReader, stop: trio.Event) -> None:
    try:
        while True:
            if await orders.next() == "stop":
                stop.set()
    except LineEnd:
        # The parent is gone, and with it whoever wants to know.
        os._exit(1)


async def _report(generator: _Source) -> None:
    while True:
        await trio.sleep(PROGRESS_INTERVAL_S)
        interval = generator.recorder.take_interval()
        _say(
            {
                "operations": interval.operations,
                "errors": interval.errors,
                "p99_ms": interval.p99_ms,
            }
        )


class _CpuMeter:
    """How much of one core all threads of this process used since the measured window opened."""

    def __init__(self) -> None:
        self._cpu_s, self._at = time.process_time(), time.monotonic()

    async def start_at(self, begin: float) -> None:
        await trio.sleep_until(begin)
        self._cpu_s, self._at = time.process_time(), time.monotonic()

    def share(self) -> float:
        return (time.process_time() - self._cpu_s) / max(time.monotonic() - self._at, 1e-9)


def _say(message: Any) -> None:
    sys.stdout.write(json.dumps(message, separators=(",", ":")) + "\n")
    sys.stdout.flush()
