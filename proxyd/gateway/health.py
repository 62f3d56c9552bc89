"""GET /health, as etcd answers it: for balancers and for `curl`."""

import json
from typing import Any
from urllib.parse import parse_qs

import trio
from google.protobuf.message import DecodeError

from proto import errors, rpc_pb2
from proto.errors import Status
from proxyd import config
from proxyd.cluster import ClusterServices
from proxyd.gateway.calls import HttpCall
from proxyd.kv import KV
from proxyd.table import LeaderTable


class HealthPage:
    """Healthy: a leader is known, no alarm is raised but those that `exclude` names, and a read succeeds."""

    def __init__(self, table: LeaderTable, kv: KV, cluster: ClusterServices) -> None:
        self._table = table
        self._kv = kv
        self._alarm = cluster.by_the_leader("Alarm")

    async def page(self, query: bytes) -> tuple[int, str]:
        """HTTP status and body."""
        asked = parse_qs(query.decode("latin-1"))
        serializable = asked.get("serializable", ["false"])[-1] == "true"
        reason = await self._why_not(serializable, set(asked.get("exclude", [])))
        healthy = "false" if reason else "true"
        return 503 if reason else 200, json.dumps({"health": healthy, "reason": reason})

    async def _why_not(self, serializable: bool, excluded: set[str]) -> str:
        if not serializable and self._table.leader is None:
            return "RAFT NO LEADER"
        call: Any = HttpCall("http:health", {}, trio.current_time() + config.GATEWAY_HEALTH_TIMEOUT_S)
        try:
            if not serializable:
                for name in await self._alarms(call):
                    if name not in excluded:
                        return f"ALARM {name}"
            request = rpc_pb2.RangeRequest(key=b"health", serializable=serializable, keys_only=True)
            await self._kv.range(request.SerializeToString(), call)
        except Status as status:
            return f"RANGE ERROR:{status.text}"
        return ""

    async def _alarms(self, call: Any) -> list[str]:
        try:
            reply = rpc_pb2.AlarmResponse.FromString(await self._alarm(b"", call))
        except DecodeError as error:
            raise Status(errors.INTERNAL, f"malformed AlarmResponse: {error}") from error
        except Status as status:
            if status.code != errors.UNIMPLEMENTED:
                raise
            return []
        return [rpc_pb2.AlarmType.Name(member.alarm) for member in reply.alarms]
