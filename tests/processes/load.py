"""Writers that remember what was acknowledged to them, and the check that all of it is there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from clientctl.client import Client
from clientctl.errors import NotDone, OutcomeUnknown
from tests.processes.cluster import BOUND_S

WRITERS = 8


class Load:
    """Each writer is a client of its own and puts every key once, so that a key's version must be 1: more
    would be a command that was executed twice (hazard 87)."""

    def __init__(self, address: str, prefix: str) -> None:
        self.address = address
        self.prefix = prefix
        self.acknowledged: dict[bytes, bytes] = {}
        self.per_writer = [0] * WRITERS
        self.unknown: set[bytes] = set()
        self.refused = 0
        self._progress = trio.Event()

    async def until(self, per_writer: int) -> None:
        """Wait until every writer has had that many acknowledgements."""
        with trio.fail_after(BOUND_S):
            while min(self.per_writer) < per_writer:
                await self._progress.wait()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with trio.open_nursery() as nursery:
            for writer in range(WRITERS):
                nursery.start_soon(self._write, writer)
            yield
            nursery.cancel_scope.cancel()

    async def _write(self, writer: int) -> None:
        async with Client([self.address], timeout=BOUND_S) as client:
            number = 0
            while True:
                number += 1
                key = f"{self.prefix}/{writer}/{number}".encode()
                value = b"value of " + key
                # What is under way when the load ends may have been done or not.
                self.unknown.add(key)
                try:
                    await client.put(key, value)
                except OutcomeUnknown:
                    continue
                except NotDone:
                    self.refused += 1
                    self.unknown.discard(key)
                    continue
                self.unknown.discard(key)
                self.acknowledged[key] = value
                self.per_writer[writer] += 1
                self._progress.set()
                self._progress = trio.Event()

    async def check(self, address: str, *, serializable: bool = False) -> None:
        """Every acknowledged put is there, once, and nothing is that was not written."""
        async with Client([address], timeout=BOUND_S) as client:
            reply = await client.get(
                self.prefix.encode() + b"/",
                prefix=True,
                consistency="serializable" if serializable else "linearizable",
            )
        there = {pair.key: pair for pair in reply.kvs}
        kept = self.acknowledged
        lost = [key for key in kept if key not in there or there[key].value != kept[key]]
        assert not lost, f"{len(lost)} of {len(kept)} acknowledged puts are not there: {lost[:5]}"
        twice = [key for key, pair in there.items() if pair.version != 1]
        assert not twice, f"executed more than once: {twice[:5]}"
        strange = there.keys() - kept.keys() - self.unknown
        assert not strange, f"there, though refused or never sent: {sorted(strange)[:5]}"
