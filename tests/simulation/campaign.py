"""Runs many histories, adds up what they saw, and reports a failure so that it can be replayed."""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from raftd.core.raft import Raft
from tests.simulation.node import MakeRaft
from tests.simulation.simulation import Simulation

STEPS = 1500

MARKS = (
    *("elections", "commits", "acknowledged", "reads on leader", "reads on followers", "reads failed"),
    *("messages", "lost at random", "lost to a cut link", "lost to a broken stream", "lost to a dead node"),
    *("duplicated", "reordered", "stragglers", "crashes", "crashes that lost a write", "starts"),
    *("truncations", "proposals refused", "proposals overwritten", "log reads", "transfers begun"),
    *("fault: crash one", "fault: crash leader", "fault: crash majority", "fault: crash all"),
    *(
        "fault: isolate one",
        "fault: isolate leader",
        "fault: depose leader",
        "fault: split halves",
        "fault: one-way cut",
    ),
    *("fault: bridge", "fault: chain", "fault: break stream", "fault: flapping link"),
    *("fault: slow disk", "fault: pause", "fault: transfer"),
)
"""Coverage marks: a campaign in which one of them never occurs has not tested what it claims (T11)."""


class HistoryFailed(AssertionError):
    """A history broke a property; the text is its seed and its last steps, in script syntax."""


@dataclass(slots=True)
class Tally:
    """What a number of histories saw together."""

    histories: int = 0
    steps: int = 0
    ticks: int = 0
    marks: Counter[str] = field(default_factory=Counter)

    def add(self, simulation: Simulation) -> None:
        self.histories += 1
        self.steps += simulation.steps
        self.ticks += simulation.now // 100
        self.marks.update(simulation.marks)

    def missing(self) -> list[str]:
        return [mark for mark in MARKS if not self.marks[mark]]

    def counts(self) -> dict[str, int]:
        totals = {
            "histories": self.histories,
            "steps": self.steps,
            "seconds simulated": self.ticks * 5 // 1000,
        }
        return totals | {mark: self.marks[mark] for mark in MARKS}


def run_seed(
    seed: int,
    steps: int = STEPS,
    node_count: int | None = None,
    make_raft: MakeRaft = Raft,
    whole_journal: bool = False,
    focus: Mapping[str, Any] | None = None,
) -> Simulation:
    """One history to its end; `focus` overrides fields of its mix."""
    simulation = Simulation(
        seed, node_count=node_count, make_raft=make_raft, whole_journal=whole_journal, focus=focus
    )
    try:
        simulation.run(steps)
    except Exception as error:
        text = report_failure(simulation, steps, node_count, error)
        raise HistoryFailed(text) from error
    return simulation


def report_failure(simulation: Simulation, steps: int, node_count: int | None, error: Exception) -> str:
    nodes = f" --nodes {node_count}" if node_count else ""
    lines = "\n".join(simulation.journal.lines())
    return (
        f"{type(error).__name__}: {error}\n"
        f"at step {simulation.steps}; {simulation.state()}\n{simulation.mix}\n"
        f"last steps of `python -m tests.simulation --seed {simulation.seed} --steps {steps}{nodes}`:\n"
        f"{lines}"
    )


def run_seeds(seeds: Iterable[int], steps: int = STEPS, node_count: int | None = None) -> Tally:
    tally = Tally()
    for seed in seeds:
        tally.add(run_seed(seed, steps, node_count))
    return tally


def script(simulation: Simulation) -> str:
    """The whole history as a golden script without traces (needs `whole_journal`)."""
    mix = simulation.mix
    config = simulation.config(simulation.voters[0])
    numbers = " ".join(
        f"{name}={getattr(config, name)}"
        for name in sorted(config.__slots__)
        if name not in ("node_id", "voters") and isinstance(getattr(config, name), int)
    )
    bootstrap = "yes" if mix.bootstrapped else "no"
    header = (
        f"> cluster nodes={mix.node_count} seed={simulation.seed} bootstrap={bootstrap} down=yes manual=yes"
    )
    return "\n".join([f"{header} {numbers}", *simulation.journal.lines()]) + "\n"


def trace_digest(simulation: Simulation) -> str:
    """Of all that happened, message contents included (needs `whole_journal`)."""
    text = script(simulation) + simulation.state() + str(simulation.trace_hash)
    return sha256(text.encode()).hexdigest()
