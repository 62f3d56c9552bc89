"""After every test of the bridge the grpc thread must be idle: no call may leave an asyncio task behind."""

import asyncio
import threading
import time
from collections.abc import Iterator

import pytest

from proto.bridge.threads import GrpcThread

BOUND_S = 10.0
# grpc.aio keeps one task per listening server that runs to its end after stop() has returned.


def tasks_left_over() -> list[str]:
    found: list[str] = []
    looked = threading.Event()
    loop = GrpcThread.get().loop

    def look() -> None:
        found.extend(repr(task) for task in asyncio.all_tasks(loop))
        looked.set()

    loop.call_soon_threadsafe(look)
    assert looked.wait(BOUND_S), "the grpc thread does not answer"
    return found


@pytest.fixture(autouse=True)
def no_asyncio_task_is_left_over() -> Iterator[None]:
    yield
    give_up = time.monotonic() + BOUND_S
    while (left := tasks_left_over()) and time.monotonic() < give_up:
        pass
    assert left == []
