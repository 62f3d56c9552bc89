"""The client library: `async with Client(endpoints) as client: await client.put(b"k", b"v")`, on Trio.

One session, one stream, batches: operations of many tasks share messages. Replies are etcd's protobuf
messages (`proto.rpc_pb2`: PutResponse, RangeResponse, …), typed by their stubs.
"""

import math
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, suppress
from types import TracebackType
from typing import Self, TypeVar

import trio
from google.protobuf.message import Message

from clientctl import link as links
from clientctl import lock as locks
from clientctl import unary
from clientctl.config import (
    ELECTION_TTL_S,
    LOCK_TTL_S,
    TIMEOUT_S,
    ClientLimits,
    LeaseLimits,
    PipelineLimits,
    SessionLimits,
    WatchLimits,
)
from clientctl.election import Election
from clientctl.endpoints import parse_endpoints
from clientctl.errors import (
    KeyValueError,
    OutcomeUnknown,
    error_of_read,
    error_of_result,
)
from clientctl.inquiries import Inquiries
from clientctl.leases import Lease, LeaseKeeper, renew_once
from clientctl.lifetime import CLOSED, Lifetime
from clientctl.pipeline import Pipeline
from clientctl.requests import (
    Consistency,
    Data,
    Operation,
    SortOrder,
    SortTarget,
    WatchFilter,
    check_nesting,
    delete_request,
    is_read_only,
    put_request,
    range_request,
    to_bytes,
    txn_request,
    watch_request,
)
from clientctl.session import Session
from clientctl.shared_link import SharedLink
from clientctl.upstream import Upstream
from clientctl.watch import Watch
from clientctl.watch_stream import WatchStreams
from proto import errors
from proto.rpc_pb2 import (
    CompactionRequest,
    CompactionResponse,
    Compare,
    DeleteRangeRequest,
    DeleteRangeResponse,
    LeaseGrantRequest,
    LeaseGrantResponse,
    LeaseKeepAliveResponse,
    LeaseLeasesRequest,
    LeaseLeasesResponse,
    LeaseRevokeRequest,
    LeaseRevokeResponse,
    LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
    TxnRequest,
    TxnResponse,
    WatchCreateRequest,
)
from proto.session_pb2 import Command

_Reply = TypeVar("_Reply", bound=Message)


