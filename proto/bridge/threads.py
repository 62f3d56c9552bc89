"""The grpc thread with its asyncio loop, the inboxes between it and Trio, and waiting for each from the
other.

Knows asyncio and Trio, but neither grpc nor calls. Used by the rest of `proto.bridge` only.
"""

import asyncio
import functools
import importlib
import importlib.util
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, TypeVar

import outcome
import trio

from proto.lane import Inbox, Lane

_T = TypeVar("_T")


class OtherSideEnded(Exception):
    """The coroutine was cancelled on the grpc thread, by something else than its Trio caller."""


class GrpcThread:
    """The asyncio loop that owns grpc. One per process: two would share grpc's poller and disturb each
    other."""

    _instance: "GrpcThread | None" = None
    _lock = threading.Lock()

    def __init__(self) -> None:
        # uvloop is worth having and not worth requiring.
        fast = importlib.util.find_spec("uvloop") is not None
        self.loop: asyncio.AbstractEventLoop = (
            importlib.import_module("uvloop").new_event_loop() if fast else asyncio.new_event_loop()
        )
        self.inbox = Inbox(self.loop.call_soon_threadsafe)
        threading.Thread(target=self._run, name="grpc", daemon=True).start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    @classmethod
    def get(cls) -> "GrpcThread":
        with cls._lock:
            if cls._instance is None:
                cls._instance = cls()
            return cls._instance


_trio_inbox: trio.lowlevel.RunVar[Inbox] = trio.lowlevel.RunVar("proto.bridge inbox")


def trio_inbox() -> Inbox:
    """The inbox of the running Trio program."""
    try:
        return _trio_inbox.get()
    except LookupError:
        token = trio.lowlevel.current_trio_token()

        def ring(run: Callable[[], None]) -> None:
            # The program has ended; nobody waits for the callback.
            with suppress(trio.RunFinishedError):
                token.run_sync_soon(run)

        _trio_inbox.set(Inbox(ring))
        return _trio_inbox.get()


class LoopTask:
    """A coroutine on the grpc thread, started from Trio and waited for there, by one task."""

    @trio.lowlevel.enable_ki_protection
    def __init__(self, function: Callable[..., Coroutine[Any, Any, Any]], *arguments: Any) -> None:
        self._grpc, self._trio = GrpcThread.get(), trio_inbox()
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False
        self._result: outcome.Outcome[Any] | None = None
        self._waiter: trio.lowlevel.Task | None = None
        self._grpc.inbox.post(functools.partial(self._start, function, arguments))

    def _start(self, function: Callable[..., Coroutine[Any, Any, Any]], arguments: tuple[Any, ...]) -> None:
        self._task = self._grpc.loop.create_task(function(*arguments))
        self._task.add_done_callback(self._finish)

    def _finish(self, task: "asyncio.Task[Any]") -> None:
        result: outcome.Outcome[Any] = (
            outcome.Error(OtherSideEnded()) if task.cancelled() else outcome.capture(task.result)
        )
        self._trio.post(functools.partial(self._resume, result))

    def _resume(self, result: outcome.Outcome[Any]) -> None:
        self._result = result
        if self._waiter is not None:
            trio.lowlevel.reschedule(self._waiter, outcome.Value(None))

    @trio.lowlevel.enable_ki_protection
    def cancel(self) -> None:
        """Cancel the coroutine; `wait` still has to be awaited. Idempotent."""
        if not self._cancelled:
            self._cancelled = True
            self._grpc.inbox.post(lambda: self._task is None or self._task.cancel())

    @trio.lowlevel.enable_ki_protection
    async def wait(self) -> Any:
        """The coroutine's result.

        A Trio cancel cancels the coroutine and waits for its end; a result that it still reached counts.
        Raises `OtherSideEnded` when it was cancelled otherwise.
        """
        raise_cancel: Callable[[], Any] | None = None

        def abort(raise_cancelled: Callable[[], Any]) -> trio.lowlevel.Abort:
            nonlocal raise_cancel
            raise_cancel = raise_cancelled
            self.cancel()
            return trio.lowlevel.Abort.FAILED

        if self._result is None:
            self._waiter = trio.lowlevel.current_task()
            await trio.lowlevel.wait_task_rescheduled(abort)
        assert self._result is not None
        try:
            return self._result.unwrap()
        except OtherSideEnded:
            if raise_cancel is not None:
                return raise_cancel()
            raise


async def on_loop(function: Callable[..., Coroutine[Any, Any, _T]], *arguments: Any) -> _T:
    """Run a coroutine on the grpc thread, from Trio. See `LoopTask.wait`."""
    result: _T = await LoopTask(function, *arguments).wait()
    return result


async def grpc_caught_up() -> None:
    """Returns when the grpc thread has begun on everything that was handed to it before."""
    await on_loop(_nothing)


async def _nothing() -> None:
    pass


class Bell:
    """Where the one grpc-side task at a lane's end waits. `ring` may be called in any thread."""

    __slots__ = ("_future", "_grpc")

    def __init__(self, grpc_thread: GrpcThread) -> None:
        self._grpc = grpc_thread
        self._future: asyncio.Future[None] | None = None

    def ring(self) -> None:
        self._grpc.inbox.post(self._wake)

    def _wake(self) -> None:
        if self._future is not None and not self._future.done():
            self._future.set_result(None)

    async def wait(self) -> None:
        # A ring in answer to what was just seen is still in our inbox, so it cannot be missed.
        self._future = self._grpc.loop.create_future()
        await self._future


async def put(lane: Lane, message: bytes, room: Bell) -> None:
    """Put `message` into the lane from the grpc thread, waiting for room. Raises `LaneClosed`."""
    while not lane.offer(message, will_wait=True):
        await room.wait()
