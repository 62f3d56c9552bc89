"""`python -m tests.simulation`: replays one seed, or runs a range of them.

python -m tests.simulation --seed 17              one history, and what it saw
python -m tests.simulation --seed 17 --script     the same, printed as a golden script
python -m tests.simulation --seeds 0:10000        a campaign; the first failure ends it
"""

import argparse
import sys
import time

from tests.simulation.campaign import STEPS, HistoryFailed, Tally, run_seed, script, trace_digest


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation")
    parser.add_argument("--seed", type=int, help="one history")
    parser.add_argument("--seeds", metavar="A:B", help="the histories A … B-1")
    parser.add_argument("--steps", type=int, default=STEPS, help="with faults, before the end phase")
    parser.add_argument("--nodes", type=int, help="instead of the number the seed would draw")
    parser.add_argument("--script", action="store_true", help="print the history as a golden script")
    parser.add_argument("--digest", action="store_true", help="print a digest of each whole history")
    parser.add_argument("--keep-going", action="store_true", help="report every failure of the range")
    arguments = parser.parse_args()
    if (arguments.seed is None) == (arguments.seeds is None):
        parser.error("give --seed or --seeds")
    return arguments


def main() -> int:
    arguments = _arguments()
    if arguments.seed is not None:
        seeds = range(arguments.seed, arguments.seed + 1)
    else:
        first, last = arguments.seeds.split(":")
        seeds = range(int(first), int(last))
    whole_journal = arguments.script or arguments.digest
    tally = Tally()
    failed = []
    started = time.monotonic()
    for seed in seeds:
        try:
            simulation = run_seed(seed, arguments.steps, arguments.nodes, whole_journal=whole_journal)
        except HistoryFailed as failure:
            failed.append(seed)
            print(str(failure).splitlines()[0] if arguments.keep_going else failure, f"(seed {seed})")
            if not arguments.keep_going:
                return 1
            continue
        tally.add(simulation)
        if arguments.script:
            print(script(simulation), end="")
        if arguments.digest:
            print(seed, trace_digest(simulation))
    elapsed = time.monotonic() - started
    seen = ", ".join(f"{mark} {count}" for mark, count in tally.counts().items())
    print(f"{seen}; {tally.steps / elapsed:.0f} steps/s", file=sys.stderr)
    if failed:
        print(f"failed: {failed}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
