"""etcd's JSON gateway: HTTP with JSON in front of the same handlers that serve gRPC.

`server` listens (Hypercorn), `application` answers requests, `routes` names the methods, `calls` is what a
handler sees of an HTTP request, `encoding` is protobuf's JSON as etcd has it.
"""
