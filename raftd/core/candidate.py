"""The two stages of an election: asking whether one would win (PreVote, thesis §9.6), and asking for
votes (§5.2).

They count; `Raft` decides what follows.
"""

from raftd.core.messages import RequestVote
from raftd.core.quorum import majority
from raftd.core.replica import Replica


class _Campaign:
    """Who has granted, and until when to wait for more."""

    __slots__ = ("_granted", "_replica", "deadline")

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._granted = {replica.node_id}
        self.deadline = replica.now + replica.election_timeout()

    def has_won(self) -> bool:
        return len(self._granted) >= majority(len(self._replica.config.voters))

    def on_granted(self, voter: int) -> None:
        """A repeated grant counts once."""
        self._granted.add(voter)

    def retry_within(self, ticks: int) -> None:
        self.deadline = min(self.deadline, self._replica.now + ticks)


class PreCandidate(_Campaign):
    """Asks without raising its term, so that a node cut off from the rest disturbs nobody when it returns
    (hazard 13)."""

    __slots__ = ()

    def ask_all(self) -> None:
        for peer in self._replica.peers:
            self.ask(peer)

    def ask(self, peer: int) -> None:
        self._replica.send(peer, self._request())

    def is_equal(self, rival: RequestVote) -> bool:
        """Whether the other asks for the same term with the same log."""
        return rival == self._request()

    def _request(self) -> RequestVote:
        log = self._replica.log
        return RequestVote(self._replica.term + 1, log.last_index, log.last_term, True, False)


class Candidate(_Campaign):
    """§5.2: has raised its term and voted for itself; both reach the disk before any request leaves."""

    __slots__ = ()

    def ask_all(self, leadership_transfer: bool) -> None:
        log = self._replica.log
        request = RequestVote(self._replica.term, log.last_index, log.last_term, False, leadership_transfer)
        for peer in self._replica.peers:
            self._replica.send_after_write(peer, request)
