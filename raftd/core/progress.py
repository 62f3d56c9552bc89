"""What a leader knows of one follower's log, and how fast it may send.

It counts indexes only; `Leader` does the sending.
"""

from collections import deque
from enum import Enum


class ProgressState(Enum):
    """How the leader feeds a follower.

    A follower that needs entries older than the log itself will be in a third state, SNAPSHOT: nothing is
    appended until the snapshot is installed, then PROBE from its last index.
    """

    PROBE = "probe"
    """Where the logs part is unknown: one append at a time until one is accepted."""
    REPLICATE = "replicate"
    """Appends are sent ahead of their acknowledgements, up to a bound."""


class Progress:
    """Figure 2's nextIndex and matchIndex, and what is in flight.

    Invariants: match_index < next_index; match_index never falls (hazard 21) and starts at 0 with each term
    (hazard 24).
    """

    __slots__ = (
        "_inflight",
        "_inflight_bytes",
        "_probe_sent",
        "commit_sent",
        "confirmed_round",
        "last_contact",
        "last_movement",
        "log_read_limit",
        "match_index",
        "max_inflight",
        "max_inflight_bytes",
        "next_index",
        "state",
    )

    def __init__(self, next_index: int, max_inflight: int, max_inflight_bytes: int, now: int) -> None:
        self.state = ProgressState.PROBE
        self.match_index = 0
        self.next_index = next_index
        self.max_inflight = max_inflight
        self.max_inflight_bytes = max_inflight_bytes
        self._inflight: deque[tuple[int, int]] = deque()
        """The last index and the bytes of each append that is not acknowledged."""
        self._inflight_bytes = 0
        self._probe_sent = False
        self.commit_sent = 0
        """The commit index that this follower has been told of."""
        self.confirmed_round = 0
        """The newest heartbeat round it has answered."""
        self.last_contact = now
        """When a reply of this term last arrived: CheckQuorum."""
        self.last_movement = now
        """When an append was last acknowledged, or sent into silence."""
        self.log_read_limit: int | None = None
        """While entries are being loaded for it: the last index that such a load may carry."""

    @property
    def inflight(self) -> int:
        return len(self._inflight)

    def may_send(self, last_index: int) -> bool:
        if self.log_read_limit is not None:
            return False
        if self.state is ProgressState.PROBE:
            return not self._probe_sent
        return self.next_index <= last_index and self.has_room()

    def has_room(self) -> bool:
        return len(self._inflight) < self.max_inflight and self._inflight_bytes < self.max_inflight_bytes

    def sent(self, last_index: int, size_bytes: int, now: int) -> None:
        """An append that ends with `last_index` has left."""
        if self.state is ProgressState.PROBE:
            self._probe_sent = True
            self.last_movement = now
            return
        if not self._inflight:
            self.last_movement = now
        self._inflight.append((last_index, size_bytes))
        self._inflight_bytes += size_bytes
        self.next_index = last_index + 1

    def acknowledge(self, match_index: int, now: int) -> bool:
        """The follower holds all up to `match_index`. Returns whether that is news; late replies are not."""
        self.last_movement = now
        inflight = self._inflight
        while inflight and inflight[0][0] <= match_index:
            self._inflight_bytes -= inflight.popleft()[1]
        is_news = match_index > self.match_index
        self.match_index = max(self.match_index, match_index)
        if self.state is ProgressState.PROBE:
            self.state = ProgressState.REPLICATE
            self.next_index = self.match_index + 1
        else:
            self.next_index = max(self.next_index, self.match_index + 1)
        return is_news

    def is_current_rejection(self, rejected_index: int) -> bool:
        """Whether a refusal speaks of what is in flight now, and not of the past (hazard 25)."""
        if self.state is ProgressState.PROBE:
            return rejected_index == self.next_index - 1 and rejected_index > self.match_index
        return self.match_index < rejected_index < self.next_index

    def is_stalled(self, now: int, retry_ticks: int) -> bool:
        is_waiting = self._probe_sent if self.state is ProgressState.PROBE else bool(self._inflight)
        return is_waiting and now - self.last_movement >= retry_ticks

    def probe_from(self, next_index: int) -> None:
        """Ask there whether the logs agree; what is in flight counts no more."""
        assert next_index > self.match_index, f"next {next_index}, but matched up to {self.match_index}"
        self.state = ProgressState.PROBE
        self.next_index = next_index
        self._inflight.clear()
        self._inflight_bytes = 0
        self._probe_sent = False

    def probe_again(self) -> None:
        """What is in flight may be lost. A search for the place where the logs part goes on where it was."""
        self.probe_from(self.next_index if self.state is ProgressState.PROBE else self.match_index + 1)
