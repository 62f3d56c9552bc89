"""The header of every reply. A stored result carries only its revision; the answering node adds who it is.

Protobuf merges a message field that occurs twice, so the node's part is put in front of the serialized
reply as it is, without parsing it (protobuf encoding guide, "Last One Wins": embedded messages are merged).
"""

from proto import rpc_pb2
from raftd.kv.bodies import header_prefix
from raftd.node import Node


class Headers:
    """Completes serialized replies with cluster, member and term."""

    def __init__(self, node: Node, cluster_id: int, node_id: int) -> None:
        self._node = node
        self._cluster_id = cluster_id
        self._node_id = node_id
        self._term = -1
        self._prefix = b""

    def complete(self, body: bytes) -> bytes:
        """Any etcd response, serialized with at most the revision in its header."""
        if self._term != self._node.raft.term:
            self._term = self._node.raft.term
            self._prefix = header_prefix(self._cluster_id, self._node_id, self._term)
        return self._prefix + body

    def header(self, revision: int = 0) -> rpc_pb2.ResponseHeader:
        return rpc_pb2.ResponseHeader(
            cluster_id=self._cluster_id,
            member_id=self._node_id,
            revision=revision,
            raft_term=self._node.raft.term,
        )
