"""Every bound of raftd, in one place. Its flags are in `raftd.options`, the core's bounds in
`raftd.core.config`, the state machine's in `raftd.kv.limits`, the store's in `raftd.store.limits`."""

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

TICK_MS: Final = 5
"""The unit of Raft's clock."""
HEARTBEATS_PER_ELECTION_TIMEOUT: Final = 5
"""So many a follower may miss, at least, before it doubts its leader (etcd demands the same)."""

# Commands on their way (raftd.proposals). Above these a write is refused before the log.
MAX_PENDING_COMMANDS: Final = 32_768
MAX_PENDING_BYTES: Final = 64 * MIB
# One log entry. A single larger command travels alone.
MAX_ENTRY_BYTES: Final = 256 * KIB
MAX_ENTRY_COMMANDS: Final = 4_096

# Reads (raftd.reads).
MAX_PENDING_READS: Final = 65_536
MAX_READ_BATCH: Final = 512
MAX_READ_BATCH_BYTES: Final = 4 * MIB
"""Of replies; the read that reaches it is the batch's last."""
MAX_CONCURRENT_SCANS: Final = 4
READ_RETRY_S: Final = 0.01
READ_SWEEP_S: Final = 0.1

# Peers (raftd.peers).
PEER_FORMAT: Final = 1
REDIAL_MIN_S: Final = 0.02
REDIAL_MAX_S: Final = 0.5
IDENTIFY_TIMEOUT_S: Final = 1.0
IDENTIFY_RETRY_S: Final = 0.1

# Services (raftd.services).
REQUEST_TIMEOUT_S: Final = 5.0
"""Without a deadline of its own a request is held this long plus two election timeouts, as in etcd."""
DEADLINE_MARGIN_S: Final = 0.02
"""Waiting ends this much before the caller's deadline, so that the answer still reaches it."""
MAX_REPLY_BYTES: Final = 256 * KIB
MAX_GATHERED_BYTES: Final = 16 * MIB
"""Results waiting on one session stream; above it nothing more is taken from the stream."""
RESULT_OVERHEAD_BYTES: Final = 64
"""What a result costs beside its body and text."""
MAX_STREAM_READS: Final = 4_096
"""Reads of one session stream that are not answered yet; above it nothing more is taken from the stream."""
MAX_STREAM_SESSIONS: Final = 10_000
"""Sessions of one session stream whose acknowledgements are remembered."""

# Watches (raftd.watch).
WATCH_OUTBOX_BYTES: Final = 256 * KIB
"""Waiting for one stream's client; above it the stream's watchers lag."""
WATCH_FRAGMENT_BYTES: Final = 1536 * KIB
"""Events in one message, where a client asked for fragments: etcd's limit of a request."""
WATCH_SLICE_WATCHERS: Final = 200
"""Deliveries at a stretch: about a millisecond of the Trio thread."""
WATCH_CATCH_UP_WATCHERS: Final = 512
WATCH_READ_BYTES: Final = 1 * MIB
"""Of events at one reading of the history; it ends with the revision that reaches it."""
MAX_KEPT_BATCHES: Final = 4
"""So much is read ahead of a compaction for watchers that have not been shown it yet."""
WATCH_CHANGE_OVERHEAD_BYTES: Final = 200
WATCH_SENDS_PER_TURN: Final = 20
"""Messages of all watch streams together, then the gRPC thread gets time for heartbeats."""
WATCH_PROGRESS_S: Final = 600.0
"""Between periodic progress notifications, up to a tenth more; as in etcd."""
WATCH_STALLED_S: Final = 60.0
"""A stream whose client takes nothing for so long is ended (hazard 93)."""
MAX_STREAM_WATCHES: Final = 10_000
"""On one stream; etcd has no such bound."""

# Leases (raftd.leases, raftd.services.lease).
MAX_EXPIRED_LEASES: Final = 256
"""That one command revokes; and so many steps of the countdown at a stretch."""
EXPIRY_RETRY_S: Final = 0.1
MAX_LEASE_BATCH: Final = 4_096
"""Keepalives and questions that go to the leader together."""
MAX_PENDING_LEASE_CALLS: Final = 65_536
LEASE_EXCHANGE_S: Final = 1.0
"""One batch's time at the leader; then it is tried again, perhaps at another one."""
LEASE_RETRY_S: Final = 0.02

LEAVE_LINE_S: Final = 1.0
"""What a caller that left may still cost, to take its key out of the line (raftd.services.line)."""
COMPACTION_PAUSE_S: Final = 0.005
"""Between two steps of a compaction (raftd.compactor)."""

TABLE_HEARTBEAT_S: Final = 0.1
SHUTDOWN_TRANSFER_S: Final = 1.0
SHUTDOWN_DRAIN_S: Final = 2.0
WRITER_CLOSE_S: Final = 1.0
MAX_NAMED_PROBLEMS: Final = 3
"""Of a damaged directory, in the one line that refuses it."""
