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

TXN_LINE_BYTES_MAX: Final = 64 << 20
"""The longest line of a transaction."""

API_VERSION: Final = "3.5"
"""The etcd API that the programs of this project speak."""
