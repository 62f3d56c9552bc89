"""etcd's Lock service: a mutex is a line of keys, and who stands first holds it."""

from proto import errors, lock_pb2, rpc_pb2, session_pb2
from proto.call import Call
from proto.errors import Status
from proto.service import Service
from raftd.services.line import Lines

Kind = session_pb2.Command.Kind

EXPIRED_TEXT = "mutex: session is expired"


class Lock:
    """Handlers of v3lockpb.Lock."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines

    def service(self) -> Service:
        return Service(
            lock_pb2.DESCRIPTOR.services_by_name["Lock"], {"Lock": self.lock, "Unlock": self.unlock}
        )

    async def lock(self, request: lock_pb2.LockRequest, call: Call) -> lock_pb2.LockResponse:
        lease = await self._lines.lease(request.lease, call)
        place = await self._lines.enter(request.name, lease, b"", call)
        await self._lines.wait_for_turn(request.name, place, call)
        # The lease may have ended while it waited, and the place with it.
        mine = await self._lines.range(rpc_pb2.RangeRequest(key=place.key), call.deadline)
        if not mine.kvs or mine.kvs[0].create_revision != place.revision:
            raise Status(errors.UNKNOWN, EXPIRED_TEXT)
        return lock_pb2.LockResponse(header=mine.header, key=place.key)

    async def unlock(self, request: lock_pb2.UnlockRequest, call: Call) -> lock_pb2.UnlockResponse:
        delete = rpc_pb2.DeleteRangeRequest(key=request.key).SerializeToString()
        reply = await self._lines.unary.write(Kind.DELETE_RANGE, delete, call.deadline)
        return lock_pb2.UnlockResponse(header=rpc_pb2.DeleteRangeResponse.FromString(reply).header)
