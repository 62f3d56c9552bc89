"""One write or one read on behalf of a unary call, of whatever service: checked, executed, its reply
completed with this node's header.
"""

import math

from proto import errors, session_pb2
from proto.call import Call
from proto.errors import Status
from raftd.kv.command import encode_command
from raftd.node import Node
from raftd.reads import Read, answered
from raftd.services.header import Headers
from raftd.services.requests import check_command, completed
from raftd.services.writes import Writes

Kind = session_pb2.Command.Kind


class Unary:
    """Requests and replies are serialized messages. Each call raises Status, for a write with an outcome."""

    def __init__(self, node: Node, writes: Writes, headers: Headers) -> None:
        self._node = node
        self._writes = writes
        self._headers = headers

    async def write(self, kind: "Kind.ValueType", request: bytes, deadline: float = math.inf) -> bytes:
        """A command of no session. `deadline` is the caller's, on Trio's clock."""
        try:
            check_command(kind, request)
        except Status as refused:
            raise Status(refused.code, refused.text, errors.NOT_DONE_OUTCOME) from None
        command = encode_command(kind, 0, 0, completed(kind, request))
        result = await self._writes.execute(command, self._writes.deadline(deadline))
        if result.code != errors.OK:
            raise Status(result.code, result.text, errors.NOT_DONE_OUTCOME)
        return self._headers.complete(result.body)

    async def read(self, read: Read, deadline: float = math.inf) -> bytes:
        read.deadline = self._writes.deadline(deadline)
        return self._headers.complete(await answered(self._node.read, read))

    def check_leader_wanted(self, call: Call) -> None:
        """With metadata `hasleader: true` a client wants an error instead of waiting for a leader."""
        if call.metadata.get("hasleader") == "true" and self._node.soft_state.leader is None:
            raise Status(*errors.NO_LEADER, outcome=errors.NOT_DONE_OUTCOME)
