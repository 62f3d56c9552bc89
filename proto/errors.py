"""A call's failure as a value: gRPC status code, text and, for writes, what is known of the outcome.

Codes and texts are etcd's (`rpctypes/error.go`): clients match on both. This module knows nothing of grpc;
the bridge turns a `Status` raised by a service into the call's status, and a failed call back into one.
Every part that answers or reads an etcd error uses the table below: `raise Status(*KEY_NOT_PROVIDED)`.
"""

from typing import Final

OK: Final = 0
CANCELLED: Final = 1
UNKNOWN: Final = 2
INVALID_ARGUMENT: Final = 3
DEADLINE_EXCEEDED: Final = 4
NOT_FOUND: Final = 5
ALREADY_EXISTS: Final = 6
PERMISSION_DENIED: Final = 7
RESOURCE_EXHAUSTED: Final = 8
FAILED_PRECONDITION: Final = 9
ABORTED: Final = 10
OUT_OF_RANGE: Final = 11
UNIMPLEMENTED: Final = 12
INTERNAL: Final = 13
UNAVAILABLE: Final = 14
DATA_LOSS: Final = 15
UNAUTHENTICATED: Final = 16

CODE_NAMES: Final = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)

NOT_DONE_OUTCOME: Final = "not-done"
UNKNOWN_OUTCOME: Final = "unknown"


class Status(Exception):
    """A call failed.

    `code` is the gRPC status code as a number, `text` its message. `outcome` is set where the fate of a write
    is at stake: "not-done" (it surely changed nothing), "unknown" (it may have happened), or None.
    """

    def __init__(self, code: int, text: str, outcome: str | None = None) -> None:
        assert outcome in (None, NOT_DONE_OUTCOME, UNKNOWN_OUTCOME), outcome
        super().__init__(code, text, outcome)
        self.code = code
        self.text = text
        self.outcome = outcome

    def __str__(self) -> str:
        name = CODE_NAMES[self.code] if 0 <= self.code < len(CODE_NAMES) else f"code {self.code}"
        return f"{name}: {self.text}" + (f" (outcome: {self.outcome})" if self.outcome else "")


Error = tuple[int, str]
"""A row of the table: gRPC code and text."""

