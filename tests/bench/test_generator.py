"""Closed and open loops on a clock of their own, against servers that are slow in a known way."""

from typing import Any

import pytest
import trio
import trio.testing

from bench.connections import OperationFailed
from bench.generator import Generator
from bench.recorder import READ, Recording
from bench.statistics import summarize_ns
from bench.workload import Workload


class SlowServer:
    """Answers after `latency_s`; from `stalls_at` on it answers nothing before `stalls_until`."""

    def __init__(
        self, latency_s: float, *, stalls_at: float = 0.0, stalls_until: float = 0.0, error: str | None = None
    ) -> None:
        self.latency_s, self.error = latency_s, error
        self.origin = trio.current_time()
        self.stalls_at, self.stalls_until = self.origin + stalls_at, self.origin + stalls_until
        self.keys: list[bytes] = []

    async def put(self, key: bytes, value: bytes) -> int:
        self.keys.append(key)
        if self.stalls_at <= trio.current_time() < self.stalls_until:
            await trio.sleep_until(self.stalls_until)
        await trio.sleep(self.latency_s)
        if self.error is not None:
            raise OperationFailed(self.error)
        return 1

    async def get(self, key: bytes) -> None:
        await self.put(key, b"")


async def measure(server: SlowServer, stop: trio.Event | None = None, **flags: Any) -> Recording:
    workload = Workload("put", ("127.0.0.1:1",), **flags)
    generator = Generator(workload, [server] * workload.connections, server.origin)
    await generator.run(trio.Event() if stop is None else stop)
    return generator.recorder.recording


async def test_a_closed_loop_is_as_fast_as_the_server(autojump_clock: trio.testing.MockClock) -> None:
    recording = await measure(SlowServer(0.125), clients=4, seconds=10.0, warmup_s=2.0)
    assert recording.completed_in_window == 4 * 80 - 4  # what would end with the window is not within it
    assert len(recording) == 4 * 80
    assert recording.window_s == 10.0
    assert summarize_ns(recording.service)["max"] == pytest.approx(125)
    assert not recording.queued


async def test_a_stall_is_one_slow_operation_to_a_closed_loop_and_many_to_an_open_one(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Coordinated omission: a server that stands still for 1 s of 10 must show in the p90 of a load that
    comes at its own pace, for every tenth operation fell due during the stall."""
    closed = await measure(SlowServer(0.01, stalls_at=5.0, stalls_until=6.0), clients=1, seconds=10.0)
    assert sum(ns > 20_000_000 for ns in closed.response) == 1
    opened = await measure(
        SlowServer(0.001, stalls_at=5.0, stalls_until=6.0), clients=1, seconds=10.0, rate=100.0
    )
    response, service = sorted(opened.response), sorted(opened.service)
    assert len(response) == 1000
    assert sum(ns > 2_000_000 for ns in service) == 1
    assert 100 <= sum(ns > 2_000_000 for ns in response) <= 120
    assert response[-1] == pytest.approx(1_001_000_000, rel=0.02)
    # The slots behind the stall waited less and less.
    assert response[-50] == pytest.approx(550_000_000, rel=0.1)


async def test_enough_clients_send_on_time_through_a_stall(autojump_clock: trio.testing.MockClock) -> None:
    server = SlowServer(0.001, stalls_at=5.0, stalls_until=6.0)
    recording = await measure(server, clients=200, seconds=10.0, rate=100.0)
    assert max(recording.queued) < 1_000_000
    assert sum(ns > 2_000_000 for ns in recording.service) == 100


async def test_what_was_due_and_never_sent_is_counted(autojump_clock: trio.testing.MockClock) -> None:
    """Two clients on a server that takes 1 s can send 20 in 10 s; 1,000 were due."""
    recording = await measure(SlowServer(1.0), clients=2, seconds=10.0, rate=100.0)
    assert len(recording) == 20
    assert len(recording) + recording.unsent == 1000


async def test_nothing_is_counted_that_was_due_in_the_warm_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    recording = await measure(SlowServer(1.0), clients=1, seconds=2.0, warmup_s=5.0, rate=10.0)
    assert len(recording) + recording.unsent <= 20


async def test_processes_share_a_rate_without_gaps(autojump_clock: trio.testing.MockClock) -> None:
    whole = Workload("put", ("127.0.0.1:1",), clients=3, connections=3, seconds=1.0, rate=30.0)
    due: list[int] = []
    for worker in range(3):
        server = SlowServer(0.0)
        generator = Generator(whole.share(worker, 3), [server], server.origin)
        await generator.run(trio.Event())
        due += [round(ns / 1e6) for ns in generator.recorder.recording.ended]
    assert sorted(due) == [round(1000 * slot / 30) for slot in range(30)]


async def test_a_total_is_exact(autojump_clock: trio.testing.MockClock) -> None:
    recording = await measure(SlowServer(0.125), clients=7, total=100, warmup_s=1.0)
    assert len(recording) == 100
    assert recording.window_s == pytest.approx(15 * 0.125)  # 100 by 7 clients: 15 turns


async def test_failures_are_counted_and_do_not_spin(autojump_clock: trio.testing.MockClock) -> None:
    server = SlowServer(0.0, error="it is broken")
    recording = await measure(server, clients=1, seconds=1.0)
    assert len(recording) == 0
    assert dict(recording.errors) == {"it is broken": len(server.keys)}
    assert len(server.keys) == pytest.approx(100, abs=2)


async def test_an_early_end_says_what_it_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    stop = trio.Event()
    async with trio.open_nursery() as nursery:

        async def end_early() -> None:
            await trio.sleep(2.25)
            stop.set()

        nursery.start_soon(end_early)
        recording = await measure(SlowServer(0.5), stop, clients=3, seconds=60.0)
    assert len(recording) == 12
    assert recording.in_flight == 3
    assert recording.window_s == pytest.approx(2.25)


async def test_a_run_waits_for_what_it_has_sent(autojump_clock: trio.testing.MockClock) -> None:
    recording = await measure(SlowServer(4.0), clients=1, seconds=5.0)
    assert list(recording.ended) == [4_000_000_000, 8_000_000_000]
    assert (recording.completed_in_window, recording.window_s, recording.in_flight) == (1, 5.0, 0)


async def test_a_mixture_keeps_its_ratio(autojump_clock: trio.testing.MockClock) -> None:
    server = SlowServer(0.001)
    workload = Workload("mixed", ("127.0.0.1:1",), clients=4, total=4000, read_ratio=0.95)
    generator = Generator(workload, [server], server.origin)
    await generator.run(trio.Event())
    assert generator.recorder.recording.kinds.count(READ) == pytest.approx(3800, abs=60)


def test_shares_add_up() -> None:
    whole = Workload("put", ("127.0.0.1:1",), clients=10, connections=4, total=103, seed=5)
    shares = [whole.share(worker, 4) for worker in range(4)]
    assert [share.clients for share in shares] == [3, 3, 2, 2]
    assert sum(share.total or 0 for share in shares) == 103
    assert [share.connections for share in shares] == [1, 1, 1, 1]
    assert len({share.seed for share in shares}) == 4
    assert Workload.from_json(shares[1].to_json()) == shares[1]
