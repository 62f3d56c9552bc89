"""What a golden script plays on: nodes, messages in flight, cut links, slow disks, and the trace of what
happens.

Unless a script says otherwise every disk is fast: what a command makes a node write, apply or load is done
at once. Messages lie in flight until a command delivers or drops them. The simulation's checker watches
every step. `runner.py` drives it.
"""

from typing import NamedTuple

from raftd.core.messages import Entry, EntryKind, Envelope, Message
from raftd.core.ready import LogRead, Ready, Role
from tests.simulation.node import Node
from tests.simulation.notation import entries_text, entry_text, envelope_text, hard_state_text

BOOTSTRAP = (Entry(1, 1, EntryKind.MEMBERSHIP, b""),)


class InFlight(NamedTuple):
    number: int
    sender: int
    to: int
    message: Message


class Stage:
    """The surroundings of a script's nodes. With `is_manual` turns, writes and loads are commands of their
    own."""

    def __init__(self) -> None:
        self.trace: list[str] = []
        self.nodes: dict[int, Node] = {}
        self.flight: list[InFlight] = []
        self.cuts: set[tuple[int, int]] = set()
        self.slow: set[int] = set()
        self.loads: list[tuple[Node, LogRead]] = []
        self.is_manual = False
        self._sent = 0

    def settle(self) -> None:
        """All disks but the slow ones finish; what that makes possible follows."""
        busy = not self.is_manual
        while busy:
            busy = False
            for node in self.nodes.values():
                if node.is_up and node.turn():
                    busy = True
                if node.is_up and node.disk.queued and node.node_id not in self.slow:
                    node.write()
                    node.sync()
                    busy = True
            while self.loads:
                node, log_read = self.loads.pop(0)
                if node.is_up:
                    node.load_log(log_read)
                    busy = True

    def deliver(self, item: InFlight) -> None:
        node = self.nodes[item.to]
        if node.is_up:
            node.receive(item.sender, item.message)
        else:
            self.trace.append(f"m{item.number} lost")
        self.settle()

    def lose_cut(self) -> None:
        """What is under way on a cut link is lost."""
        for item in [item for item in self.flight if (item.sender, item.to) in self.cuts]:
            self.flight.remove(item)
            self.trace.append(f"m{item.number} lost")

    # Surroundings of the nodes.

    def send(self, sender: Node, envelope: Envelope) -> None:
        self._sent += 1
        text = envelope_text(self._sent, sender.node_id, envelope.to, envelope.message)
        if (sender.node_id, envelope.to) in self.cuts:
            self.trace.append(f"{text} (lost)")
        else:
            self.trace.append(text)
            self.flight.append(InFlight(self._sent, sender.node_id, envelope.to, envelope.message))

    def wants_log(self, node: Node, log_read: LogRead) -> None:
        self.trace.append(f"{node} loads {log_read.first_index}… for n{log_read.follower}")
        self.loads.append((node, log_read))

    def took(self, node: Node, ready: Ready) -> None:
        soft = ready.soft_state
        if soft is not None:
            follows = f" of n{soft.leader}" if soft.role is Role.FOLLOWER and soft.leader else ""
            self.trace.append(f"{node}@{soft.term} {soft.role.value}{follows}")
        if ready.hard_state is not None or ready.entries:
            hard_state = f" {hard_state_text(ready.hard_state)}" if ready.hard_state is not None else ""
            entries = f" {entries_text(ready.entries)}" if ready.entries else ""
            self.trace.append(f"{node} writes{hard_state}{entries}")

    def applied(self, node: Node, entry: Entry) -> None:
        beginning = f"{node} applies "
        if self.trace and self.trace[-1].startswith(beginning):
            self.trace[-1] += f" {entry_text(entry)}"
        else:
            self.trace.append(beginning + entry_text(entry))

    def read_done(self, node: Node, token: int, index: int | None) -> None:
        self.trace.append(f"{node} read {token} " + ("failed" if index is None else f"at {index}"))
