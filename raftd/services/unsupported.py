"""etcd's services that this version does not have. Registered, so that the answer is UNIMPLEMENTED with the
service's name and not a broken connection."""

from proto import rpc_pb2
from proto.service import Service

_NAMES = ("Lease",)


def unsupported() -> list[Service]:
    return [Service(rpc_pb2.DESCRIPTOR.services_by_name[name], {}) for name in _NAMES]
