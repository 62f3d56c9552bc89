"""Elections by name, by etcd's recipe: whoever stands first in the queue leads, and its value is shown."""

from collections import deque
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Self

from clientctl.config import LeaseLimits
from clientctl.errors import Compacted, LeaseLost
from clientctl.leases import Lease
from clientctl.requests import Data, put_request, to_bytes
from clientctl.succession import Place, key_of, leave, patiently, take_place, wait_for_turn
from proto import errors
from proto.kv_pb2 import Event, KeyValue
from proto.rpc_pb2 import RangeResponse, TxnResponse

if TYPE_CHECKING:
    from clientctl.client import Client
    from clientctl.watch import Watch


class Leadership:
    """An election that is won. `key` and `revision` as of a lock; `revision` is a fencing token."""

    def __init__(self, client: "Client", place: Place, lease: Lease, limits: LeaseLimits) -> None:
        self.key = place.key
        self.revision = place.revision
        self.lease = lease
        self.held = place.held
        self._client = client
        self._limits = limits

    async def proclaim(self, value: Data) -> TxnResponse:
        """Show another value to those who observe. Raises `LeaseLost` when somebody else leads by now."""
        put = put_request(self.key, value, lease=self.lease.id)
        reply = await patiently(lambda: self._client.txn([self.held], [put]), self._limits)
        if not reply.succeeded:
            raise LeaseLost(errors.NOT_FOUND, "no longer the leader of the election")
        return reply

    async def resign(self) -> None:
        """Let the next one lead. Leaving the campaign does so too."""
        await leave(self._client, self.key, self._limits)


class Election:
    """Made by `Client.election`: `campaign` to lead, `leader` and `observe` to see who does."""

    def __init__(self, client: "Client", name: bytes, ttl: int, limits: LeaseLimits) -> None:
        self._client = client
        self._prefix = name + b"/"
        self._ttl = ttl
        self._limits = limits

    @asynccontextmanager
    async def campaign(self, value: Data = b"", *, lease: Lease | None = None) -> AsyncIterator[Leadership]:
        """Stand for election: the block begins once it is won, and leaving it resigns. It is cancelled, and
        leaving it raises `LeaseLost`, when the lease is lost. `lease`: stand on this one instead of one of
        its own."""
        async with AsyncExitStack() as stack:
            if lease is None:
                lease = await stack.enter_async_context(self._client.lease(self._ttl))
            try:
                place = await take_place(self._client, self._prefix, lease.id, to_bytes(value), self._limits)
                leadership = Leadership(self._client, place, lease, self._limits)
                if place.found:
                    await leadership.proclaim(value)
                await wait_for_turn(self._client, self._prefix, place, self._limits)
                yield leadership
            finally:
                await leave(self._client, key_of(self._prefix, lease.id), self._limits)

    async def leader(self) -> KeyValue | None:
        """The key and value of whoever leads; None when nobody does."""
        reply = await self.first()
        return reply.kvs[0] if reply.kvs else None

    async def first(self) -> RangeResponse:
        """As `leader`, with the header."""
        return await self._client.get(self._prefix, prefix=True, sort_by="create", order="ascend", limit=1)

    def observe(self) -> "Observation":
        """Who leads and what is proclaimed, now and from now on: an async iterator of keys and values.

        What is proclaimed is all seen while one leader lasts; a leader who comes and goes at once may not
        be. Ends never; `close` it, or use it as a context manager."""
        return Observation(self._client, self, self._prefix, self._limits)


class Observation:
    """Made by `Election.observe`."""

    def __init__(self, client: "Client", election: Election, prefix: bytes, limits: LeaseLimits) -> None:
        self._client = client
        self._election = election
        self._prefix = prefix
        self._limits = limits
        self._watch: Watch | None = None
        # Whether the watch is for somebody to stand, and not on one who leads.
        self._vacant = False
        self._replies: deque[RangeResponse] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> KeyValue:
        return (await self.receive()).kvs[0]

    async def receive(self) -> RangeResponse:
        """As the iteration gives it, with the header of the server's answer."""
        while not self._replies:
            if self._watch is None:
                await self._look()
            else:
                await self._follow(self._watch)
        return self._replies.popleft()

    def close(self) -> None:
        """See no more."""
        if self._watch is not None:
            self._watch.close()
        self._watch = None

    async def _look(self) -> None:
        """Find out who leads, and watch."""
        reply = await patiently(self._election.first, self._limits)
        start = reply.header.revision + 1
        self._vacant = not reply.kvs
        if reply.kvs:
            self._replies.append(RangeResponse(header=reply.header, kvs=reply.kvs))
            self._watch = self._client.watch(reply.kvs[0].key, start_revision=start)
        else:
            self._watch = self._client.watch(
                self._prefix, prefix=True, start_revision=start, filters=["nodelete"]
            )

    async def _follow(self, watch: "Watch") -> None:
        try:
            response = await watch.receive()
        except Compacted:
            # The connection was lost for so long that what happened meanwhile is no longer known: look again.
            self.close()
            return
        for event in response.events:
            if self._vacant or event.type == Event.DELETE:
                self.close()
                return
            self._replies.append(RangeResponse(header=response.header, kvs=[event.kv]))
