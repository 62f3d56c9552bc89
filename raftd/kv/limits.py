"""Every bound of the state machine, in one place.

They are part of the replicated state's definition: all nodes of a cluster must use the same values, because a
command's result depends on them. None of them is a setting.
"""

from dataclasses import dataclass
from typing import Final

from proto.limits import REQUEST_BYTES_MAX

MAX_COMMANDS_PER_ENTRY: Final = 1 << 16
"""A session's id holds its REGISTER command's position in the entry in 16 bits."""


@dataclass(frozen=True, slots=True)
class Limits:
    """The production values are the defaults; tests make them small."""

    max_request_bytes: int = REQUEST_BYTES_MAX
    """For requests that enter the log."""
    max_txn_operations: int = 128
    """etcd's --max-txn-ops, per list of a transaction; nested transactions share what is left."""

    min_lease_ttl_s: int = 2
    """A shorter TTL is raised to it: etcd's minimum at its default election timeout. Not ours times 1.5, as
    each node may have been given another one, and what a grant answers must not depend on that."""
    max_lease_ttl_s: int = 9_000_000_000
    """etcd's; more is refused."""
    max_leases: int = 1_000_000
    """One more is refused as "too many requests"; etcd has no such bound."""

    compaction_step_rows: int = 512
    """Old versions that one COMPACT or COMPACT_STEP command looks at: about 5 ms of the writer thread."""
    compaction_step_bytes: int = 4 * 1024 * 1024
    """The step ends with the version that brings the sum of those it looked at, or of those it removed, to so
    many bytes: LMDB frees the pages of large values in one transaction with everything else (hazard 73)."""

    max_sessions: int = 10_000
    """One more evicts the session that has been idle for longest."""
    session_idle_ms: int = 600_000
    """Cluster time without a command after which a session ends."""
    session_touch_ms: int = 1_000
    """How coarsely a session's last use is recorded: a write of the index at most this often."""
    max_expired_per_entry: int = 64
    """Sessions that one entry ends by expiry, so that no entry takes long to apply; the next ones go on."""
    session_window_commands: int = 4096
    """A command this far or further beyond the session's first outstanding one is refused."""
    max_kept_result_bytes: int = 32 * 1024
    """A larger reply is not kept for a second asking: "applied at revision R, reply gone"."""
    max_kept_session_bytes: int = 1024 * 1024
    """Beyond this sum of kept replies a session keeps no further bodies."""


LIMITS: Final = Limits()
