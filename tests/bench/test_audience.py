"""What watchers make of the events they get, in order or not."""

from collections import Counter, deque
from typing import Any, Self, cast

import pytest
import trio
import trio.testing

from bench.audience import END, HEADER, MISSED, REPEATED, UNFINISHED, Audience
from bench.workload import Workload
from clientctl.watch import Watch
from proto.kv_pb2 import Event, KeyValue

WORKLOAD = Workload("watch", ("127.0.0.1:1",), seconds=2.0, rate=10.0, timeout_s=3.0, token="t")


class FakeWatch:
    """Events in the order in which they were put there."""

    def __init__(self) -> None:
        self.events: deque[Event] = deque()
        self.arrival = trio.Event()

    def add(self, value: bytes) -> None:
        self.events.append(Event(kv=KeyValue(value=value)))
        self.arrival.set()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while not self.events:
            self.arrival = trio.Event()
            await self.arrival.wait()
        return self.events.popleft()


class Store:
    """Gives what is put to every watch, `delay_s` later, but for the numbers that it drops or repeats."""

    def __init__(self, delay_s: float) -> None:
        self.delay_s = delay_s
        self.watches: list[FakeWatch] = []
        self.dropped: set[int] = set()
        self.repeated: set[int] = set()

    def watch(self) -> Watch:
        self.watches.append(FakeWatch())
        return cast(Watch, self.watches[-1])

    async def put(self, key: bytes, value: bytes) -> int:
        await trio.sleep(self.delay_s)
        number, _, _ = HEADER.unpack_from(value)
        for watch in self.watches:
            for _ in range((number not in self.dropped) + (number in self.repeated)):
                watch.add(value)
        return 1

    async def get(self, key: bytes) -> None:
        raise AssertionError


async def measured(store: Store, watchers: int, **changes: Any) -> Audience:
    workload = Workload(**{**WORKLOAD.to_json(), **changes})
    audience = Audience(workload, [store.watch() for _ in range(watchers)], store)
    await audience.starting_at(trio.current_time()).run(trio.Event())
    return audience


async def test_an_event_counts_once_for_each_watcher(autojump_clock: trio.testing.MockClock) -> None:
    recording = (await measured(Store(0.05), watchers=3)).recorder.recording
    assert len(recording) == 3 * 20
    assert not recording.errors
    assert {round(ns / 1e6) for ns in recording.service} == {50}
    assert recording.window_s == 2.0


async def test_a_slow_writer_makes_late_events_and_not_fewer_reasons(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The writer needs 0.5 s for what is due every 0.1 s."""
    recording = (await measured(Store(0.5), watchers=1)).recorder.recording
    assert [round(ns / 1e6) for ns in recording.service] == [500] * 4
    assert [round(ns / 1e6) for ns in recording.response] == [500, 900, 1300, 1700]


@pytest.mark.parametrize(
    ("dropped", "repeated", "errors"),
    [
        ({3, 4, 9}, set(), {MISSED: 3}),
        ({19}, set(), {MISSED: 1}),
        (set(), {5}, {REPEATED: 1}),
        ({END}, set(), {UNFINISHED: 1}),
    ],
)
async def test_events_that_are_lost_or_doubled_are_errors(
    dropped: set[int], repeated: set[int], errors: dict[str, int], autojump_clock: trio.testing.MockClock
) -> None:
    store = Store(0.01)
    store.dropped, store.repeated = dropped, repeated
    recording = (await measured(store, watchers=1)).recorder.recording
    assert recording.errors == Counter(errors)
    assert len(recording) == 20 - len(dropped - {END})
