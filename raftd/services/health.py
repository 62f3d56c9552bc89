"""grpc.health.v1 on a node: SERVING while it knows a leader and is not about to stop."""

import trio
from grpc_health.v1 import health_pb2

from proto.call import Call
from proto.errors import NOT_FOUND, Status
from proto.service import Service
from raftd.node import Node

Serving = health_pb2.HealthCheckResponse


class Health:
    """`names` are the services that can be asked for; the empty name stands for the whole node."""

    def __init__(self, node: Node, names: frozenset[str]) -> None:
        self._node = node
        self._names = names | {""}

    def service(self) -> Service:
        return Service(
            health_pb2.DESCRIPTOR.services_by_name["Health"],
            {"Check": self.check, "Watch": self.watch},
        )

    async def check(
        self, request: health_pb2.HealthCheckRequest, call: Call
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in self._names:
            raise Status(NOT_FOUND, f"unknown service {request.service!r}")
        return Serving(status=self._status())

    async def watch(self, request: health_pb2.HealthCheckRequest, call: Call) -> None:
        if request.service not in self._names:
            await call.send(Serving(status=Serving.SERVICE_UNKNOWN))
            await trio.sleep_forever()
        said = None
        while True:
            changed = self._node.soft_state_changed
            status = self._status()
            if status != said:
                said = status
                await call.send(Serving(status=status))
            await changed.wait()

    def _status(self) -> int:
        serving = self._node.soft_state.leader is not None and not self._node.leaving
        return int(Serving.SERVING if serving else Serving.NOT_SERVING)
