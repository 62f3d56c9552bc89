"""Every bound of the client library and of the command line, in one place.

Sizes in bytes, times in seconds. Used by the library, by the command line and, through `Pipeline` and
`Session`, by proxyd (which passes limits of its own).
"""

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class PipelineLimits:
    """What one `Pipeline` may hold and how it spaces its retries."""

    operations_max: int = 8192
    bytes_max: int = 32 << 20
    # One message; a larger command travels alone. Both servers receive up to 4 MiB.
    message_bytes_max: int = 256 << 10
    # How long nothing is sent after an answer that says "not now": doubled each time, then jittered (hazard
    # 95).
    pause_min_s: float = 0.02
    pause_max_s: float = 0.32


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """The window of one session: numbers given out whose result is not yet seen, and their requests'
    bytes."""

    window_operations_max: int = 1024
    window_bytes_max: int = 8 << 20
    # How often one command is sent anew because its session had expired before it could run.
    registrations_max: int = 3
    # Registering is done for all callers together and outlasts each of them.
    registration_timeout_s: float = 5.0


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """How one `Client` connects."""

    # A round over all endpoints that failed is followed by a pause: doubled, then jittered (hazard 95).
    redial_pause_min_s: float = 0.02
    redial_pause_max_s: float = 0.5
    # How often in a row a hint of a not-leading node is followed without an answer in between.
    leader_hints_max: int = 8
    # Best effort at the end: tell the server that the session is over, so that it may forget it at once.
    close_timeout_s: float = 0.1


@dataclass(frozen=True, slots=True)
class WatchLimits:
    """What the watches of one client may hold, and how they come back."""

    watches_max: int = 100_000
    # What waits for one watch's reader, as events and as bytes. With more, the watch leaves the server, and
    # comes back once its reader has caught up: it holds up neither the others nor the server.
    waiting_events_max: int = 4096
    waiting_bytes_max: int = 16 << 20
    # Creations sent and not yet answered.
    creations_max: int = 256
    # How often in a row the server may cancel a watch without having sent it anything.
    cancellations_max: int = 8


@dataclass(frozen=True, slots=True)
class LeaseLimits:
    """How leases are kept and how what hangs on them is cleaned up."""

    leases_max: int = 100_000
    # At most so many leases are renewed in one go.
    renewals_max: int = 256
    # A lease is renewed whenever a third of its time has passed, as by etcd's clients, but not more often
    # than this.
    renewal_pause_min_s: float = 0.5
    # A renewal that is not answered is repeated, in case another server would.
    answer_timeout_s: float = 5.0
    # How long leaving a lock, an election or a lease may take; after that the lease ends by itself.
    release_timeout_s: float = 2.0


COMMAND_BYTES_OVERHEAD: Final = 32
"""What a command takes in a message beside its request: tags, numbers, lengths (at most 29)."""

DEADLINE_GRAIN_S: Final = 0.005
"""Deadlines are kept in slots this wide, so that one timer and no heap entry per operation will do."""

TIMEOUT_S: Final = 5.0
"""An operation's time when its caller names none; etcdctl's default."""

DIAL_TIMEOUT_S: Final = 2.0
"""How long the command line waits for a first connection; etcdctl's default."""

VALUE_BYTES_MAX: Final = 64 << 20
"""The largest value that `put` reads from standard input; what a server takes is for the server to say."""

TXN_NESTING_MAX: Final = 40
"""Transactions within one another. protobuf reads messages up to 100 deep: a request with 50 of them, and the
reply to one with 49, it does not."""

TXN_LINE_BYTES_MAX: Final = 64 << 20
"""The longest line of a transaction."""

LOCK_TTL_S: Final = 10
"""How long a lock outlives a holder who has vanished; as etcdctl's."""

ELECTION_TTL_S: Final = 60
"""How long an office outlives a holder who has vanished; as etcdctl's."""

WATCH_LINE_BYTES_MAX: Final = 1 << 20
"""The longest line of an interactive watch."""

API_VERSION: Final = "3.5"
"""The etcd API that the programs of this project speak."""
