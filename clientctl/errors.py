"""What a failed operation says about itself: surely not done, or unknown.

`NotDone` (and below it `InvalidRequest`) means that the store has not changed and will not change on behalf
of this call. `OutcomeUnknown` means that a write may have happened, or may still happen for a short while.
Reads change nothing and only ever fail with `NotDone`.
"""

from proto import errors
from proto.errors import Status
from proto.session_pb2 import ReadResult, Result

# Codes with which a server refuses what was asked: asking again would not help.
_INVALID = frozenset(
    {
        errors.INVALID_ARGUMENT,
        errors.NOT_FOUND,
        errors.PERMISSION_DENIED,
        errors.FAILED_PRECONDITION,
        errors.OUT_OF_RANGE,
        errors.UNIMPLEMENTED,
        errors.UNAUTHENTICATED,
    }
)


class KeyValueError(Exception):
    """An operation failed. `code` is a gRPC status code as a number, `text` the message (etcd's, from a
    server).
    """

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code
        self.text = text

    def __str__(self) -> str:
        return self.text


class NotDone(KeyValueError):
    """Surely not done: nothing has changed. It may be tried again."""


class InvalidRequest(NotDone):
    """Surely not done, because the server refuses the request as it is."""


class Compacted(InvalidRequest):
    """The history that a watch needs is gone: it cannot go on without a gap.

    `compact_revision` is the oldest one that there is: read the keys at a revision not below it, and watch
    from the next one.
    """

    def __init__(self, compact_revision: int) -> None:
        code, text = errors.COMPACTED
        super().__init__(code, f"{text} (compact revision {compact_revision})")
        self.compact_revision = compact_revision

    def __reduce__(self) -> tuple[type["Compacted"], tuple[int]]:
        return type(self), (self.compact_revision,)


class WatchCanceled(NotDone):
    """The server ended the watch; the text is its reason."""


class LeaseLost(NotDone):
    """The lease is gone, or may be for all that this client knows, and with it keys, locks and offices."""


class OutcomeUnknown(KeyValueError):
    """Nobody can say whether the write happened. Writing again may do it twice."""

    def __str__(self) -> str:
        return f"{self.text} (outcome unknown: the write may or may not have happened)"


def error_of_result(result: Result) -> KeyValueError | None:
    """The exception that a command's result stands for; None when it is done."""
    if result.outcome == Result.DECIDED and result.code == errors.OK:
        return None
    if result.outcome == Result.UNKNOWN:
        return OutcomeUnknown(result.code, result.text)
    return not_done(result.code, result.text)


def error_of_read(result: ReadResult) -> KeyValueError | None:
    """The exception that a read's result stands for; None when it succeeded."""
    return None if result.code == errors.OK else not_done(result.code, result.text)


def error_of_unary_write(status: Status) -> KeyValueError:
    """The exception for a write by a unary call, of our servers (who state the outcome) or etcd's."""
    surely_not = status.outcome == errors.NOT_DONE_OUTCOME or (
        status.outcome is None and (status.code in _INVALID or _refused_early(status))
    )
    if surely_not:
        return not_done(status.code, status.text)
    return OutcomeUnknown(status.code, status.text)


def not_done(code: int, text: str) -> NotDone:
    """The exception for something that is surely not done."""
    return InvalidRequest(code, text) if code in _INVALID else NotDone(code, text)


def never_sent(status: Status) -> bool:
    """Whether the call failed for want of a connection, so that no server has seen it.

    A server's own words are not enough: it may pass on what another one told it. The bridge marks ours.
    """
    unavailable = status.code == errors.UNAVAILABLE and status.outcome == errors.NOT_DONE_OUTCOME
    return unavailable and status.text.startswith("failed to connect")


def _refused_early(status: Status) -> bool:
    """Whether etcd answers so only before it proposes anything."""
    early = ((status.code, status.text) in (errors.NO_SPACE, errors.TOO_MANY_REQUESTS)) or never_sent(status)
    return early or (status.code, status.text) == errors.NO_LEADER
