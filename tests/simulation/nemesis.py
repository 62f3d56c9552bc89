"""Makes the faults of a mix happen and ends them again. It may look at roles, to hurt where it matters
most."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from raftd.core.ready import Role

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation


class Nemesis:
    def __init__(self, simulation: "Simulation") -> None:
        self._simulation = simulation
        self._random = simulation.random
        self._voters = simulation.voters
        self._inflict: dict[str, Callable[[], bool]] = {
            "crash one": lambda: self._crash([self._anyone()]),
            "crash leader": lambda: self._crash(self._leaders()),
            "crash majority": lambda: self._crash(self._some(len(self._voters) // 2 + 1)),
            "crash all": lambda: self._crash(self._voters),
            "isolate one": lambda: self._isolate(self._anyone()),
            "isolate leader": lambda: self._isolate(*self._leaders()),
            "depose leader": self._depose,
            "split halves": lambda: self._split(self._some(len(self._voters) // 2)),
            "one-way cut": self._one_way,
            "bridge": self._bridge,
            "chain": self._chain,
            "break stream": self._break_stream,
            "slow disk": self._slow_disk,
            "pause": self._pause,
            "transfer": self._transfer,
            "flapping link": self._flap,
        }

    def strike(self, fault: str) -> None:
        """Lets `fault` happen now; it counts only when the cluster was in a state where it means
        something."""
        if self._inflict[fault]():
            self._simulation.marks[f"fault: {fault}"] += 1

    def _some(self, count: int) -> list[int]:
        return sorted(self._random.sample(self._voters, count))

    def _anyone(self) -> int:
        return self._random.choice(self._voters)

    def _leaders(self) -> list[int]:
        nodes = self._simulation.nodes
        return [n for n in self._voters if nodes[n].is_up and nodes[n].core.role is Role.LEADER]

    def _repair_delay(self) -> int:
        return 1 + int(self._random.random() * 2 * self._simulation.mix.repair_after)

    def _crash(self, node_ids: Iterable[int]) -> bool:
        simulation = self._simulation
        victims = [n for n in node_ids if simulation.nodes[n].is_up]
        for victim in victims:
            simulation.crash(victim)
            simulation.schedule_start(victim, self._repair_delay())
        return bool(victims)

    def _heal_later(self) -> bool:
        self._simulation.schedule_heal(self._repair_delay())
        return len(self._voters) > 1

    def _cut_both(self, first: int, second: int) -> None:
        if first != second:
            self._simulation.network.cut(first, second)
            self._simulation.network.cut(second, first)

    def _isolate(self, *node_ids: int) -> bool:
        for node_id in node_ids:
            for peer in self._voters:
                self._cut_both(node_id, peer)
        return bool(node_ids) and self._heal_later()

    def _depose(self) -> bool:
        """The followers notice at once that the leader is cut off and elect another; it does not notice, and
        goes on to answer its clients (hazards 36–38)."""
        leaders = self._leaders()
        for leader in leaders:
            for peer in self._voters:
                if peer != leader:
                    self._simulation.notice_break(peer, leader)
        return self._isolate(*leaders)

    def _split(self, group: list[int]) -> bool:
        for member in group:
            for peer in self._voters:
                if peer not in group:
                    self._cut_both(member, peer)
        return self._heal_later()

    def _one_way(self) -> bool:
        """One node is heard but does not hear, or hears but is not heard."""
        victim = self._anyone()
        deaf = self._random.random() < 0.5
        for peer in self._voters:
            if peer != victim:
                self._simulation.network.cut(*((peer, victim) if deaf else (victim, peer)))
        return self._heal_later()

    def _bridge(self) -> bool:
        """Two groups that only one node can talk to both of (hazards 14–16)."""
        order = self._some(len(self._voters))
        self._random.shuffle(order)
        middle = len(order) // 2
        for first in order[:middle]:
            for second in order[middle + 1 :]:
                self._cut_both(first, second)
        return self._heal_later() and len(order) > 2

    def _chain(self) -> bool:
        """Each node can talk to its neighbours only."""
        order = self._some(len(self._voters))
        self._random.shuffle(order)
        for position, first in enumerate(order):
            for second in order[position + 2 :]:
                self._cut_both(first, second)
        return self._heal_later() and len(order) > 2

    def _pair(self) -> tuple[int, int] | None:
        if len(self._voters) < 2:
            return None
        first = (self._leaders() or [self._anyone()])[0]
        return first, self._random.choice([n for n in self._voters if n != first])

    def _break_stream(self) -> bool:
        pair = self._pair()
        if pair is None:
            return False
        self._simulation.break_stream(*pair)
        return True

    def _flap(self) -> bool:
        """A link that comes and goes, its streams breaking each time."""
        pair = self._pair()
        if pair is None:
            return False
        self._cut_both(*pair)
        self._simulation.break_stream(*pair)
        self._simulation.schedule_heal(1 + self._repair_delay() // 4)
        return True

    def _slow_disk(self) -> bool:
        victims = self._leaders() if self._random.random() < 0.5 else [self._anyone()]
        for victim in victims:
            self._simulation.slow_disk(victim, self._random.choice((5, 50)), self._repair_delay())
        return bool(victims)

    def _pause(self) -> bool:
        """SIGSTOP, a long collection, a stalled virtual machine: then all that queued up arrives (hazard
        84)."""
        victims = self._leaders() if self._random.random() < 0.5 else [self._anyone()]
        for victim in victims:
            self._simulation.pause(victim, self._repair_delay())
        return bool(victims)

    def _transfer(self) -> bool:
        leaders = self._leaders()
        for leader in leaders:
            to = None if self._random.random() < 0.5 else self._anyone()
            self._simulation.transfer(leader, to)
        return bool(leaders)
