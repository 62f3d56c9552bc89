"""The data plane towards one node: its session stream for reads, and unary calls.

A link lives as long as the watch on its node stands (`proxyd.endpoints` runs it). A read that its node does
not answer ends as UNAVAILABLE, at once when the stream breaks, and `proxyd.reads` takes it to another node.
Writes have a stream of their own (`proxyd.leader_link`).
"""

import random
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any

import trio
from google.protobuf.descriptor import MethodDescriptor

from clientctl.pending import FinishRead
from clientctl.pipeline import Pipeline
from proto import errors
from proto.errors import Status
from proto.stream import MessageStream
from proxyd import config
from proxyd.dial import SESSION_STREAM, Channel, Dial

MOVED = (errors.UNAVAILABLE, "proxyd: the node does not answer")


class NodeLink:
    """Reads and calls to the node at `address`. `served` counts the reads it answered."""

    def __init__(self, address: str, dial: Dial) -> None:
        self.address = address
        self.served = 0
        self._dial = dial
        self._pipeline = Pipeline(config.READ_LIMITS)
        self._channel: Channel | None = None
        self._scope = trio.CancelScope()

    @property
    def connected(self) -> bool:
        return self._pipeline.connected

    def offer_read(
        self, request: bytes, deadline: float, finish: FinishRead, *, txn: bool, min_revision: int
    ) -> bool:
        """As `Pipeline.offer_read`; False when too much is pending here."""
        return self._pipeline.offer_read(
            request, deadline, finish, txn=txn, min_revision=min_revision, keep=False
        )

    async def unary(
        self, method: MethodDescriptor, request: Any, timeout: float | None, *, raw: bool = False
    ) -> Any:
        """One call, `timeout` in seconds. Raises Status, UNAVAILABLE when there is no connection."""
        if self._channel is None:
            raise Status(*MOVED)
        return await self._channel.unary(method, request, timeout=timeout, raw=raw)

    def stream(
        self, method: MethodDescriptor, request: Any = None, *, metadata: Mapping[str, str] | None = None
    ) -> AbstractAsyncContextManager[MessageStream]:
        """A stream on the connection of the reads. Raises Status UNAVAILABLE when there is none."""
        if self._channel is None:
            raise Status(*MOVED)
        return self._channel.stream(method, request, metadata=metadata)

    def give_up_reads(self) -> None:
        """The node has fallen silent: its reads are to be asked elsewhere."""
        self._pipeline.end_all(*MOVED)

    async def run(self) -> None:
        """Keeps the stream up until `close`."""
        with self._scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._pipeline.run)
                while True:
                    await self._connect_once()
                    self.give_up_reads()
                    await trio.sleep(redial_pause_s())
        self.give_up_reads()

    def close(self) -> None:
        """The watch on the node has ended: its reads go elsewhere, and the connection ends."""
        self._scope.cancel()
        self.give_up_reads()

    async def _connect_once(self) -> None:
        try:
            async with self._dial(self.address) as channel:
                async with channel.stream(SESSION_STREAM) as stream:
                    self._channel = channel
                    await self._pipeline.drive(stream)
        except (Status, OSError):
            return  # the watch on this node reports its loss; here there is only the next attempt
        finally:
            self._channel = None


def redial_pause_s() -> float:
    """Bounded and jittered: many proxies must not return in step (hazard 95)."""
    return config.REDIAL_S * random.uniform(*config.REDIAL_JITTER)
