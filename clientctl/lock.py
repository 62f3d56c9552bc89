"""Locks by name, by etcd's recipe: whoever stands first in the queue holds the lock."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from clientctl.config import LeaseLimits
from clientctl.leases import Lease
from clientctl.succession import Place, key_of, leave, take_place, wait_for_turn
from proto.rpc_pb2 import Compare

if TYPE_CHECKING:
    from clientctl.client import Client


class Lock:
    """A lock that is held. `key` is the holder's key; `revision` grows from holder to holder, so whoever is
    guarded by the lock can refuse those who held it earlier (a fencing token)."""

    def __init__(self, place: Place, lease: Lease) -> None:
        self.key = place.key
        self.revision = place.revision
        self.lease = lease
        self._place = place

    @property
    def held(self) -> Compare:
        """A condition for `Client.txn`: do this only while the lock is held."""
        return self._place.held


@asynccontextmanager
async def hold(
    client: "Client", name: bytes, ttl: int, lease: Lease | None, limits: LeaseLimits
) -> AsyncIterator[Lock]:
    """What `Client.lock` returns."""
    prefix = name + b"/"
    async with AsyncExitStack() as stack:
        own = lease is None
        if lease is None:
            lease = await stack.enter_async_context(client.lease(ttl))
        try:
            place = await take_place(client, prefix, lease.id, b"", limits)
            await wait_for_turn(client, prefix, place, limits)
            yield Lock(place, lease)
        finally:
            # With a lease of its own the lock goes with that.
            if not own:
                await leave(client, key_of(prefix, lease.id), limits)
