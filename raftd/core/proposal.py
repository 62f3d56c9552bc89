"""What becomes of a proposal, as values."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Proposed:
    """The entry stands in the leader's log. It is decided only when this index is committed *with this
    term*."""

    index: int
    term: int


@dataclass(frozen=True, slots=True)
class NotLeader:
    """Surely not done. `leader` is None when none is known, and while leadership is being handed over."""

    leader: int | None
    term: int


@dataclass(frozen=True, slots=True)
class Overloaded:
    """Surely not done: too many bytes wait to be committed and applied."""

    waiting_bytes: int
