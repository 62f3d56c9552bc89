"""The links between nodes: how Raft's messages travel, and how nodes of a new cluster find each other.

`codec` turns messages into protobuf and back, `links` keeps the streams, `service` answers other nodes on
the peer port, `bootstrap` exchanges identities at the first start. Raft itself (`raftd.core`) knows none of
this.
"""
