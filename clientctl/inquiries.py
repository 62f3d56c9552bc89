"""What a client asks of one server by name: how it is, what it has counted, who the members are."""

from collections.abc import Sequence
from typing import Any

import trio
from google.protobuf.descriptor import MethodDescriptor

from clientctl import link as links
from clientctl.config import TIMEOUT_S
from clientctl.endpoints import parse_endpoint
from clientctl.errors import KeyValueError, not_done
from proto import errors
from proto.errors import Status
from proto.rpc_pb2 import (
    HashKVRequest,
    HashKVResponse,
    MemberListRequest,
    MemberListResponse,
    RangeRequest,
    StatusRequest,
    StatusResponse,
)
from proto.table_pb2 import CountersReply, CountersRequest


class Inquiries:
    """The part of `clientctl.client.Client` that needs neither its session nor its connections."""

    def __init__(
        self, endpoints: Sequence[str], timeout: float = TIMEOUT_S, dial: links.Dial | None = None
    ) -> None:
        self.endpoints = tuple(endpoints)
        self._timeout = timeout
        self._dial = dial or links.dial

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

    async def hash_kv(
        self, endpoint: str, *, revision: int = 0, timeout: float | None = None
    ) -> HashKVResponse:
        """A checksum over the history up to `revision` (0: the present) as the server at `endpoint` has it.

        Equal histories have equal ones, here and in etcd."""
        reply = await self._ask(
            endpoint, links.MAINTENANCE["HashKV"], HashKVRequest(revision=revision), timeout
        )
        assert isinstance(reply, HashKVResponse)
        return reply

    async def member_list(
        self, *, endpoint: str | None = None, timeout: float | None = None
    ) -> MemberListResponse:
        """The cluster's members, asked of `endpoint`, or of the endpoints one after the other."""
        deadline = trio.current_time() + (self._timeout if timeout is None else timeout)
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

    async def _ask(self, endpoint: str, method: MethodDescriptor, request: Any, timeout: float | None) -> Any:
        """One unary call to one server that changes nothing there."""
        timeout_s = self._timeout if timeout is None else timeout
        try:
            async with self._dial(parse_endpoint(endpoint)) as link:
                return await link.unary(method, request, timeout=timeout_s)
        except Status as status:
            raise not_done(status.code, status.text) from None