class Client(Inquiries):
    """A client of proxyd, of raftd nodes, or of etcd. Use it as an async context manager, from any number
    of tasks.

    `endpoints`: "host:port" or "http://host:port" each; the first that works is used, and the next when it
    breaks. With raftd nodes the client moves to the leader by itself. `timeout`: seconds for each operation
    that names none. `dial_timeout`: seconds without any connection after which waiting operations fail;
    without it they wait for their own timeouts. Arguments that make no sense, here and in every operation,
    raise ValueError or TypeError.

    Writes are exactly-once over any change of connection or leader while the client lives; against etcd,
    which has no sessions, a write is sent once. Every operation raises `clientctl.errors.NotDone` (surely
    nothing has changed; `InvalidRequest` when the server refuses it as it is), and a write also
    `OutcomeUnknown`. Cancelling a write leaves its outcome unknown. Such a write may still take effect
    while older ones of this client wait for their answers; once those have ended, the next write that is
    done rules it out (not with etcd).
    """

    def __init__(
        self,
        endpoints: Sequence[str] = ("127.0.0.1:2379",),
        *,
        timeout: float = TIMEOUT_S,
        dial_timeout: float = math.inf,
        dial: links.Dial | None = None,
        pipeline_limits: PipelineLimits | None = None,
        session_limits: SessionLimits | None = None,
        limits: ClientLimits | None = None,
        watch_limits: WatchLimits | None = None,
        lease_limits: LeaseLimits | None = None,
    ) -> None:
        addresses = parse_endpoints(endpoints)
        super().__init__(endpoints, timeout, dial)
        self._limits = limits or ClientLimits()
        self._lease_limits = lease_limits or LeaseLimits()
        self._pipeline = Pipeline(pipeline_limits)
        self._session = Session(self._pipeline, session_limits)
        self._upstream = Upstream(addresses, self._dial, self._pipeline, self._limits, dial_timeout)
        # Watches have a connection of their own: a call that fails does not interrupt them.
        self._watch_link = SharedLink(addresses, self._dial, self._limits, dial_timeout)
        self._side_link = SharedLink(addresses, self._dial, self._limits, dial_timeout)
        self._watches = WatchStreams(self._watch_link, watch_limits or WatchLimits())
        self._keeper = LeaseKeeper(self._side_link, self._lease_limits)
        self._stack = AsyncExitStack()
        self._lifetime = Lifetime()

    async def __aenter__(self) -> Self:
        self._lifetime.begin()
        async with AsyncExitStack() as stack:
            nursery = await stack.enter_async_context(trio.open_nursery())
            stack.callback(nursery.cancel_scope.cancel)
            for part in (self._pipeline, self._upstream, self._watch_link, self._side_link):
                nursery.start_soon(part.run)
            nursery.start_soon(self._watches.run)
            nursery.start_soon(self._keeper.run)
            stack.callback(self._close)
            stack.push_async_exit(self._close_session)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        if isinstance(error, trio.Cancelled | BaseExceptionGroup):
            # May come from our own nursery, which then has to see it.
            return await self._stack.__aexit__(kind, error, traceback)
        # The caller's own exception leaves as it is, and not in a group.
        await self._stack.__aexit__(None, None, None)
        return None

    async def _close_session(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None and self._pipeline.connected:
            await self._session.close(trio.current_time() + self._limits.close_timeout_s)

    def _close(self) -> None:
        """Who still waits for an answer, in whichever task, is told now."""
        self._lifetime.end()
        self._pipeline.shut(errors.UNAVAILABLE, CLOSED)

    # Keys

    async def put(
        self,
        key: Data,
        value: Data = b"",
        *,
        prev_kv: bool = False,
        ignore_value: bool = False,
        ignore_lease: bool = False,
        lease: int = 0,
        ttl: int = 0,
        timeout: float | None = None,
    ) -> PutResponse:
        """Set `key` to `value`. With `prev_kv` the reply has what was there before.

        `ignore_value` leaves the value as it is (the key must exist) and makes a new version of it. The key
        ends with `lease`, or after `ttl` seconds, for which it gets a lease of its own; or with the lease
        that it has (`ignore_lease`); or never.
        """
        if lease and ttl:
            raise ValueError("lease and ttl exclude each other")
        if ttl:
            lease = (await self.lease_grant(ttl, timeout=timeout)).ID
        request = put_request(
            key, value, prev_kv=prev_kv, ignore_value=ignore_value, ignore_lease=ignore_lease, lease=lease
        )
        return await self.execute_put(request, timeout=timeout)

    async def get(
        self,
        key: Data,
        range_end: Data | None = None,
        *,
        prefix: bool = False,
        from_key: bool = False,
        limit: int = 0,
        revision: int = 0,
        sort_by: SortTarget = "key",
        order: SortOrder = "none",
        consistency: Consistency = "linearizable",
        keys_only: bool = False,
        count_only: bool = False,
        min_mod_revision: int = 0,
        max_mod_revision: int = 0,
        min_create_revision: int = 0,
        max_create_revision: int = 0,
        min_revision: int = 0,
        timeout: float | None = None,
    ) -> RangeResponse:
        """Read one key; or those from `key` up to but without `range_end`; or all with a `prefix`; or
        `from_key` on.

        `limit` 0 or below is no limit, as in etcd; `revision` 0 is the present, another one reads the past.
        "linearizable" sees every write that was acknowledged before; "serializable" is what one node has, at
        once. `min_revision` waits for a node that has reached it (read your writes); etcd knows no such thing
        and ignores it.
        """
        request = range_request(
            key,
            range_end,
            prefix=prefix,
            from_key=from_key,
            limit=limit,
            revision=revision,
            sort_by=sort_by,
            order=order,
            consistency=consistency,
            keys_only=keys_only,
            count_only=count_only,
            min_mod_revision=min_mod_revision,
            max_mod_revision=max_mod_revision,
            min_create_revision=min_create_revision,
            max_create_revision=max_create_revision,
        )
        return await self.execute_range(request, min_revision=min_revision, timeout=timeout)

    async def delete(
        self,
        key: Data,
        range_end: Data | None = None,
        *,
        prefix: bool = False,
        from_key: bool = False,
        prev_kv: bool = False,
        timeout: float | None = None,
    ) -> DeleteRangeResponse:
        """Delete one key or a range, given as in `get`. The reply counts them, and with `prev_kv` lists
        them.
        """
        request = delete_request(key, range_end, prefix=prefix, from_key=from_key, prev_kv=prev_kv)
        return await self.execute_delete(request, timeout=timeout)

    async def txn(
        self,
        compare: Iterable[Compare] = (),
        success: Iterable[Operation] = (),
        failure: Iterable[Operation] = (),
        *,
        timeout: float | None = None,
    ) -> TxnResponse:
        """Do all of `success` if every comparison holds, else all of `failure`, as one step.

        Build the parts with `compare`, `put_request`, `range_request`, `delete_request` and `txn_request` of
        `clientctl.requests`. `succeeded` in the reply says which list was done.
        """
        return await self.execute_txn(txn_request(compare, success, failure), timeout=timeout)

    # History

    def watch(
        self,
        key: Data,
        range_end: Data | None = None,
        *,
        prefix: bool = False,
        from_key: bool = False,
        start_revision: int = 0,
        prev_kv: bool = False,
        filters: Iterable[WatchFilter] = (),
        progress_notify: bool = False,
        fragment: bool = False,
    ) -> Watch:
        """The changes of one key or a range, given as in `get`: an async iterator of events (`proto.kv_pb2`),
        and a context manager.

        From now on, or from `start_revision` on. `prev_kv` adds what was there before; `filters` leaves puts
        or deletes out. Nothing is lost, doubled or out of order, whatever happens to servers and connections;
        `clientctl.errors.Compacted` says that what comes next is no longer known. `progress_notify` asks for
        answers without events while nothing happens, which `Watch.receive` returns; `fragment` lets the
        server send large answers in pieces.
        """
        request = watch_request(
            key,
            range_end,
            prefix=prefix,
            from_key=from_key,
            start_revision=start_revision,
            prev_kv=prev_kv,
            filters=filters,
            progress_notify=progress_notify,
            fragment=fragment,
        )
        return self.watch_request(request)

    def watch_request(self, request: WatchCreateRequest) -> Watch:
        """As `watch`, of a request that is built already."""
        self._lifetime.check()
        return self._watches.make(request)

    async def compact(
        self, revision: int, *, physical: bool = False, timeout: float | None = None
    ) -> CompactionResponse:
        """Forget what was before `revision`; `physical` waits until it is gone from the disk."""
        request = CompactionRequest(revision=revision, physical=physical)
        return await self._write(Command.COMPACT, request, CompactionResponse(), timeout)

    # Leases

    async def lease_grant(
        self, ttl: int, *, lease_id: int = 0, timeout: float | None = None
    ) -> LeaseGrantResponse:
        """A lease of `ttl` seconds, to which keys can be tied. The server may give more, and chooses the id
        unless `lease_id` does."""
        request = LeaseGrantRequest(TTL=ttl, ID=lease_id)
        return await self._write(Command.LEASE_GRANT, request, LeaseGrantResponse(), timeout)

    async def lease_revoke(self, lease_id: int, *, timeout: float | None = None) -> LeaseRevokeResponse:
        """End a lease, and delete the keys that are tied to it."""
        request = LeaseRevokeRequest(ID=lease_id)
        return await self._write(Command.LEASE_REVOKE, request, LeaseRevokeResponse(), timeout)

    async def lease_keep_alive(
        self, lease_id: int, *, timeout: float | None = None
    ) -> LeaseKeepAliveResponse:
        """Give a lease its whole time again, once. In the reply a TTL of 0 says that there is no such
        lease."""
        return await unary.attempt(
            self._side_link,
            self._limits,
            lambda link, _: renew_once(link, lease_id),
            self._deadline(timeout),
            is_read=True,
        )

    async def lease_time_to_live(
        self, lease_id: int, *, keys: bool = False, timeout: float | None = None
    ) -> LeaseTimeToLiveResponse:
        """How long a lease has left, and with `keys` which keys are tied to it. A TTL of -1 says that there
        is no such lease."""
        request = LeaseTimeToLiveRequest(ID=lease_id, keys=keys)
        return await self._call(request, LeaseTimeToLiveResponse(), self._deadline(timeout), is_read=True)

    async def leases(self, *, timeout: float | None = None) -> LeaseLeasesResponse:
        """All leases there are."""
        return await self._call(
            LeaseLeasesRequest(), LeaseLeasesResponse(), self._deadline(timeout), is_read=True
        )

    @asynccontextmanager
    async def lease(self, ttl: int, *, lease_id: int = 0) -> AsyncIterator[Lease]:
        """A lease that is kept alive while the block runs and revoked after it. If it is lost, the block is
        cancelled, and leaving it raises `LeaseLost`."""
        asked_at = trio.current_time()
        grant = await self.lease_grant(ttl, lease_id=lease_id)
        try:
            async with self.keep_lease(grant.ID, grant.TTL, granted_at=asked_at) as lease:
                yield lease
        finally:
            timeout_s = self._lease_limits.release_timeout_s
            # Whatever cannot be said in time, time itself says.
            with trio.CancelScope(shield=True), suppress(KeyValueError):
                await self.lease_revoke(grant.ID, timeout=timeout_s)

    def keep_lease(
        self, lease_id: int, ttl: int, *, granted_at: float | None = None
    ) -> AbstractAsyncContextManager[Lease]:
        """As `lease`, for one that is there and stays: granted or renewed for `ttl` seconds at `granted_at`
        (Trio's clock), or just now."""
        self._lifetime.check()
        at = trio.current_time() if granted_at is None else granted_at
        return self._keeper.kept(lease_id, ttl, at)

    # What leases are for

    def lock(
        self, name: Data, *, ttl: int = LOCK_TTL_S, lease: Lease | None = None
    ) -> AbstractAsyncContextManager[locks.Lock]:
        """`async with client.lock("name"):` only one of all who do so runs the block at a time.

        If this client vanishes, the lock ends `ttl` seconds later. If the lock is lost (no server answers for
        so long), the block is cancelled and `LeaseLost` raised. `lease`: use this one, not one of its own.
        """
        return locks.hold(self, to_bytes(name), ttl, lease, self._lease_limits)

    def election(self, name: Data, *, ttl: int = ELECTION_TTL_S) -> Election:
        """`async with client.election("name").campaign("me"):` of all who do so one leads, in the order in
        which they came. `ttl` as in `lock`."""
        return Election(self, to_bytes(name), ttl, self._lease_limits)

    # Requests that are built already

    async def execute_put(self, request: PutRequest, *, timeout: float | None = None) -> PutResponse:
        """As `put`."""
        return await self._write(Command.PUT, request, PutResponse(), timeout)

    async def execute_range(
        self, request: RangeRequest, *, min_revision: int = 0, timeout: float | None = None
    ) -> RangeResponse:
        """As `get`."""
        return await self._read(request, RangeResponse(), timeout, min_revision)

    async def execute_delete(
        self, request: DeleteRangeRequest, *, timeout: float | None = None
    ) -> DeleteRangeResponse:
        """As `delete`."""
        return await self._write(Command.DELETE_RANGE, request, DeleteRangeResponse(), timeout)

    async def execute_txn(self, request: TxnRequest, *, timeout: float | None = None) -> TxnResponse:
        """As `txn`."""
        check_nesting(request)
        if is_read_only(request):
            return await self._read(request, TxnResponse(), timeout, 0)
        return await self._write(Command.TXN, request, TxnResponse(), timeout)

    # Ways

    def _deadline(self, timeout: float | None) -> float:
        self._lifetime.check()
        return trio.current_time() + (self._timeout if timeout is None else timeout)

    async def _write(
        self, kind: Command.Kind.ValueType, request: Message, reply: _Reply, timeout: float | None
    ) -> _Reply:
        deadline = self._deadline(timeout)
        if not self._upstream.plain:
            self._upstream.want()
            result = await self._session.execute(kind, request.SerializeToString(), deadline)
            if result.code != errors.UNIMPLEMENTED:
                if error := error_of_result(result):
                    raise self._explained(error)
                reply.ParseFromString(result.body)
                return reply
        return await self._call(request, reply, deadline, is_read=False)

    async def _read(
        self, request: RangeRequest | TxnRequest, reply: _Reply, timeout: float | None, min_revision: int
    ) -> _Reply:
        deadline = self._deadline(timeout)
        if not self._upstream.plain:
            self._upstream.want()
            result = await self._pipeline.submit_read(
                request.SerializeToString(),
                deadline,
                txn=isinstance(request, TxnRequest),
                min_revision=min_revision,
            )
            if result.code != errors.UNIMPLEMENTED:
                if error := error_of_read(result):
                    raise self._explained(error)
                reply.ParseFromString(result.body)
                return reply
        return await self._call(request, reply, deadline, is_read=True)

    async def _call(self, request: Message, reply: _Reply, deadline: float, *, is_read: bool) -> _Reply:
        """A unary call: all there is with a server without sessions, else what sessions do not carry."""
        source = self._upstream if self._upstream.plain else self._side_link
        try:
            answer = await unary.call(
                source, self._limits, links.METHOD_OF[type(request)], request, deadline, is_read=is_read
            )
        except KeyValueError as error:
            raise self._explained(error, source.last_error) from None
        assert isinstance(answer, type(reply))
        return answer

    def _explained(self, error: KeyValueError, reason: str | None = None) -> KeyValueError:
        """A timeout of our own, with why there was no answer."""
        ours = (error.code, error.text) == errors.TIMEOUT
        if reason is None and not self._pipeline.connected:
            reason = self._upstream.last_error
        if ours and reason:
            kind = OutcomeUnknown if isinstance(error, OutcomeUnknown) else type(error)
            return kind(error.code, f"{error.text}: {reason}")
        return error
