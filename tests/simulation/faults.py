"""Which faults a history has, and how often: swarm testing, each seed has its own mix of few or many kinds.

Times are in units of a hundredth of a tick, so that messages and syncs fall between ticks.
"""

from dataclasses import dataclass
from random import Random

TICK = 100

FAULTS = (
    "crash one",
    "crash leader",
    "crash majority",
    "crash all",
    "isolate one",
    "isolate leader",
    "depose leader",
    "split halves",
    "one-way cut",
    "bridge",
    "chain",
    "break stream",
    "slow disk",
    "pause",
    "transfer",
    "flapping link",
)


@dataclass(frozen=True, slots=True)
class Mix:
    """The character of one history. Chances are per event, times in units, sizes in bytes."""

    node_count: int
    bootstrapped: bool
    heartbeat_ticks: int
    election_timeout_ticks: int
    max_append_bytes: int
    max_inflight_appends: int
    max_uncommitted_bytes: int
    log_cache_bytes: int
    delay_min: int
    delay_max: int
    ordered_links: bool
    cut_hits_under_way: bool
    loss: float
    duplication: float
    stragglers: float
    sync_min: int
    sync_max: int
    apply_delay: int
    lazy_turns: float
    single_ticks: bool
    ticks_first: bool
    max_pending_reads: int
    client_gap: int
    burst_max: int
    read_share: float
    fault_gap: int
    repair_after: int
    faults: tuple[str, ...]


def draw(random: Random, node_count: int | None = None) -> Mix:
    """A mix for one history; about one in ten has no faults of its own but the network's."""
    chance = random.random
    count = node_count or random.choices((1, 2, 3, 4, 5), (1, 2, 60, 4, 33))[0]
    election_timeout_ticks = random.choice((10, 20, 40, 60))
    timeout = election_timeout_ticks * TICK
    enabled = tuple(fault for fault in FAULTS if chance() < 0.35) if chance() < 0.9 else ()
    slow_network = chance() < 0.15
    return Mix(
        node_count=count,
        bootstrapped=chance() < 0.8,
        heartbeat_ticks=max(2, election_timeout_ticks // 6),
        election_timeout_ticks=election_timeout_ticks,
        max_append_bytes=random.choice((1, 16, 64, 4096)),
        max_inflight_appends=random.choice((1, 2, 4, 16)),
        max_uncommitted_bytes=random.choice((40, 400, 100_000)),
        log_cache_bytes=random.choice((0, 20, 100, 100_000)),
        delay_min=random.choice((2, 20)),
        delay_max=timeout // 3 if slow_network else random.choice((40, 120, 300)),
        ordered_links=chance() < 0.4,
        cut_hits_under_way=chance() < 0.5,
        loss=random.choice((0.0, 0.0, 0.01, 0.05, 0.2)),
        duplication=random.choice((0.0, 0.0, 0.02, 0.2)),
        stragglers=random.choice((0.0, 0.0, 0.02, 0.1)),
        sync_min=random.choice((5, 30)),
        sync_max=random.choice((40, 100, 400)),
        apply_delay=random.choice((0, 0, 20, 200)),
        lazy_turns=random.choice((0.0, 0.0, 0.1, 0.5)),
        single_ticks=chance() < 0.1,
        max_pending_reads=random.choice((2, 1000, 1000)),
        ticks_first=chance() < 0.5,
        client_gap=random.choice((80, 250, 800)),
        burst_max=random.choice((1, 1, 3, 12)),
        read_share=random.choice((0.1, 0.4, 0.8)),
        fault_gap=int(timeout * random.choice((0.7, 1.5, 4.0))),
        repair_after=int(timeout * random.choice((0.5, 2.0, 5.0))),
        faults=enabled,
    )
