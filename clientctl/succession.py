"""A queue of keys under a prefix, the oldest first: what locks and elections have in common.

The keys are those of etcd's recipe, `<name>/<lease in hexadecimal>`, so that other clients of etcd stand in
the same queue. Everything here may be done twice without harm, and so is repeated when its outcome is
unknown; the lease bounds for how long.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import trio

from clientctl.config import LeaseLimits
from clientctl.errors import Compacted, InvalidRequest, KeyValueError, LeaseLost
from clientctl.requests import compare, put_request, range_request
from proto import errors
from proto.kv_pb2 import Event
from proto.rpc_pb2 import Compare

if TYPE_CHECKING:
    from clientctl.client import Client

_Value = TypeVar("_Value")


@dataclass(frozen=True, slots=True)
class Place:
    """A place in the queue: its key, and the revision at which that was created, by which places are
    ordered."""

    key: bytes
    revision: int
    # Whether the key was there before; then its value may be another one.
    found: bool = False

    @property
    def held(self) -> Compare:
        """A condition for transactions: the place is still taken."""
        return compare(self.key, "create", "=", self.revision)


def key_of(prefix: bytes, lease_id: int) -> bytes:
    """Where the holder of a lease stands."""
    return b"%s%x" % (prefix, lease_id)


async def patiently(operate: Callable[[], Awaitable[_Value]], limits: LeaseLimits) -> _Value:
    """Repeat until it is done; what the server refuses as it is, is raised. The caller's lease bounds it."""
    while True:
        try:
            return await operate()
        except InvalidRequest:
            raise
        except KeyValueError:
            await trio.sleep(limits.renewal_pause_min_s)


async def take_place(
    client: "Client", prefix: bytes, lease_id: int, value: bytes, limits: LeaseLimits
) -> Place:
    """Stand in the queue, or find out where one stands already."""
    key = key_of(prefix, lease_id)
    first = range_request(prefix, prefix=True, sort_by="create", order="ascend", limit=1)

    async def stand() -> Place:
        reply = await client.txn(
            [compare(key, "create", "=", 0)],
            [put_request(key, value, lease=lease_id), first],
            [range_request(key), first],
        )
        if reply.succeeded:
            return Place(key, reply.header.revision)
        return Place(key, reply.responses[0].response_range.kvs[0].create_revision, found=True)

    return await patiently(stand, limits)


async def wait_for_turn(client: "Client", prefix: bytes, place: Place, limits: LeaseLimits) -> None:
    """Return when everybody who stood before `place` is gone. Raises `LeaseLost` if it is gone itself."""
    while True:
        before = await patiently(
            lambda: client.get(
                prefix,
                prefix=True,
                sort_by="create",
                order="descend",
                limit=1,
                max_create_revision=place.revision - 1,
            ),
            limits,
        )
        if not before.kvs:
            break
        # Only the next one before us: when a place is left, one waiter wakes and not all of them.
        start = before.header.revision + 1
        try:
            async with client.watch(before.kvs[0].key, start_revision=start, filters=["noput"]) as watch:
                async for event in watch:
                    if event.type == Event.DELETE:
                        break
        except Compacted:
            # The connection was lost for so long that what happened meanwhile is no longer known: look again.
            continue
    present = await patiently(lambda: client.get(place.key), limits)
    if not present.kvs or present.kvs[0].create_revision != place.revision:
        raise LeaseLost(errors.NOT_FOUND, "the lease ended while waiting")


async def leave(client: "Client", key: bytes, limits: LeaseLimits) -> None:
    """Stand there no longer, whatever else happens; if that cannot be said in time, the lease says it."""
    with trio.CancelScope(shield=True, deadline=trio.current_time() + limits.release_timeout_s):
        await patiently(lambda: client.delete(key), limits)
