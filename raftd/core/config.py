"""Every bound and timer of the Raft core, in one place. Times are ticks; a tick lasts `tick_ms`."""

from dataclasses import dataclass

ENTRY_OVERHEAD_BYTES = 32
"""What an entry is taken to cost beside its payload, on the wire and in memory."""

MAX_TERM_OR_INDEX = 2**63 - 1
"""A remote message with a greater number is malformed: no honest cluster ever counts this far."""


@dataclass(frozen=True, slots=True)
class RaftConfig:
    """What one node must know before it starts. `voters` includes `node_id`; all nodes are given the same."""

    node_id: int
    voters: tuple[int, ...]
    tick_ms: int = 5

    heartbeat_ticks: int = 10
    election_timeout_ticks: int = 60
    """Randomised for each wait in [T, 2T). Also the age at which a leader without a majority gives up
    (CheckQuorum), a sync counts as overdue and a leadership transfer is aborted."""
    hung_sync_timeouts: int = 4
    """A leader's sync that has lasted so many election timeouts, while a majority is ahead, is taken to
    hang."""
    fast_election_ticks: tuple[int, int] = (1, 8)
    """Wait before the PreVote that follows a broken leader stream, and before the first retry of a split
    vote."""

    append_retry_ticks: int = 30
    """Without any acknowledgement for so long, a follower is probed again: its appends may be lost."""
    max_append_bytes: int = 256 * 1024
    """A larger entry travels alone."""
    max_inflight_appends: int = 64
    """Unacknowledged AppendEntries for each follower."""
    max_inflight_bytes: int = 1024 * 1024
    """And so many of their bytes, but for a single larger append. What carries messages holds this much: more
    would be dropped and asked for again."""

    max_uncommitted_bytes: int = 64 * 1024 * 1024
    """Proposals are refused while so much waits to be committed and applied here."""
    max_apply_bytes: int = 4 * 1024 * 1024
    """Committed entries in one Ready."""
    log_cache_bytes: int = 32 * 1024 * 1024
    """Entries kept in memory, for followers that lag, after they are applied and durable."""

    read_retry_ticks: int = 10
    """A follower repeats an unanswered ReadIndex under a fresh nonce after so long."""
    max_read_rounds: int = 4
    """ReadIndex rounds under way at once; later reads wait and share the next."""
    max_pending_reads: int = 10_000

    def __post_init__(self) -> None:
        assert self.node_id in self.voters, f"node {self.node_id:x} is not among the voters {self.voters}"
        assert 0 not in self.voters, "0 is not a node id"
        assert len(set(self.voters)) == len(self.voters), f"a voter stands twice in {self.voters}"
        assert 0 < self.heartbeat_ticks < self.election_timeout_ticks, "heartbeats must outpace elections"
        low, high = self.fast_election_ticks
        assert 0 < low <= high < self.election_timeout_ticks, f"fast election in {low}..{high} ticks"

    @property
    def peers(self) -> tuple[int, ...]:
        """The other voters, in ascending order: messages leave in this order, so runs are repeatable."""
        return tuple(sorted(voter for voter in self.voters if voter != self.node_id))
