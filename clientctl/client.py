"""The client library: `async with Client(endpoints) as client: await client.put(b"k", b"v")`, on Trio.

One session, one stream, batches: operations of many tasks share messages. Replies are etcd's protobuf
messages (`proto.rpc_pb2`: PutResponse, RangeResponse, …), typed by their stubs.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Self, TypeVar

import trio
from google.protobuf.descriptor import MethodDescriptor

from clientctl import link as links
from clientctl.config import TIMEOUT_S, ClientLimits, PipelineLimits, SessionLimits
from clientctl.endpoints import parse_endpoint
from clientctl.errors import (
    KeyValueError,
    OutcomeUnknown,
    error_of_read,
    error_of_result,
    error_of_unary_write,
    never_sent,
    not_done,
)
from clientctl.pipeline import Pipeline
from clientctl.requests import (
    Consistency,
    Data,
    Operation,
    SortOrder,
    SortTarget,
    delete_request,
    is_read_only,
    put_request,
    range_request,
    txn_request,
)
from clientctl.session import Session
from clientctl.upstream import Upstream
from proto import errors
from proto.errors import Status
from proto.rpc_pb2 import (
    Compare,
    DeleteRangeRequest,
    DeleteRangeResponse,
    MemberListRequest,
    MemberListResponse,
    PutRequest,
    PutResponse,
    RangeRequest,
    RangeResponse,
    StatusRequest,
    StatusResponse,
    TxnRequest,
    TxnResponse,
)
from proto.session_pb2 import Command
from proto.table_pb2 import CountersReply, CountersRequest

_Reply = TypeVar("_Reply", PutResponse, RangeResponse, DeleteRangeResponse, TxnResponse)
_Request = PutRequest | RangeRequest | DeleteRangeRequest | TxnRequest

_METHODS: Mapping[type, MethodDescriptor] = {
    PutRequest: links.KV["Put"],
    RangeRequest: links.KV["Range"],
    DeleteRangeRequest: links.KV["DeleteRange"],
    TxnRequest: links.KV["Txn"],
}


class Client:
    """A client of proxyd, of raftd nodes, or of etcd. Use it as an async context manager, from any number
    of tasks.

    `endpoints`: "host:port" or "http://host:port" each; the first that works is used, and the next when it
    breaks. With raftd nodes the client moves to the leader by itself. Raises ValueError for what is not an
    endpoint. `timeout`: seconds for each operation that names none. `dial_timeout`: seconds without any
    connection after which waiting operations fail; without it they wait for their own timeouts.

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
    ) -> None:
        self.endpoints = tuple(endpoints)
        self._addresses = [parse_endpoint(endpoint) for endpoint in endpoints]
        self._timeout = timeout
        self._dial = dial or links.dial
        self._limits = limits or ClientLimits()
        self._pipeline = Pipeline(pipeline_limits)
        self._session = Session(self._pipeline, session_limits)
        self._upstream = Upstream(self._addresses, self._dial, self._pipeline, self._limits, dial_timeout)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            nursery = await stack.enter_async_context(trio.open_nursery())
            stack.callback(nursery.cancel_scope.cancel)
            nursery.start_soon(self._pipeline.run)
            nursery.start_soon(self._upstream.run)
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

    # Keys

    async def put(
        self,
        key: Data,
        value: Data = b"",
        *,
        prev_kv: bool = False,
        ignore_value: bool = False,
        timeout: float | None = None,
    ) -> PutResponse:
        """Set `key` to `value`. With `prev_kv` the reply has what was there before.

        `ignore_value` leaves the value as it is (the key must exist) and makes a new version of it.
        """
        request = put_request(key, value, prev_kv=prev_kv, ignore_value=ignore_value)
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

        `limit` 0 is no limit; `revision` 0 is the present, another one reads the past. "linearizable" sees
        every write that was acknowledged before; "serializable" is what one node has, at once.
        `min_revision` waits for a node that has reached it (read your writes); etcd knows no such thing and
        ignores it.
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
        if is_read_only(request):
            return await self._read(request, TxnResponse(), timeout, 0)
        return await self._write(Command.TXN, request, TxnResponse(), timeout)

    # Servers

    async def status(self, endpoint: str, *, timeout: float | None = None) -> StatusResponse:
        """What the server at `endpoint` says of itself."""
        reply = await self._ask(endpoint, links.MAINTENANCE["Status"], StatusRequest(), timeout)
        assert isinstance(reply, StatusResponse)
        return reply

    async def counters(self, endpoint: str, *, timeout: float | None = None) -> dict[str, int]:
        """What the server at `endpoint` has counted since it started, by name; empty if it does not count."""
        try:
            reply = await self._ask(endpoint, links.LEADER_TABLE["Counters"], CountersRequest(), timeout)
        except KeyValueError as error:
            if error.code == errors.UNIMPLEMENTED:
                return {}
            raise
        assert isinstance(reply, CountersReply)
        return dict(reply.counters)

    async def health(self, endpoint: str, *, timeout: float | None = None) -> None:
        """Return when the server at `endpoint` can serve a linearizable read; raise `NotDone` when not."""
        try:
            await self._ask(endpoint, links.KV["Range"], RangeRequest(key=b"health"), timeout)
        except KeyValueError as error:
            if error.code != errors.PERMISSION_DENIED:
                raise

    async def member_list(
        self, *, endpoint: str | None = None, timeout: float | None = None
    ) -> MemberListResponse:
        """The cluster's members, asked of `endpoint`, or of the endpoints one after the other."""
        deadline = self._deadline(timeout)
        tried = self.endpoints if endpoint is None else (endpoint,)
        for last, address in zip([False] * (len(tried) - 1) + [True], tried, strict=True):
            try:
                remaining = max(0.0, deadline - trio.current_time())
                method = links.CLUSTER["MemberList"]
                reply = await self._ask(address, method, MemberListRequest(linearizable=True), remaining)
            except KeyValueError as error:
                if last or error.code not in (errors.UNAVAILABLE, errors.DEADLINE_EXCEEDED):
                    raise
                continue
            assert isinstance(reply, MemberListResponse)
            return reply
        raise AssertionError("no endpoint")

    # Ways

    def _deadline(self, timeout: float | None) -> float:
        return trio.current_time() + (self._timeout if timeout is None else timeout)

    async def _write(
        self, kind: Command.Kind.ValueType, request: _Request, reply: _Reply, timeout: float | None
    ) -> _Reply:
        deadline = self._deadline(timeout)
        if not self._upstream.plain:
            self._upstream.want()
            result = await self._session.execute(kind, request.SerializeToString(), deadline)
            if not (self._upstream.plain and result.code == errors.UNIMPLEMENTED):
                if error := error_of_result(result):
                    raise self._explained(error)
                reply.ParseFromString(result.body)
                return reply
        return await self._plain_call(request, reply, deadline, is_read=False)

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
            if not (self._upstream.plain and result.code == errors.UNIMPLEMENTED):
                if error := error_of_read(result):
                    raise self._explained(error)
                reply.ParseFromString(result.body)
                return reply
        return await self._plain_call(request, reply, deadline, is_read=True)

    async def _plain_call(
        self, request: _Request, reply: _Reply, deadline: float, *, is_read: bool
    ) -> _Reply:
        """One unary call; again on the next endpoint if it changed nothing and the server was not there."""
        pause_s = self._limits.redial_pause_min_s
        while True:
            link = None
            with trio.CancelScope(deadline=deadline):
                link = await self._upstream.plain_link()
            remaining_s = deadline - trio.current_time()
            if link is None or remaining_s <= 0:
                raise self._explained(not_done(*errors.TIMEOUT))
            try:
                answer = await link.unary(_METHODS[type(request)], request, timeout=remaining_s)
            except Status as status:
                if status.code == errors.UNAVAILABLE:
                    self._upstream.plain_failed(link, status)
                    if is_read or never_sent(status):
                        await trio.sleep(min(pause_s, max(0.0, deadline - trio.current_time())))
                        pause_s = min(pause_s * 2, self._limits.redial_pause_max_s)
                        continue
                else:
                    self._upstream.plain_served()
                if is_read:
                    raise not_done(status.code, status.text) from None
                raise error_of_unary_write(status) from None
            self._upstream.plain_served()
            assert isinstance(answer, type(reply))
            return answer

    async def _ask(self, endpoint: str, method: MethodDescriptor, request: Any, timeout: float | None) -> Any:
        """One unary call to one server that changes nothing there."""
        timeout_s = self._timeout if timeout is None else timeout
        try:
            async with self._dial(parse_endpoint(endpoint)) as link:
                return await link.unary(method, request, timeout=timeout_s)
        except Status as status:
            raise not_done(status.code, status.text) from None

    def _explained(self, error: KeyValueError) -> KeyValueError:
        """A timeout of our own, with why there was no answer."""
        ours = (error.code, error.text) == errors.TIMEOUT
        if ours and self._upstream.last_error and not self._pipeline.connected:
            kind = OutcomeUnknown if isinstance(error, OutcomeUnknown) else type(error)
            return kind(error.code, f"{error.text}: {self._upstream.last_error}")
        return error
