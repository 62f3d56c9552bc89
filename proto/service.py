"""Services and methods, read from protobuf descriptors: paths, stream kinds, how messages become bytes.

Knows nothing of grpc or of threads. Programs build a `Service` per descriptor; `proto.bridge` serves it.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

Handler = Callable[..., Awaitable[Any]]
"""`async (request, call) -> response` for unary methods, `async (request, call) -> None` for server streams,
`async (call) -> response` for client streams and `async (call) -> None` for bidirectional ones."""


@dataclass(frozen=True, slots=True)
class Method:
    """What the bridge must know of a method. The codecs raise TypeError for a message of another type."""

    path: str
    client_streaming: bool
    server_streaming: bool
    encode_request: Callable[[Any], bytes]
    decode_request: Callable[[bytes], Any]
    encode_reply: Callable[[Any], bytes]
    decode_reply: Callable[[bytes], Any]

    @classmethod
    def of(cls, descriptor: MethodDescriptor, *, raw: bool) -> "Method":
        """`raw`: requests and replies are serialized bytes on our side instead of message objects."""
        request, reply = GetMessageClass(descriptor.input_type), GetMessageClass(descriptor.output_type)
        return cls(
            path_of(descriptor),
            descriptor.client_streaming,
            descriptor.server_streaming,
            _as_is if raw else _encoder(request),
            _as_is if raw else request.FromString,
            _as_is if raw else _encoder(reply),
            _as_is if raw else reply.FromString,
        )

    @classmethod
    def unknown(cls, path: str) -> "Method":
        """A method known by its path alone, called with serialized bytes."""
        return cls(path, True, True, _as_is, _as_is, _as_is, _as_is)


class Service:
    """A service's descriptor and the handlers of its methods, by name.

    Methods without a handler answer UNIMPLEMENTED. Methods named in `raw` take and return serialized bytes.
    """

    def __init__(
        self, descriptor: ServiceDescriptor, handlers: Mapping[str, Handler], raw: Collection[str] = ()
    ) -> None:
        names = {method.name for method in descriptor.methods}
        assert names.issuperset(handlers), f"{descriptor.full_name} has no {set(handlers) - names}"
        assert names.issuperset(raw), f"{descriptor.full_name} has no {set(raw) - names}"
        self.name = descriptor.full_name
        self.methods = {
            method.name: (Method.of(method, raw=method.name in raw), handlers.get(method.name))
            for method in descriptor.methods
        }


def path_of(descriptor: MethodDescriptor) -> str:
    """The method's HTTP/2 path, such as /etcdserverpb.KV/Put."""
    return f"/{descriptor.containing_service.full_name}/{descriptor.name}"


def _encoder(kind: type[Message]) -> Callable[[Any], bytes]:
    def encode(message: Any) -> bytes:
        if type(message) is not kind:
            raise TypeError(f"{kind.__name__} expected, not {type(message).__name__}")
        encoded: bytes = message.SerializeToString()
        return encoded

    return encode


def _as_is(message: bytes) -> bytes:
    if not isinstance(message, bytes):
        raise TypeError(f"a raw method takes serialized bytes, not {type(message).__name__}")
    return message
