"""The paths of the gateway and the methods behind them, as in etcd's .proto files. All are POST."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from proto import election_pb2, lock_pb2, rpc_pb2
from proto.service import Handler, Method, Service

_Paths = Mapping[str, tuple[str, ...]]

_ETCD: Mapping[str, _Paths] = {
    "KV": {
        "Range": ("kv/range",),
        "Put": ("kv/put",),
        "DeleteRange": ("kv/deleterange",),
        "Txn": ("kv/txn",),
        "Compact": ("kv/compaction",),
    },
    "Watch": {"Watch": ("watch",)},
    "Lease": {
        "LeaseGrant": ("lease/grant",),
        "LeaseRevoke": ("lease/revoke", "kv/lease/revoke"),
        "LeaseKeepAlive": ("lease/keepalive",),
        "LeaseTimeToLive": ("lease/timetolive", "kv/lease/timetolive"),
        "LeaseLeases": ("lease/leases", "kv/lease/leases"),
    },
    "Cluster": {
        "MemberAdd": ("cluster/member/add",),
        "MemberRemove": ("cluster/member/remove",),
        "MemberUpdate": ("cluster/member/update",),
        "MemberList": ("cluster/member/list",),
        "MemberPromote": ("cluster/member/promote",),
    },
    "Maintenance": {
        "Alarm": ("maintenance/alarm",),
        "Status": ("maintenance/status",),
        "Defragment": ("maintenance/defragment",),
        "Hash": ("maintenance/hash",),
        "HashKV": ("maintenance/hashkv",),
        "Snapshot": ("maintenance/snapshot",),
        "MoveLeader": ("maintenance/transfer-leadership",),
        "Downgrade": ("maintenance/downgrade",),
    },
}
_LOCK: _Paths = {"Lock": ("lock/lock",), "Unlock": ("lock/unlock",)}
_ELECTION: _Paths = {
    "Campaign": ("election/campaign",),
    "Proclaim": ("election/proclaim",),
    "Leader": ("election/leader",),
    "Observe": ("election/observe",),
    "Resign": ("election/resign",),
}


@dataclass(frozen=True, slots=True)
class Route:
    """A method, how its messages become bytes, and who answers; `handler` None: it is not implemented."""

    method: Method
    request: type[Message]
    reply: type[Message]
    handler: Handler | None


def routes(services: Iterable[Service]) -> Mapping[str, Route]:
    """By path; what `services` lack answers that it is not implemented."""
    served = {service.name: service for service in services}
    found: dict[str, Route] = {}
    for descriptor, methods in (
        *((rpc_pb2.DESCRIPTOR.services_by_name[name], methods) for name, methods in _ETCD.items()),
        (lock_pb2.DESCRIPTOR.services_by_name["Lock"], _LOCK),
        (election_pb2.DESCRIPTOR.services_by_name["Election"], _ELECTION),
    ):
        service = served.get(descriptor.full_name) or Service(descriptor, {})
        for name, paths in methods.items():
            route = _route(descriptor.methods_by_name[name], service)
            found.update((f"/v3/{path}", route) for path in paths)
    return found


def _route(descriptor: MethodDescriptor, service: Service) -> Route:
    method, handler = service.methods[descriptor.name]
    return Route(
        method, GetMessageClass(descriptor.input_type), GetMessageClass(descriptor.output_type), handler
    )
