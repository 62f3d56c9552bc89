"""Thousands of simulated histories, their repeatability, and broken cores that they must catch.

Covers hazards 1–8, 12–14, 16–18, 20–29, 32, 35–37, 39 and 84 in the core; each history checks the five safety
properties of the paper after every step and liveness at its end.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.scripts.runner import Script
from tests.simulation.campaign import STEPS, HistoryFailed, run_seed, run_seeds, script
from tests.simulation.mutants import MUTANTS, Mutant, TakesAHeartbeatReplyForAMatch

CHUNKS = 8
SEEDS_PER_CHUNK = 256
ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_histories(chunk: int, record_property: Callable[[str, object], None]) -> None:
    """At least 2,000 seeds of at least 1,000 steps in all; each chunk sees every kind of fault (T1, T11)."""
    first_seed = chunk * SEEDS_PER_CHUNK
    tally = run_seeds(range(first_seed, first_seed + SEEDS_PER_CHUNK))
    record_property("simulation", tally.counts())
    assert tally.histories == SEEDS_PER_CHUNK
    assert tally.steps >= SEEDS_PER_CHUNK * STEPS
    assert not tally.missing(), "these never occurred, so they were not tested"


def test_same_seed_same_history() -> None:
    """One seed, one history, whatever order Python's hashes give to sets (hazard 33)."""
    digests = []
    for hash_seed in ("0", "1", "4242"):
        command = [sys.executable, "-m", "tests.simulation", "--seeds", "0:12", "--digest"]
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done = subprocess.run(
            command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True, timeout=120
        )
        digests.append(done.stdout)
    assert len(digests[0].splitlines()) == 12
    assert digests[0] == digests[1] == digests[2]


def test_other_seed_other_history() -> None:
    assert run_seed(1, 200).trace_hash != run_seed(2, 200).trace_hash


@pytest.mark.parametrize("seed", range(4))
def test_a_history_replays_as_a_script(seed: int) -> None:
    """What a failure prints can become a golden script: carried out again, it leads to the same state."""
    simulation = run_seed(seed, 300, whole_journal=True)
    replay = Script()
    replay.run(script(simulation))
    assert replay.state() == simulation.state()


def test_a_failure_says_how_to_replay_it() -> None:
    """Its seed, and its last steps as commands of a script."""
    with pytest.raises(HistoryFailed) as failure:
        run_seed(10_000, make_raft=TakesAHeartbeatReplyForAMatch)
    lines = str(failure.value).splitlines()
    assert lines[0].startswith("Violation: Match: ")
    assert any("python -m tests.simulation --seed 10000 " in line for line in lines)
    assert lines[-1].startswith("> ")


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.__name__)
def test_a_broken_core_is_caught(mutant: type[Mutant]) -> None:
    """Each mutant re-introduces one bug of hazards.md; the simulation must not pass it (T10)."""
    for seed in range(10_000, 10_000 + mutant.seeds_max):
        try:
            run_seed(seed, make_raft=mutant, focus=mutant.focus)
        except HistoryFailed:
            return
    pytest.fail(f"{mutant.__name__} survived {mutant.seeds_max} seeds")
