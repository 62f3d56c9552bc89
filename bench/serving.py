"""Whether a process of a local cluster serves. The launcher, the demonstration and the tests call it.

The waits have no bound of their own: the caller sets one.
"""

from collections.abc import Callable
from typing import Any

import trio
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2

from proto import rpc_pb2
from proto.bridge import connect
from proto.errors import Status

CALL_TIMEOUT_S = 1.0
RETRY_DELAY_S = 0.05

_CHECK = health_pb2.DESCRIPTOR.services_by_name["Health"].methods_by_name["Check"]
_STATUS = rpc_pb2.DESCRIPTOR.services_by_name["Maintenance"].methods_by_name["Status"]


async def until_leader_known(url: str) -> None:
    """Wait until the node at `url` answers and knows a leader."""
    await _until(url, _STATUS, rpc_pb2.StatusRequest(), lambda reply: bool(reply.leader))


async def until_healthy(url: str) -> None:
    """Wait until the proxy at `url` reports SERVING."""
    serving = health_pb2.HealthCheckResponse.SERVING
    await _until(url, _CHECK, health_pb2.HealthCheckRequest(), lambda reply: bool(reply.status == serving))


async def _until(url: str, method: MethodDescriptor, request: Message, good: Callable[[Any], bool]) -> None:
    async with connect(url.removeprefix("http://")) as channel:
        while True:
            try:
                if good(await channel.unary(method, request, timeout=CALL_TIMEOUT_S)):
                    return
            except Status:
                pass  # Not up yet, or restarting: asked again below.
            await trio.sleep(RETRY_DELAY_S)
