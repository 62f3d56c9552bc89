"""gRPC for Trio programs: serve services, call methods. The only place that knows asyncio and grpc.

grpcio has no Trio transport, so one asyncio loop in one daemon thread owns all of grpc; it starts on first
use and lives as long as the process. A call crosses between the threads twice: as a callback in the other
thread's `Inbox`, or as messages in `Lane`s. Handlers and callers are ordinary Trio tasks, and message objects
exist only on their side.

Used by raftd, proxyd and clientctl. Must not know what any service means.
"""

import proto.bridge.environment  # noqa: F401
from proto.bridge.channel import Channel, connect
from proto.bridge.server import AddressInUse, check_free, serve
from proto.bridge.threads import grpc_caught_up
from proto.call import Call, Stream
from proto.service import Service
from proto.stream import MessageStream, StreamEnded

__all__ = [
    "AddressInUse",
    "Call",
    "Channel",
    "MessageStream",
    "Service",
    "Stream",
    "StreamEnded",
    "check_free",
    "connect",
    "grpc_caught_up",
    "serve",
]
