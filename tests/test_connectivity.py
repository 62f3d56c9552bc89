"""Which cut networks a cluster survives: a majority that is wholly connected must elect one leader and
keep it.

Hazards 14–16: partial partitions, bridges and chains, in which naive Rafts depose one leader after
another. Nothing heals here; `tests.simulation` supplies the cluster, and checks safety in every graph.
"""

from collections.abc import Iterator
from itertools import combinations, permutations

import pytest

from raftd.core.ready import Role
from tests.simulation.faults import TICK
from tests.simulation.simulation import Simulation

TIMEOUT_TICKS = 20
TIMEOUT = TIMEOUT_TICKS * TICK
QUIET = {
    "faults": (),
    "loss": 0.0,
    "duplication": 0.0,
    "stragglers": 0.0,
    "delay_min": 2,
    "delay_max": 80,
    "sync_min": 40,
    "sync_max": 40,
    "apply_delay": 0,
    "lazy_turns": 0.0,
    "bootstrapped": True,
    "election_timeout_ticks": TIMEOUT_TICKS,
    "heartbeat_ticks": 3,
    "max_append_bytes": 4096,
    "max_inflight_appends": 16,
    "max_uncommitted_bytes": 100_000,
    "log_cache_bytes": 100_000,
    "client_gap": 200,
    "burst_max": 1,
    "read_share": 0.1,
}

Edges = frozenset[tuple[int, int]]
"""(a, b): messages pass from a to b."""


def cluster_led_by(leader: int, node_count: int, seed: int) -> Simulation:
    """A cluster at work under that leader."""
    simulation = Simulation(seed, node_count=node_count, focus=QUIET)
    simulation.begin()
    for _ in range(50):
        run_for(simulation, TIMEOUT)
        leaders = [n for n in simulation.voters if simulation.nodes[n].core.role is Role.LEADER]
        if leaders == [leader]:
            return simulation
        if leaders:
            simulation.transfer(leaders[0], leader)
    raise AssertionError(f"n{leader} does not get to lead: {simulation.state()}")


def run_for(simulation: Simulation, duration: int) -> None:
    end = simulation.now + duration
    while simulation.now < end:
        simulation.next()


def require_stable_leader(edges: Edges, leader: int, node_count: int, seed: int) -> None:
    """Within 10 election timeouts somebody leads and acknowledges writes; in the next 10 nobody else does."""
    simulation = cluster_led_by(leader, node_count, seed)
    for sender, receiver in permutations(simulation.voters, 2):
        if (sender, receiver) not in edges:
            simulation.network.cut(sender, receiver)
    run_for(simulation, 10 * TIMEOUT)
    elections, acknowledged = simulation.marks["elections"], simulation.marks["acknowledged"]
    run_for(simulation, 10 * TIMEOUT)
    facts = f"n{leader} led when only {sorted(edges)} were left; {simulation.state()}"
    assert simulation.marks["acknowledged"] > acknowledged, f"no writes: {facts}"
    assert simulation.marks["elections"] == elections, f"no peace: {facts}"


def has_connected_majority(edges: Edges, node_count: int) -> bool:
    majorities = combinations(range(1, node_count + 1), node_count // 2 + 1)
    return any(all(link in edges for link in permutations(majority, 2)) for majority in majorities)


def directed_graphs_of_three() -> Iterator[Edges]:
    links = list(permutations((1, 2, 3), 2))
    for bits in range(1 << len(links)):
        yield frozenset(link for position, link in enumerate(links) if bits >> position & 1)


def shapes_of_five() -> list[Edges]:
    """The 34 undirected graphs on five nodes, up to renaming."""
    links = list(combinations(range(5), 2))
    position = {link: index for index, link in enumerate(links)}
    renamings = [
        [position[min(to[a], to[b]), max(to[a], to[b])] for a, b in links] for to in permutations(range(5))
    ]
    seen: set[int] = set()
    shapes = []
    for bits in range(1 << len(links)):
        if bits not in seen:
            members = [index for index in range(len(links)) if bits >> index & 1]
            seen.update(sum(1 << renaming[index] for index in members) for renaming in renamings)
            pairs = [links[index] for index in members]
            shapes.append(frozenset((a + 1, b + 1) for x, y in pairs for a, b in ((x, y), (y, x))))
    return shapes


@pytest.mark.parametrize("leader", [1, 2, 3])
def test_three_nodes_in_every_directed_graph(leader: int) -> None:
    graphs = [graph for graph in directed_graphs_of_three() if has_connected_majority(graph, 3)]
    assert len(graphs) == 37
    for seed, graph in enumerate(graphs):
        require_stable_leader(graph, leader, 3, seed)


@pytest.mark.parametrize("leader", [1, 2, 3, 4, 5])
def test_five_nodes_in_every_shape(leader: int) -> None:
    shapes = shapes_of_five()
    assert len(shapes) == 34
    for seed, shape in enumerate(shapes):
        if has_connected_majority(shape, 5):
            require_stable_leader(shape, leader, 5, seed)


@pytest.mark.parametrize("node_count", [3, 5])
@pytest.mark.parametrize("leader", [1, 2, 3])
@pytest.mark.parametrize("victim", [1, 2, 3])
def test_one_hung_disk_stops_nobody(node_count: int, leader: int, victim: int) -> None:
    """Hazard 18: a leader that can no longer write gives way, a follower is done without."""
    simulation = cluster_led_by(leader, node_count, seed=victim)
    simulation.slow_disk(victim, factor=10**6, duration=10**9)
    run_for(simulation, 10 * TIMEOUT)
    elections, acknowledged = simulation.marks["elections"], simulation.marks["acknowledged"]
    run_for(simulation, 10 * TIMEOUT)
    assert simulation.marks["acknowledged"] > acknowledged, f"no writes: {simulation.state()}"
    assert simulation.marks["elections"] == elections, f"no peace: {simulation.state()}"
    assert simulation.nodes[victim].core.role is not Role.LEADER, simulation.state()


@pytest.mark.parametrize("leader", [1, 2, 3])
def test_disks_that_are_slow_everywhere_depose_nobody(leader: int) -> None:
    """DESIGN, "Slow disk": a sync of an election timeout and more, but the same for all."""
    simulation = cluster_led_by(leader, 3, seed=leader)
    for node_id in simulation.voters:
        simulation.slow_disk(node_id, factor=60, duration=10**9)
    elections, acknowledged = simulation.marks["elections"], simulation.marks["acknowledged"]
    run_for(simulation, 40 * TIMEOUT)
    assert simulation.marks["acknowledged"] > acknowledged, f"no writes: {simulation.state()}"
    assert simulation.marks["elections"] == elections, f"deposed: {simulation.state()}"
