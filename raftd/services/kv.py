"""etcd's KV service on a node: unary calls, one by one.

Requests are checked before they cost anything. A write becomes one command of no session (a stock client
straight at a node has at-least-once by its own retries, as with etcd); reads take the same path as the
session stream's.
"""

import trio

from proto import errors, rpc_pb2, session_pb2
from proto.call import Call
from proto.errors import Status
from proto.service import Service
from raftd.kv import StateMachine
from raftd.kv.check import is_read_only
from raftd.kv.command import encode_command
from raftd.node import Node
from raftd.reads import Read
from raftd.services.header import Headers
from raftd.services.requests import check_command, parse, range_read, txn_read
from raftd.services.writes import Writes

Kind = session_pb2.Command.Kind


class KV:
    """Handlers of etcdserverpb.KV. Replies are serialized already: the service is served raw."""

    def __init__(self, node: Node, writes: Writes, state_machine: StateMachine, headers: Headers) -> None:
        self._node = node
        self._writes = writes
        self._state_machine = state_machine
        self._headers = headers

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
        self.check_leader_wanted(call)
        read = range_read(self._state_machine, parse(rpc_pb2.RangeRequest, request))
        return await self._read(read, call)

    async def put(self, request: bytes, call: Call) -> bytes:
        return await self._write(Kind.PUT, request, call)

    async def delete_range(self, request: bytes, call: Call) -> bytes:
        return await self._write(Kind.DELETE_RANGE, request, call)

    async def txn(self, request: bytes, call: Call) -> bytes:
        self.check_leader_wanted(call)
        parsed = parse(rpc_pb2.TxnRequest, request)
        if is_read_only(parsed):
            return await self._read(txn_read(self._state_machine, parsed), call)
        return await self._write(Kind.TXN, request, call)

    async def compact(self, request: bytes, call: Call) -> bytes:
        return await self._write(Kind.COMPACT, request, call)

    async def _write(self, kind: "Kind.ValueType", request: bytes, call: Call) -> bytes:
        self.check_leader_wanted(call)
        try:
            check_command(kind, request)
        except Status as refused:
            raise Status(refused.code, refused.text, errors.NOT_DONE_OUTCOME) from None
        command = encode_command(kind, 0, 0, request)
        result = await self._writes.execute(command, self._writes.deadline(call.deadline))
        if result.code != errors.OK:
            raise Status(result.code, result.text, errors.NOT_DONE_OUTCOME)
        return self._headers.complete(result.body)

    async def _read(self, read: Read, call: Call) -> bytes:
        answered = trio.Event()
        answers: list[bytes | Status] = []

        def done(answer: bytes | Status) -> None:
            answers.append(answer)
            answered.set()

        read.done = done
        read.deadline = self._writes.deadline(call.deadline)
        self._node.read(read)
        try:
            with trio.move_on_at(read.deadline):
                await answered.wait()
        finally:
            read.abandoned = not answers
        if not answers:
            raise Status(*errors.TIMEOUT)
        if isinstance(answers[0], Status):
            raise answers[0]
        return self._headers.complete(answers[0])

    def check_leader_wanted(self, call: Call) -> None:
        """With metadata `hasleader: true` a client wants an error instead of waiting for a leader."""
        if call.metadata.get("hasleader") == "true" and self._node.soft_state.leader is None:
            raise Status(*errors.NO_LEADER, outcome=errors.NOT_DONE_OUTCOME)
