"""Response bytes composed by hand where a message object would cost more than the command itself.

A response's first field is its header, and protobuf merges two occurrences of one message field: so the
replicated body carries `header.revision` alone, and each answering node puts the rest in front of it,
unparsed.
"""

from proto import rpc_pb2

_HEADER_TAG = b"\x0a"  # field 1, length-delimited: `header` of every etcd response
_REVISION_TAG = b"\x18"  # field 3, varint: `ResponseHeader.revision`


def _varint(value: int) -> bytes:
    assert value >= 0, value
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def header_only(revision: int) -> bytes:
    """A serialized response (PutResponse, ...) that has nothing but `header.revision`."""
    field = _REVISION_TAG + _varint(revision)
    return _HEADER_TAG + bytes((len(field),)) + field


def header_prefix(cluster_id: int, member_id: int, raft_term: int) -> bytes:
    """What the answering node puts in front of a body: the header fields that differ from node to node."""
    header = rpc_pb2.ResponseHeader(cluster_id=cluster_id, member_id=member_id, raft_term=raft_term)
    field = header.SerializeToString()
    return _HEADER_TAG + _varint(len(field)) + field