# Key-value requests.
KEY_NOT_PROVIDED: Final[Error] = (INVALID_ARGUMENT, "etcdserver: key is not provided")
KEY_NOT_FOUND: Final[Error] = (INVALID_ARGUMENT, "etcdserver: key not found")
VALUE_PROVIDED: Final[Error] = (INVALID_ARGUMENT, "etcdserver: value is provided")
LEASE_PROVIDED: Final[Error] = (INVALID_ARGUMENT, "etcdserver: lease is provided")
TOO_MANY_OPERATIONS: Final[Error] = (INVALID_ARGUMENT, "etcdserver: too many operations in txn request")
DUPLICATE_KEY: Final[Error] = (INVALID_ARGUMENT, "etcdserver: duplicate key given in txn request")
INVALID_SORT_OPTION: Final[Error] = (INVALID_ARGUMENT, "etcdserver: invalid sort option")
INVALID_CLIENT_API_VERSION: Final[Error] = (INVALID_ARGUMENT, "etcdserver: invalid client api version")
REQUEST_TOO_LARGE: Final[Error] = (INVALID_ARGUMENT, "etcdserver: request is too large")
COMPACTED: Final[Error] = (OUT_OF_RANGE, "etcdserver: mvcc: required revision has been compacted")
FUTURE_REVISION: Final[Error] = (OUT_OF_RANGE, "etcdserver: mvcc: required revision is a future revision")
NO_SPACE: Final[Error] = (RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded")
TOO_MANY_REQUESTS: Final[Error] = (RESOURCE_EXHAUSTED, "etcdserver: too many requests")

# Leases.
LEASE_NOT_FOUND: Final[Error] = (NOT_FOUND, "etcdserver: requested lease not found")
LEASE_EXISTS: Final[Error] = (FAILED_PRECONDITION, "etcdserver: lease already exists")
LEASE_TTL_TOO_LARGE: Final[Error] = (OUT_OF_RANGE, "etcdserver: too large lease TTL")

# Members.
MEMBER_EXISTS: Final[Error] = (FAILED_PRECONDITION, "etcdserver: member ID already exist")
PEER_URL_EXISTS: Final[Error] = (FAILED_PRECONDITION, "etcdserver: Peer URLs already exists")
MEMBER_NOT_ENOUGH_STARTED: Final[Error] = (
    FAILED_PRECONDITION,
    "etcdserver: re-configuration failed due to not enough started members",
)
MEMBER_BAD_URLS: Final[Error] = (INVALID_ARGUMENT, "etcdserver: given member URLs are invalid")
MEMBER_NOT_FOUND: Final[Error] = (NOT_FOUND, "etcdserver: member not found")
MEMBER_NOT_LEARNER: Final[Error] = (
    FAILED_PRECONDITION,
    "etcdserver: can only promote a learner member",
)
LEARNER_NOT_READY: Final[Error] = (
    FAILED_PRECONDITION,
    "etcdserver: can only promote a learner member which is in sync with leader",
)
TOO_MANY_LEARNERS: Final[Error] = (FAILED_PRECONDITION, "etcdserver: too many learner members in cluster")
CLUSTER_ID_MISMATCH: Final[Error] = (FAILED_PRECONDITION, "etcdserver: cluster ID mismatch")
NOT_SUPPORTED_FOR_LEARNER: Final[Error] = (
    FAILED_PRECONDITION,
    "etcdserver: rpc not supported for learner",
)
BAD_LEADER_TRANSFEREE: Final[Error] = (FAILED_PRECONDITION, "etcdserver: bad leader transferee")

# Authentication.
USER_EMPTY: Final[Error] = (INVALID_ARGUMENT, "etcdserver: user name is empty")
ROLE_EMPTY: Final[Error] = (INVALID_ARGUMENT, "etcdserver: role name is empty")
AUTH_FAILED: Final[Error] = (
    INVALID_ARGUMENT,
    "etcdserver: authentication failed, invalid user ID or password",
)
PERMISSION_NOT_GIVEN: Final[Error] = (INVALID_ARGUMENT, "etcdserver: permission not given")
INVALID_AUTH_MANAGEMENT: Final[Error] = (INVALID_ARGUMENT, "etcdserver: invalid auth management")
AUTH_OLD_REVISION: Final[Error] = (INVALID_ARGUMENT, "etcdserver: revision of auth store is old")
ROOT_USER_NOT_EXIST: Final[Error] = (FAILED_PRECONDITION, "etcdserver: root user does not exist")
ROOT_ROLE_NOT_EXIST: Final[Error] = (FAILED_PRECONDITION, "etcdserver: root user does not have root role")
USER_EXISTS: Final[Error] = (FAILED_PRECONDITION, "etcdserver: user name already exists")
USER_NOT_FOUND: Final[Error] = (FAILED_PRECONDITION, "etcdserver: user name not found")
ROLE_EXISTS: Final[Error] = (FAILED_PRECONDITION, "etcdserver: role name already exists")
ROLE_NOT_FOUND: Final[Error] = (FAILED_PRECONDITION, "etcdserver: role name not found")
ROLE_NOT_GRANTED: Final[Error] = (FAILED_PRECONDITION, "etcdserver: role is not granted to the user")
PERMISSION_NOT_GRANTED: Final[Error] = (
    FAILED_PRECONDITION,
    "etcdserver: permission is not granted to the role",
)
AUTH_NOT_ENABLED: Final[Error] = (FAILED_PRECONDITION, "etcdserver: authentication is not enabled")
PERMISSION_DENIED_ERROR: Final[Error] = (PERMISSION_DENIED, "etcdserver: permission denied")
INVALID_AUTH_TOKEN: Final[Error] = (UNAUTHENTICATED, "etcdserver: invalid auth token")

# Leadership and availability.
NOT_LEADER: Final[Error] = (FAILED_PRECONDITION, "etcdserver: not leader")
NOT_CAPABLE: Final[Error] = (FAILED_PRECONDITION, "etcdserver: not capable")
NO_LEADER: Final[Error] = (UNAVAILABLE, "etcdserver: no leader")
LEADER_CHANGED: Final[Error] = (UNAVAILABLE, "etcdserver: leader changed")
STOPPED: Final[Error] = (UNAVAILABLE, "etcdserver: server stopped")
TIMEOUT: Final[Error] = (UNAVAILABLE, "etcdserver: request timed out")
TIMEOUT_LEADER_FAILURE: Final[Error] = (
    UNAVAILABLE,
    "etcdserver: request timed out, possibly due to previous leader failure",
)
TIMEOUT_CONNECTION_LOST: Final[Error] = (
    UNAVAILABLE,
    "etcdserver: request timed out, possibly due to connection lost",
)
TIMEOUT_APPLIED_INDEX: Final[Error] = (
    UNAVAILABLE,
    "etcdserver: request timed out, waiting for the applied index took too long",
)
UNHEALTHY: Final[Error] = (UNAVAILABLE, "etcdserver: unhealthy cluster")
CORRUPT: Final[Error] = (DATA_LOSS, "etcdserver: corrupt cluster")
WATCH_CANCELED: Final[Error] = (CANCELLED, "etcdserver: watch canceled")
REQUEST_CANCELED: Final[Error] = (CANCELLED, "etcdserver: request canceled")
