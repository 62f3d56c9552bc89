"""A writer at a fixed rate, which remembers what became of every single write.

It goes on sending on time whatever happens, so that an outage shows as what it is for clients that come at
their own pace. The failover benchmark runs it.
"""

import time
from collections import Counter
from dataclasses import dataclass, field

import trio

from bench.config import (
    FAILOVER_KEYS,
    FAILOVER_OUTSTANDING_MAX,
    FAILOVER_SUCCESSES,
    FAILOVER_VALUE_BYTES,
)
from bench.connections import Connection, OperationFailed


@dataclass(slots=True)
class Write:
    """One write. Times are seconds since the epoch, comparable with the daemons' logs. `revision` is set when
    it was acknowledged, `error` when it failed; neither while it is under way."""

    key: bytes
    value: bytes
    due: float
    ended: float = 0.0
    revision: int | None = None
    error: str | None = None
    not_done: bool = False

    @property
    def acknowledged(self) -> bool:
        return self.revision is not None


@dataclass(slots=True)
class Probe:
    """`prefix` is that of its keys, which nobody else may write."""

    connection: Connection
    rate: float
    prefix: bytes
    writes: list[Write] = field(default_factory=list)
    unsent: int = 0
    _outstanding: int = 0
    _stopped: bool = False
    _acknowledged: trio.Event = field(default_factory=trio.Event)

    async def run(self) -> None:
        """Until `stop`, and then until all that was sent has ended."""
        clock = trio.current_time()
        # One look at the wall clock: were it set during the run, the writes keep their distances.
        epoch = time.time() - clock
        number = 0
        async with trio.open_nursery() as nursery:
            while not self._stopped:
                due = clock + number / self.rate
                await trio.sleep_until(due)
                if self._outstanding >= FAILOVER_OUTSTANDING_MAX:
                    self.unsent += 1
                else:
                    key = self.prefix + b"%d" % (number % FAILOVER_KEYS)
                    write = Write(key, _value(number), due + epoch)
                    self.writes.append(write)
                    nursery.start_soon(self._write, write, epoch)
                number += 1

    def stop(self) -> None:
        self._stopped = True

    async def _write(self, write: Write, epoch: float) -> None:
        self._outstanding += 1
        try:
            revision = await self.connection.put(write.key, write.value)
        except OperationFailed as failure:
            write.error, write.not_done = failure.text, failure.not_done
        else:
            write.revision = revision
        finally:
            self._outstanding -= 1
        write.ended = trio.current_time() + epoch
        if write.acknowledged:
            self._acknowledged.set()
            self._acknowledged = trio.Event()

    async def until_served_since(self, moment: float) -> None:
        """Wait until several writes that were due after `moment` have been acknowledged."""
        while sum(write.acknowledged and write.due > moment for write in self.writes) < FAILOVER_SUCCESSES:
            await self._acknowledged.wait()

    def errors_since(self, moment: float) -> Counter[str]:
        """What clients saw fail."""
        return Counter(
            write.error for write in self.writes if write.error is not None and write.ended >= moment
        )


def _value(number: int) -> bytes:
    """No two writes of a probe have the same value: a history tells which of them it holds."""
    return (b"%d " % number).ljust(FAILOVER_VALUE_BYTES, b".")
