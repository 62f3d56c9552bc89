"""The pace of sending: a few messages, then the gRPC thread gets time for what else it has to do.

One event may have ten thousand watchers. Each message to one of them costs both threads tens of
microseconds; sent all at once, they hold up the heartbeats that wait behind them in the gRPC thread, and by
the interpreter's lock everything else, for half a second. Called by every watch stream's writer.
"""

from collections.abc import Awaitable, Callable

import trio


class Turns:
    """`caught_up` returns when the gRPC thread has done what it was given so far."""

    def __init__(self, sends_per_turn: int, caught_up: Callable[[], Awaitable[None]]) -> None:
        self._sends_per_turn = sends_per_turn
        self._caught_up = caught_up
        self._left = sends_per_turn
        self._waiting = trio.lowlevel.ParkingLot()
        self._used_up = trio.Event()

    async def next(self) -> None:
        """Waits for the right to send one message, first come first served."""
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._left:
            self._left -= 1
            return
        self._used_up.set()
        await self._waiting.park()

    async def run(self) -> None:
        while True:
            await self._used_up.wait()
            self._used_up = trio.Event()
            await self._caught_up()
            woken = self._waiting.unpark(count=self._sends_per_turn)
            self._left = self._sends_per_turn - len(woken)
            if self._waiting:
                self._used_up.set()
