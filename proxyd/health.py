"""grpc.health.v1: SERVING while a leader is known, so that a balancer in front takes a proxy that can
work."""

from grpc_health.v1 import health_pb2

from proto import errors
from proto.bridge import Call, Service
from proto.errors import Status
from proxyd import config
from proxyd.table import LeaderTable

SERVICES = frozenset(
    {
        "",
        "etcdserverpb.KV",
        "etcdserverpb.Cluster",
        "etcdserverpb.Maintenance",
        "etcdserverpb.Watch",
        "etcdserverpb.Lease",
        "v3lockpb.Lock",
        "v3electionpb.Election",
        "raftd.session.Session",
        "raftd.table.LeaderTable",
    }
)


class Health:
    """Handlers of grpc.health.v1.Health."""

    def __init__(self, table: LeaderTable) -> None:
        self._table = table
        self._watchers = 0

    def service(self) -> Service:
        return Service(
            health_pb2.DESCRIPTOR.services_by_name["Health"], {"Check": self.check, "Watch": self.watch}
        )

    async def check(
        self, request: health_pb2.HealthCheckRequest, call: Call
    ) -> health_pb2.HealthCheckResponse:
        if request.service not in SERVICES:
            raise Status(errors.NOT_FOUND, f"unknown service {request.service!r}")
        return self._response(request.service)

    async def watch(self, request: health_pb2.HealthCheckRequest, call: Call) -> None:
        """The status at once and whenever it changes; an unknown service stays SERVICE_UNKNOWN, as the
        protocol has it."""
        if self._watchers >= config.MAX_HEALTH_WATCHERS:
            raise Status(*errors.TOO_MANY_REQUESTS)
        self._watchers += 1
        try:
            response = self._response(request.service)
            while True:
                await call.send(response)
                last = response.status
                while response.status == last:
                    await self._table.wait_change()
                    response = self._response(request.service)
        finally:
            self._watchers -= 1

    def _response(self, service: str) -> health_pb2.HealthCheckResponse:
        status = health_pb2.HealthCheckResponse
        if service not in SERVICES:
            return status(status=status.SERVICE_UNKNOWN)
        return status(status=status.NOT_SERVING if self._table.leader is None else status.SERVING)
