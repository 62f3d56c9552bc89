"""etcd's KV service: unary calls of any etcd client. Requests and replies pass through as the bytes they are.

Each handler decides read or write, bounds the wait, and hands on; raftd checks the requests and words the
errors.
"""

from google.protobuf.message import DecodeError

from proto import errors, rpc_pb2
from proto.bridge import Call, Service
from proto.errors import Status
from proto.session_pb2 import Command
from proxyd.patience import check_leader_wanted, waiting_deadline
from proxyd.reads import Connections, Read, Reads, is_read_only, is_serializable
from proxyd.table import LeaderTable
from proxyd.writes import Writes

_METHODS = ("Range", "Put", "DeleteRange", "Txn", "Compact")


class KV:
    """Handlers of etcdserverpb.KV. RangeStream is not implemented, as on etcd's own proxy."""

    def __init__(self, table: LeaderTable, reads: Reads, writes: Writes) -> None:
        self._table = table
        self._reads = reads
        self._writes = writes
        self._connections = Connections()

    def service(self) -> Service:
        handlers = (self.range, self.put, self.delete_range, self.txn, self.compact)
        return Service(
            rpc_pb2.DESCRIPTOR.services_by_name["KV"],
            dict(zip(_METHODS, handlers, strict=True)),
            raw=_METHODS,
        )

    async def range(self, request: bytes, call: Call) -> bytes:
        try:
            serializable = rpc_pb2.RangeRequest.FromString(request).serializable
        except DecodeError as error:
            raise _malformed("RangeRequest", error) from error
        return await self._read(request, call, txn=False, serializable=serializable)

    async def put(self, request: bytes, call: Call) -> bytes:
        return await self._write(Command.PUT, request, call)

    async def delete_range(self, request: bytes, call: Call) -> bytes:
        return await self._write(Command.DELETE_RANGE, request, call)

    async def txn(self, request: bytes, call: Call) -> bytes:
        try:
            parsed = rpc_pb2.TxnRequest.FromString(request)
        except DecodeError as error:
            raise _malformed("TxnRequest", error) from error
        if is_read_only(parsed):
            return await self._read(request, call, txn=True, serializable=is_serializable(parsed))
        return await self._write(Command.TXN, request, call)

    async def compact(self, request: bytes, call: Call) -> bytes:
        return await self._write(Command.COMPACT, request, call)

    async def _write(self, kind: Command.Kind.ValueType, request: bytes, call: Call) -> bytes:
        check_leader_wanted(self._table, call.metadata)
        return await self._writes.execute(kind, request, waiting_deadline(self._table, call.deadline))

    async def _read(self, request: bytes, call: Call, *, txn: bool, serializable: bool) -> bytes:
        check_leader_wanted(self._table, call.metadata)
        read = Read(
            request=request,
            txn=txn,
            serializable=serializable,
            min_revision=0,
            deadline=waiting_deadline(self._table, call.deadline),
            connection=self._connections.of(call.peer),
        )
        result = await self._reads.execute(read)
        if result.code != errors.OK:
            raise Status(result.code, result.text)
        return result.body


def _malformed(name: str, error: DecodeError) -> Status:
    return Status(errors.INTERNAL, f"malformed {name}: {error}", errors.NOT_DONE_OUTCOME)
