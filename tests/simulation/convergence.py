"""The end phase of a history: everything is healed, and now the cluster must be live, and equal.

A safe cluster that never serves again is of no use: one leader, one new commit on all nodes and one read on
each of them are demanded within a bounded time.
"""

from typing import TYPE_CHECKING

from raftd.core.ready import Role
from tests.simulation.checker import Violation, require
from tests.simulation.faults import TICK

if TYPE_CHECKING:
    from tests.simulation.simulation import Process, Simulation

LIVENESS_TIMEOUTS = 60
"""Within so many election timeouts the cluster must serve again; a long backlog may take longer while it
shrinks."""
ELECTIONS = 5
"""So many leaders, at most, until one stays."""
EVENTS_BETWEEN_LOOKS = 10


def converge(simulation: "Simulation") -> None:
    """Runs `simulation` until it is live; raises Violation when it does not get there."""
    simulation.calm_down()
    processes = list(simulation.processes.values())
    patience = LIVENESS_TIMEOUTS * simulation.mix.election_timeout_ticks * TICK
    elections_max = simulation.marks["elections"] + ELECTIONS
    progress, deadline = 0, simulation.now + patience
    proposed: tuple[int, int] | None = None
    served: dict[int, int] | None = None
    while True:
        leader = _undisputed_leader(simulation)
        if leader is not None and (proposed is None or proposed[1] != leader.node.core.term):
            proposed = _propose(simulation, leader)
        elif leader is not None and proposed is not None and _all_applied(processes, leader, proposed[0]):
            if served is None:
                served = {process.node.node_id: process.reads_served for process in processes}
            if _all_read(simulation, processes, served):
                break
        for _ in range(EVENTS_BETWEEN_LOOKS):
            simulation.next()
        require(simulation.marks["elections"] <= elections_max, "Liveness", "one leader follows another")
        if _progress(processes) > progress:
            progress, deadline = _progress(processes), simulation.now + patience
        elif simulation.now > deadline:
            raise Violation(f"Liveness: no progress for {LIVENESS_TIMEOUTS} election timeouts")
    digests = {process.node.digest for process in processes}
    require(len(digests) == 1, "State Machine Safety", "replicas differ at the end")


def _undisputed_leader(simulation: "Simulation") -> "Process | None":
    """The one node that all, itself included, take for the leader of one term."""
    cores = [node.core for node in simulation.nodes.values()]
    first = cores[0]
    if first.leader is None or any(core.leader != first.leader or core.term != first.term for core in cores):
        return None
    process = simulation.processes[first.leader]
    return process if process.node.core.role is Role.LEADER else None


def _progress(processes: "list[Process]") -> int:
    """Grows while a backlog is replicated and applied; elections alone are bounded apart from it."""
    return sum(len(process.node.disk.log) + process.node.applied_index for process in processes)


def _propose(simulation: "Simulation", leader: "Process") -> tuple[int, int] | None:
    simulation.advance_clock(leader)
    proposed = simulation.propose(leader)
    simulation.stepped(leader)
    return proposed


def _all_applied(processes: "list[Process]", leader: "Process", index: int) -> bool:
    last_index = leader.node.core.last_index
    return last_index >= index and all(process.node.applied_index == last_index for process in processes)


def _all_read(simulation: "Simulation", processes: "list[Process]", served: dict[int, int]) -> bool:
    """Whether each node has served a read since; those that have not are asked (again)."""
    missing = [process for process in processes if process.reads_served == served[process.node.node_id]]
    for process in missing:
        if not process.reads:
            simulation.read(process)
    return not missing
