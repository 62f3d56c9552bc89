"""What a handler sees of an HTTP request: the same as of a call by gRPC."""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import structlog
import trio
from google.protobuf.message import Message

from proto import errors
from proto.errors import Status
from proto.service import Handler
from proto.stream import InMemoryStream, StreamEnded, in_memory_pair
from proxyd import config
from proxyd.gateway.routes import Route


class HttpCall:
    """A call with one request and no deadline. `metadata` are the headers Grpc-Metadata-…, without that."""

    def __init__(self, peer: str, metadata: Mapping[str, str], deadline: float = math.inf) -> None:
        self.peer = peer
        self.metadata = metadata
        self.deadline = deadline
        self.identity: Mapping[str, Sequence[bytes]] = {}

    def set_trailing_metadata(self, metadata: Mapping[str, str]) -> None:
        """JSON has no place for them."""


class HttpStreamCall(HttpCall):
    """A call whose messages pass through memory to the task that writes the response."""

    def __init__(self, peer: str, metadata: Mapping[str, str], stream: InMemoryStream) -> None:
        super().__init__(peer, metadata)
        self.receive_all = stream.receive_all
        self.send = stream.send
        self.offer = stream.offer


async def call_unary(route: Route, request: Message, call: HttpCall) -> Message:
    """Raises Status."""
    if route.handler is None:
        raise Status(errors.UNIMPLEMENTED, f"{route.method.path} is not implemented")
    decoded = route.method.decode_request(request.SerializeToString())
    return route.reply.FromString(route.method.encode_reply(await route.handler(decoded, call)))


async def call_stream(
    route: Route,
    requests: Sequence[Message],
    peer: str,
    metadata: Mapping[str, str],
    reply: Callable[[Sequence[Message]], Awaitable[None]],
) -> None:
    """Gives `reply` the replies as they come; a slow one holds the handler back. Raises Status."""
    if route.handler is None:
        raise Status(errors.UNIMPLEMENTED, f"{route.method.path} is not implemented")
    decoded = [route.method.decode_request(request.SerializeToString()) for request in requests]
    ours, theirs = in_memory_pair(message_limit=config.GATEWAY_STREAM_MESSAGES)
    arguments: list[Any] = [HttpStreamCall(peer, metadata, theirs)]
    if not route.method.client_streaming:
        arguments.insert(0, decoded.pop(0))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_answer, route.handler, arguments, theirs)
        nursery.start_soon(_ask, ours, decoded)
        with suppress(StreamEnded):
            while True:
                replies = await ours.receive_all()
                await reply([route.reply.FromString(route.method.encode_reply(it)) for it in replies])
        nursery.cancel_scope.cancel()


async def _answer(handler: Handler, arguments: Sequence[Any], stream: InMemoryStream) -> None:
    try:
        await handler(*arguments)
        stream.close()
    except Exception as error:
        stream.close(status_of(error))


async def _ask(stream: InMemoryStream, requests: Sequence[Any]) -> None:
    with suppress(StreamEnded, Status):  # then whoever receives meets the same end
        for request in requests:
            await stream.send(request)
        stream.close_sending()


def status_of(error: Exception) -> Status:
    """As the bridge has it: what is not a Status is our own mistake, and goes to the log."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, Status) and 0 < error.code <= 16:
        return error
    structlog.get_logger().error("unexpected error in a handler", exc_info=error)
    return Status(errors.UNKNOWN, f"unexpected {type(error).__name__} in the server, see its log")
