"""Every bound of the bridge and every option it gives to grpc, each with its reason. Nothing else lives here.

Read by `proto.bridge` and `proto.stream`; programs pass `CLIENT_OPTIONS` or `LINK_OPTIONS` to `connect`.
"""

from typing import Final

Options = tuple[tuple[str, int | str], ...]

STREAM_MESSAGES: Final = 256
"""How many messages wait in each direction of a stream before its sender has to wait."""

STREAM_BYTES: Final = 1024 * 1024
"""How many bytes wait in each direction; a single message may exceed it, or it could never be sent."""

RECEIVE_BYTES: Final = 4 * 1024 * 1024
"""The largest message a server takes. Above etcd's 1.5 MiB request limit, so that our own check answers
`request is too large`, and above a peer's largest append (hazard 90)."""

CLIENT_RECEIVE_BYTES: Final = 2**31 - 1
"""The largest reply a client takes, as in etcd's own client: a range may return the whole store."""

PENDING_CALLS: Final = 100_000
"""Left alone, grpc refuses calls at random, as CANCELLED, once 1,000 wait. Admission is for the services."""

_BOTH: Final[Options] = (
    # With bandwidth probing grpc takes 5 MB per stream whose reader sleeps; without, back-pressure arrives.
    ("grpc.http2.bdp_probe", 0),
    # An idle connection is kept as long as both sides are alive, and pings without calls are not an offence.
    ("grpc.http2.max_pings_without_data", 0),
)

SERVER_OPTIONS: Final[Options] = (
    *_BOTH,
    # A second daemon on the same port must fail, not share it in silence.
    ("grpc.so_reuseport", 0),
    ("grpc.server.max_pending_requests", PENDING_CALLS),
    ("grpc.server.max_pending_requests_hard_limit", PENDING_CALLS),
    ("grpc.max_receive_message_length", RECEIVE_BYTES),
    ("grpc.max_send_message_length", -1),
    # Clients may ping as often as LINK_OPTIONS and etcd's clients do (hazard 91: too_many_pings).
    # The spelling `min_recv_...` has no effect.
    ("grpc.http2.min_ping_interval_without_data_ms", 200),
    ("grpc.keepalive_permit_without_calls", 1),
    # Find clients whose machine vanished: streams to them hold memory (hazard 93).
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.ping_timeout_ms", 10_000),
    # A connection that never speaks HTTP/2 is dropped after this and not after two minutes (hazard 93).
    ("grpc.server_handshake_timeout_ms", 10_000),
)

CLIENT_OPTIONS: Final[Options] = (
    *_BOTH,
    # 100 ms is the floor of reconnecting; `min` is the connect timeout; the defaults wait for minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1000),
    ("grpc.max_reconnect_backoff_ms", 100),
    # A name that did not resolve is asked again after a second, not after thirty.
    ("grpc.dns_min_time_between_resolutions_ms", 1000),
    ("grpc.service_config_disable_resolution", 1),
    # Whether to send again is for those to decide who know what was sent; and it costs a tenth of a unary
    # call.
    ("grpc.enable_retries", 0),
    # Links of one cluster never go through the proxy that an environment variable happens to name.
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", CLIENT_RECEIVE_BYTES),
    ("grpc.max_send_message_length", -1),
    # etcd's servers end connections that ping more often than every 5 s, or without calls.
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 0),
)

_LINK: Final[dict[str, int | str]] = {
    # Notice a stopped peer in about two seconds: keepalive alone does not, the ping timeout is 60 s.
    "grpc.keepalive_time_ms": 1000,
    "grpc.keepalive_timeout_ms": 1000,
    "grpc.http2.ping_timeout_ms": 1000,
    "grpc.keepalive_permit_without_calls": 1,
}

LINK_OPTIONS: Final[Options] = tuple({**dict(CLIENT_OPTIONS), **_LINK}.items())
"""For the long-lived links between our own daemons (peers, proxyd to raftd)."""

ISOLATED: Final[Options] = (("grpc.use_local_subchannel_pool", 1),)
"""A connection of its own: otherwise channels to one address share one, and bulk delays heartbeats."""
