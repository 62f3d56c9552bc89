"""A small cluster of real cores, with a network and disks that do only what a test tells them to.

Nothing happens by itself: `deliver` moves messages, `tick` moves time, a disk can be held. For whole
histories under random faults see `tests.simulation`.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, TypeVar

from raftd.core.config import RaftConfig
from raftd.core.messages import Entry, EntryKind, Envelope, HardState, Message
from raftd.core.proposal import Proposed
from raftd.core.raft import Raft
from raftd.core.ready import ReadState, Ready, Role

ELECTION_TIMEOUT_TICKS = 60

M = TypeVar("M", bound=Message)


def entry(index: int, term: int, payload: bytes = b"x") -> Entry:
    return Entry(index, term, EntryKind.COMMANDS, payload)


def log_of(*terms: int) -> list[Entry]:
    """Entries 1, 2, … with these terms."""
    return [entry(index, term) for index, term in enumerate(terms, start=1)]


@dataclass
class Disk:
    """What would survive a crash, and the writes under way."""

    hard_state: HardState
    entries: list[Entry] = field(default_factory=list)
    applied_index: int = 0
    queue: list[Ready] = field(default_factory=list)
    is_held: bool = False

    def store(self, ready: Ready) -> None:
        if ready.hard_state is not None:
            self.hard_state = ready.hard_state
        if ready.entries:
            first = ready.entries[0].index
            assert first <= len(self.entries) + 1, f"gap before {first}"
            self.entries = self.entries[: first - 1] + ready.entries


class Node:
    """One core with its disk; it keeps what it has applied and which reads came back."""

    def __init__(self, config: RaftConfig, disk: Disk, seed: int) -> None:
        self.config = config
        self.disk = disk
        self.applied: list[Entry] = disk.entries[: disk.applied_index]
        self.reads: list[ReadState] = []
        self.readys: list[Ready] = []
        self.loads_log = True
        self.raft = Raft(config, Random(seed), disk.hard_state, 0, 0, list(disk.entries), disk.applied_index)

    def turn(self) -> list[Envelope]:
        """One Ready, as the node would treat it: what may leave now."""
        if not self.raft.has_ready():
            return self.sync()
        ready = self.raft.ready()
        self.readys.append(ready)
        outgoing = list(ready.messages)
        self.disk.queue.append(ready)
        outgoing += self.sync()
        if ready.committed:
            self.applied += ready.committed
            self.disk.applied_index = ready.committed[-1].index
            self.raft.applied(self.disk.applied_index)
        self.reads += ready.reads
        for load in ready.log_reads if self.loads_log else ():
            first = load.first_index
            prev_term = self.disk.entries[first - 2].term if first > 1 else 0
            self.raft.log_loaded(load.follower, prev_term, self.disk.entries[first - 1 : first + 9])
        return outgoing

    def sync(self) -> list[Envelope]:
        """Finish the writes under way, in order, unless the disk is held."""
        outgoing: list[Envelope] = []
        while self.disk.queue and not self.disk.is_held:
            ready = self.disk.queue.pop(0)
            self.disk.store(ready)
            if ready.entries:
                self.raft.written(ready.entries[-1].index, ready.entries[-1].term)
            elif ready.hard_state is not None:
                self.raft.written(0, 0)
            outgoing += ready.messages_after_write
        return outgoing

    def committed_payloads(self) -> list[bytes]:
        return [e.payload for e in self.applied if e.kind is EntryKind.COMMANDS]


class Cluster:
    """Nodes 1 … size. Ids are small so that messages read well."""

    def __init__(
        self,
        size: int = 3,
        seed: int = 0,
        logs: Mapping[int, Sequence[Entry]] | None = None,
        terms: Mapping[int, int] | None = None,
        equal_seeds: bool = False,
        **options: Any,
    ) -> None:
        self.voters = tuple(range(1, size + 1))
        self.seed = seed
        self.wire: list[tuple[int, Envelope]] = []
        self.cut: set[tuple[int, int]] = set()
        """Pairs (from, to) that lose everything."""
        self.lose: Callable[[int, int, Message], bool] = lambda sender, to, message: False
        self.nodes: dict[int, Node] = {}
        for node_id in self.voters:
            entries = list((logs or {}).get(node_id, ()))
            term = max((terms or {}).get(node_id, 0), entries[-1].term if entries else 0)
            config = replace(RaftConfig(node_id, self.voters), **options)
            disk = Disk(HardState(term, None), entries)
            self.nodes[node_id] = Node(config, disk, seed * 100 + (0 if equal_seeds else node_id))

    def __getitem__(self, node_id: int) -> Raft:
        return self.nodes[node_id].raft

    def role(self, node_id: int) -> Role:
        return self[node_id].role

    # Faults.

    def isolate(self, *node_ids: int) -> None:
        for node_id in node_ids:
            for other in self.voters:
                if other != node_id:
                    self.cut |= {(node_id, other), (other, node_id)}

    def heal(self) -> None:
        self.cut.clear()
        self.lose = lambda sender, to, message: False

    def crash(self, node_id: int) -> None:
        """Lose all that is not on disk, and start again."""
        node = self.nodes[node_id]
        node.disk.queue.clear()
        self.wire = [(s, e) for s, e in self.wire if node_id not in (s, e.to)]
        seed = self.seed * 100 + node_id + 50
        self.nodes[node_id] = Node(node.config, node.disk, seed)

    # Progress.

    def gather(self, node_ids: Iterable[int] | None = None) -> None:
        """Let nodes take turns until they have nothing to say; what they say goes on the wire."""
        for node_id in node_ids or self.voters:
            node = self.nodes[node_id]
            while node.raft.has_ready() or (node.disk.queue and not node.disk.is_held):
                self.wire += [(node_id, envelope) for envelope in node.turn()]

    def deliver(self) -> None:
        """Deliver what is on the wire now, and nothing that follows from it."""
        self.gather()
        wire, self.wire = self.wire, []
        for sender, envelope in wire:
            lost = (sender, envelope.to) in self.cut or self.lose(sender, envelope.to, envelope.message)
            if not lost:
                self[envelope.to].step(sender, envelope.message)

    def stabilize(self, rounds: int = 500) -> None:
        """Deliver until nobody has anything to say."""
        for _ in range(rounds):
            self.deliver()
            self.gather()
            if not self.wire:
                return
        raise AssertionError("the nodes do not fall silent")

    def tick(self, ticks: int, *node_ids: int) -> None:
        """Let time pass, one tick after the other, with messages delivered before, between and after."""
        self.stabilize()
        for _ in range(ticks):
            for node_id in node_ids or self.voters:
                self[node_id].tick()
            self.stabilize()

    def ask(self, node_id: int, sender: int, message: Message) -> list[Message]:
        """Step one message, and take what the node then sends to its sender."""
        self[node_id].step(sender, message)
        self.gather([node_id])
        answers = [e.message for s, e in self.wire if (s, e.to) == (node_id, sender)]
        self.wire = [(s, e) for s, e in self.wire if (s, e.to) != (node_id, sender)]
        return answers

    def expire_election_timer(self, node_id: int) -> None:
        """As if nothing had been heard for long enough, on this node only."""
        assert self[node_id].role is not Role.LEADER, f"{node_id} leads"
        self[node_id].tick(self[node_id].ticks_until_due())

    def elect(self, node_id: int) -> None:
        """Make this node the leader."""
        for _ in range(10 * ELECTION_TIMEOUT_TICKS):
            if self[node_id].role is Role.LEADER:
                return
            if any(self[other].role is Role.LEADER for other in self.voters):
                leader = self.leader()
                assert self[leader].transfer_leadership(node_id), f"cannot transfer to {node_id}"
                self.stabilize()
            else:
                self[node_id].tick()
                self.stabilize()
        raise AssertionError(f"node {node_id} is not elected")

    def elect_any(self, timeouts: int = 10) -> int:
        for _ in range(timeouts * ELECTION_TIMEOUT_TICKS):
            if self.leaders():
                return self.leader()
            self.tick(1)
        raise AssertionError("nobody is elected")

    def elect_any_but(self, *excluded: int) -> int:
        """Let time pass for the others until one of them leads."""
        others = [node_id for node_id in self.voters if node_id not in excluded]
        for _ in range(20 * ELECTION_TIMEOUT_TICKS):
            for node_id in others:
                if self[node_id].role is Role.LEADER:
                    return node_id
            self.tick(1, *others)
        raise AssertionError("nobody is elected")

    def leaders(self) -> list[int]:
        return [node_id for node_id in self.voters if self[node_id].role is Role.LEADER]

    def leader(self) -> int:
        """The leader of the newest term."""
        return max(self.leaders(), key=lambda node_id: self[node_id].term)

    def put(self, node_id: int, payload: bytes = b"x") -> Proposed:
        proposed = self[node_id].propose(payload)
        assert isinstance(proposed, Proposed), f"{proposed}"
        return proposed

    def read(self, node_id: int, token: int) -> None:
        self[node_id].read_index(token)

    def sent(self, message_type: type[M], sender: int | None = None) -> list[M]:
        """What is on the wire, of one type."""
        self.gather()
        return [
            e.message for s, e in self.wire if isinstance(e.message, message_type) and sender in (None, s)
        ]

    def ignored(self, node_id: int) -> dict[str, int]:
        return dict(self[node_id].status().ignored_messages)

    def assert_logs_equal(self) -> None:
        logs = [self.nodes[node_id].disk.entries for node_id in self.voters]
        assert all(log == logs[0] for log in logs), f"{logs}"
