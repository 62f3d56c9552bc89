"""Keeps the leases of a client alive, all on one stream, and tells each holder when one is lost.

A lease counts as lost when the server says so, or when its time since the last renewal that was answered has
passed, measured from before that renewal was sent: the server may then have ended it. No clocks are compared:
each measures its own span.
"""

import heapq
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from clientctl.config import LeaseLimits
from clientctl.errors import LeaseLost, not_done
from clientctl.link import LEASE, Link
from clientctl.shared_link import SharedLink
from proto import errors
from proto.errors import Status
from proto.rpc_pb2 import LeaseKeepAliveRequest, LeaseKeepAliveResponse
from proto.stream import MessageStream, StreamEnded

# A server that has lost its leader ends the stream then, instead of falling silent.
_METADATA = {"hasleader": "true"}
_REFUSALS = frozenset({errors.UNIMPLEMENTED, errors.PERMISSION_DENIED, errors.UNAUTHENTICATED})


class Lease:
    """A lease that is kept alive. `id` is its number, `ttl` its time in seconds as the server granted it."""

    def __init__(self, lease_id: int, ttl: int, scope: trio.CancelScope) -> None:
        self.id = lease_id
        self.ttl = ttl
        self._scope = scope
        # For the keeper: when renewals went out that are not answered, and when the next one is due.
        self.sent: deque[float] = deque()
        self.due_at = 0.0

    @property
    def lost(self) -> bool:
        """Whether the lease is gone, or may be."""
        return self._scope.cancel_called

    def check(self) -> None:
        """Raise `LeaseLost` if it is."""
        if self.lost:
            raise LeaseLost(errors.NOT_FOUND, f"lease {self.id:016x} expired or revoked")

    # For the keeper

    def renewed(self, response: LeaseKeepAliveResponse, pause_min_s: float) -> None:
        """The server has answered a renewal."""
        sent_at = self.sent.popleft()
        if response.TTL <= 0:
            self._scope.cancel()
        else:
            self.ttl = response.TTL
            self._scope.deadline = sent_at + response.TTL
            self.due_at = sent_at + max(response.TTL / 3, pause_min_s)

    def refused(self) -> None:
        """No server will renew it."""
        self._scope.cancel()


class LeaseKeeper:
    """`run` is its one task; `kept` is for holders."""

    def __init__(self, link: SharedLink, limits: LeaseLimits) -> None:
        self._link = link
        self._limits = limits
        self._leases: dict[int, Lease] = {}
        # (when, a number that orders equals, lease); an entry that is not the lease's `due_at` is void.
        self._due: list[tuple[float, int, Lease]] = []
        self._entries = 0
        self._work = trio.Event()

    @asynccontextmanager
    async def kept(self, lease_id: int, ttl: int, granted_at: float) -> AsyncIterator[Lease]:
        """Keep a lease while the block runs, and cancel the block when the lease is lost: then, unless the
        block raises something else, leaving it raises `LeaseLost`. `granted_at`: on Trio's clock, not after
        the server granted or renewed it."""
        if lease_id in self._leases:
            raise ValueError(f"lease {lease_id:016x} is kept already")
        if len(self._leases) >= self._limits.leases_max:
            raise not_done(errors.RESOURCE_EXHAUSTED, "clientctl: too many leases")
        with trio.CancelScope(deadline=granted_at + ttl) as scope:
            lease = self._leases[lease_id] = Lease(lease_id, ttl, scope)
            lease.due_at = granted_at + ttl / 3
            self._schedule(lease)
            try:
                yield lease
            finally:
                del self._leases[lease_id]
        lease.check()

    async def run(self) -> None:
        """Renew what is due, until cancelled."""
        while True:
            while not self._leases:
                self._work = trio.Event()
                await self._work.wait()
            link = await self._link.get()
            try:
                error = await self._use(link)
            finally:
                self._lost()
            self._link.failed(link, error)
            if error.code in _REFUSALS:
                for lease in self._leases.values():
                    lease.refused()
                # They leave as soon as their tasks run; no use in asking on their behalf.
                await trio.lowlevel.checkpoint()

    async def _use(self, link: Link) -> Status:
        """Renew on one stream; returns why that ended."""
        try:
            async with (
                link.stream(LEASE["LeaseKeepAlive"], metadata=_METADATA) as stream,
                trio.open_nursery() as tasks,
            ):
                ends: list[Status] = []

                async def send() -> None:
                    if (end := await self._send(stream)) is not None:
                        ends.append(end)
                        tasks.cancel_scope.cancel()

                tasks.start_soon(send)
                ends.append(await self._receive(stream))
                tasks.cancel_scope.cancel()
            return ends[0]
        except Status as error:
            return error

    async def _send(self, stream: MessageStream) -> Status | None:
        try:
            while True:
                self._work = trio.Event()
                if not await self._renew_due(stream):
                    return Status(errors.UNAVAILABLE, "the server does not answer renewals of leases")
                with trio.CancelScope(deadline=self._due[0][0] if self._due else float("inf")):
                    await self._work.wait()
        except (StreamEnded, Status):
            # The receiver meets the same end, and says what it is.
            return None

    async def _renew_due(self, stream: MessageStream) -> bool:
        """Send what is due; False when one is due again without having been answered."""
        limits, now = self._limits, trio.current_time()
        sent = 0
        while self._due and self._due[0][0] <= now and sent < limits.renewals_max:
            due_at, _, lease = heapq.heappop(self._due)
            if self._leases.get(lease.id) is not lease or lease.due_at != due_at:
                continue
            if lease.sent:
                return False
            lease.sent.append(now)
            lease.due_at = now + min(limits.answer_timeout_s, max(lease.ttl / 3, limits.renewal_pause_min_s))
            self._schedule(lease)
            await stream.send(LeaseKeepAliveRequest(ID=lease.id))
            sent += 1
        return True

    async def _receive(self, stream: MessageStream) -> Status:
        try:
            while True:
                for response in await stream.receive_all():
                    self._link.served()
                    lease = self._leases.get(response.ID)
                    if lease is not None and lease.sent:
                        lease.renewed(response, self._limits.renewal_pause_min_s)
                        self._schedule(lease)
                await trio.lowlevel.checkpoint()
        except StreamEnded:
            return Status(errors.UNAVAILABLE, "the stream of renewals has ended")
        except Status as error:
            return error

    def _schedule(self, lease: Lease) -> None:
        self._entries += 1
        heapq.heappush(self._due, (lease.due_at, self._entries, lease))
        self._work.set()

    def _lost(self) -> None:
        """The stream is gone: whatever was not answered is due at once."""
        self._due.clear()
        for lease in self._leases.values():
            if lease.sent:
                lease.sent.clear()
                lease.due_at = trio.current_time()
            self._schedule(lease)


async def renew_once(link: Link, lease_id: int) -> LeaseKeepAliveResponse:
    """One renewal on a stream of its own. Raises `Status`."""
    async with link.stream(LEASE["LeaseKeepAlive"], metadata=_METADATA) as stream:
        try:
            await stream.send(LeaseKeepAliveRequest(ID=lease_id))
            response = (await stream.receive_all())[0]
        except StreamEnded:
            raise Status(errors.UNAVAILABLE, "the stream of renewals has ended") from None
    assert isinstance(response, LeaseKeepAliveResponse)
    return response
