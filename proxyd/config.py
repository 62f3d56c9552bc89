"""Every bound of proxyd, in one place. Sizes in bytes, times in seconds unless the name says otherwise.

The flags stand in `proxyd.options`.
"""

from typing import Final

from clientctl.config import PipelineLimits, SessionLimits

KIB: Final = 1024
MIB: Final = 1024 * KIB

# Nodes (proxyd.endpoints, proxyd.table).
MAX_ENDPOINTS: Final = 64
"""Watched addresses, those learned from the table included."""
REDIAL_S: Final = 0.1
"""Pause between attempts on a lost node, times a factor in REDIAL_JITTER (hazard 95)."""
REDIAL_JITTER: Final = (0.8, 1.2)
REFUSED_REDIAL_S: Final = 5.0
"""Pause after an endpoint that answered but cannot be one: a proxyd, another cluster's node, some other
server."""
FIRST_UPDATE_TIMEOUT_S: Final = 1.0
SILENCE_ELECTION_TIMEOUTS: Final = 3
SILENCE_MIN_S: Final = 1.0
"""A stream on which nothing came for so many election timeouts, and at least so long, is dialled anew."""
DEFAULT_ELECTION_TIMEOUT_MS: Final = 300
"""Until a node has said its own."""
MAX_ENTRIES_BEHIND: Final = 1_000
"""A node further behind the highest known commit index serves no reads that another can serve."""

# Waiting (proxyd.patience).
REQUEST_TIMEOUT_S: Final = 5.0
"""Without a deadline of its own a request is held this long plus two election timeouts, as in etcd."""
DEADLINE_MARGIN_S: Final = 0.02
"""Waiting ends this much before the caller's deadline, so that the answer still reaches it (hazard 92)."""

# Writes (proxyd.leader_link, proxyd.writes).
WRITE_LIMITS: Final = PipelineLimits(operations_max=32_768, bytes_max=64 * MIB)
SESSION_LIMITS: Final = SessionLimits(window_operations_max=1_024, window_bytes_max=8 * MIB)
MAX_OWN_SESSIONS: Final = 16
SESSION_OPERATIONS: Final = 512
"""Unary writes under way in one of proxyd's own sessions before the next session is used; half a window."""
SESSION_CLOSE_S: Final = 0.2

# Reads (proxyd.node_link, proxyd.reads).
READ_LIMITS: Final = PipelineLimits(operations_max=16_384, bytes_max=32 * MIB)
MAX_WAITING_READS: Final = 16_384
"""Reads that no node can serve now."""
READ_RETRY_S: Final = 0.05
"""How long a read that every node refused waits before it asks them again, unless the table changes first."""
MAX_CONNECTIONS_REMEMBERED: Final = 10_000
"""Client connections whose node and revision are remembered, least recently used forgotten first."""

# Relayed session streams (proxyd.relay).
MAX_STREAM_PENDING: Final = 8_192
"""Operations of one client's stream under way; above it the stream is not read (flow control pushes back)."""
MAX_REPLY_BYTES: Final = 256 * KIB
MAX_GATHERED_BYTES: Final = 16 * MIB
"""Results waiting on one stream for a client that reads slowly; above it the stream is not read."""

# Watches (proxyd.watch).
MAX_FEEDS: Final = 8_192
"""Distinct ranges watched at once; below the number of watches that a node allows on one stream."""
MAX_WATCHES: Final = 100_000
"""Of all clients together."""
WATCH_OUTBOX_BYTES: Final = 4 * MIB
"""Waiting for one stream's client; above it the stream's watches are paused, and later caught up."""
WATCH_ALL_OUTBOXES_BYTES: Final = 256 * MIB
WATCH_SENDS_PER_TURN: Final = 20
"""Messages to all watching clients together, then the gRPC thread gets time for everything else."""
WATCH_STALLED_S: Final = 30.0
"""A client that takes nothing for so long loses its paused watches, then its stream (hazard 93)."""
WATCH_FRAGMENT_BYTES: Final = 1536 * KIB
"""Events in one message, where a client asked for fragments: etcd's limit of a request."""
WATCH_KEPT_BYTES: Final = 256 * KIB
WATCH_KEPT_BATCHES: Final = 256
"""Recent events of one range, for watches that begin a little in the past."""
WATCH_ALL_KEPT_BYTES: Final = 64 * MIB
WATCH_RECENT_REVISIONS: Final = 10_000
"""So far back the first watch of a range may begin without a catch-up of its own."""
MAX_CATCH_UPS: Final = 64
"""Watches that fetch the past at once; the next ones wait their turn."""
WATCH_NOW_TIMEOUT_S: Final = 1.0
"""How long a watch from now on asks for the present revision before it takes the highest known one."""
WATCH_PROGRESS_S: Final = 1.0
"""So often idle feeds learn how far the store is, if it moved, so that a compaction never overtakes them."""
WATCH_PROGRESS_TIMEOUT_S: Final = 1.0
WATCH_PROGRESS_RETRY_S: Final = 0.02
WATCH_NOTIFY_S: Final = 600.0
WATCH_NOTIFY_JITTER: Final = (1.0, 1.1)
"""Between notifications of progress to watches that asked for them; as in etcd."""

# Leases (proxyd.keep_alives).
MAX_KEEP_ALIVES: Final = 100_000
"""Leases about which the leader is being asked; more are refused."""

# The JSON gateway (proxyd.gateway).
GATEWAY_BODY_BYTES: Final = 3 * MIB
"""The largest request, above etcd's 1.5 MiB in base64, so that the usual check words the error."""
GATEWAY_STREAM_MESSAGES: Final = 16
"""Replies of a stream that wait for the socket."""
MAX_GATEWAY_REQUESTS: Final = 1_024
"""Requests under way, open streams among them; more are refused."""
GATEWAY_BACKLOG: Final = 128
GATEWAY_HEADERS_BYTES: Final = 16 * KIB
GATEWAY_IDLE_S: Final = 60.0
"""A connection without a request is closed after so long; one that sends a request in parts as well."""
GATEWAY_HEALTH_TIMEOUT_S: Final = 2.0
ETCD_VERSION: Final = "3.5.0"
"""What the gateway says it is; the same as Maintenance.Status of a node. Clients take it apart: no suffix."""

# Services (proxyd.table_service).
TABLE_HEARTBEAT_S: Final = 0.1
MAX_TABLE_WATCHERS: Final = 1_024
MAX_HEALTH_WATCHERS: Final = 1_024

# Stopping (proxyd.main); together below the 5 s that the process shell allows.
SHUTDOWN_STREAMS_S: Final = 1.5
"""What relayed streams have under way may take this long."""
SHUTDOWN_DRAIN_S: Final = 2.5
"""Then unary calls may take this long."""
