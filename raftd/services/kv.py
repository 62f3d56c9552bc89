"""etcd's KV service on a node: unary calls, one by one.

Requests are checked before they cost anything. A write becomes one command of no session (a stock client
straight at a node has at-least-once by its own retries, as with etcd); reads take the same path as the
session stream's.
"""

from proto import rpc_pb2, session_pb2
from proto.call import Call
from proto.service import Service
from raftd.kv import StateMachine
from raftd.kv.check import is_read_only
from raftd.services.requests import parse, range_read, txn_read
from raftd.services.unary import Unary

Kind = session_pb2.Command.Kind


class KV:
    """Handlers of etcdserverpb.KV. Replies are serialized already: the service is served raw."""

    def __init__(self, unary: Unary, state_machine: StateMachine) -> None:
        self._unary = unary
        self._state_machine = state_machine

    def service(self) -> Service:
        return Service(
            rpc_pb2.DESCRIPTOR.services_by_name["KV"],
            {
                "Range": self.range,
                "Put": self.put,
                "DeleteRange": self.delete_range,
                "Txn": self.txn,
                "Compact": self.compact,
            },
            raw={"Range", "Put", "DeleteRange", "Txn", "Compact"},
        )

    async def range(self, request: bytes, call: Call) -> bytes:
        self._unary.check_leader_wanted(call)
        read = range_read(self._state_machine, parse(rpc_pb2.RangeRequest, request))
        return await self._unary.read(read, call.deadline)

    async def put(self, request: bytes, call: Call) -> bytes:
        return await self._write(Kind.PUT, request, call)

    async def delete_range(self, request: bytes, call: Call) -> bytes:
        return await self._write(Kind.DELETE_RANGE, request, call)

    async def txn(self, request: bytes, call: Call) -> bytes:
        self._unary.check_leader_wanted(call)
        parsed = parse(rpc_pb2.TxnRequest, request)
        if is_read_only(parsed):
            return await self._unary.read(txn_read(self._state_machine, parsed), call.deadline)
        return await self._write(Kind.TXN, request, call)

    async def compact(self, request: bytes, call: Call) -> bytes:
        """`physical` asks to wait for the removal of old versions, which no reader can notice."""
        return await self._write(Kind.COMPACT, request, call)

    async def _write(self, kind: "Kind.ValueType", request: bytes, call: Call) -> bytes:
        self._unary.check_leader_wanted(call)
        return await self._unary.write(kind, request, call.deadline)
