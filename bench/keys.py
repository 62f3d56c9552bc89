"""Which key comes next: uniform, zipfian or in sequence over a key space. No I/O.

The generators draw from it; `fill` writes the same keys before a run that reads.
"""

import math
import random
from collections.abc import Callable

from bench.workload import Distribution

KEY_PREFIX = b"bench/key"

ZIPFIAN_EXPONENT = 0.99
"""YCSB's: with 10,000 keys the hottest one takes a tenth of all operations."""

_EXACT_TERMS = 10_000
_SCATTER = 0x9E3779B97F4A7C15  # odd, so that multiplying by it permutes the numbers below 2**64


def key_at(index: int) -> bytes:
    return b"%b%010d" % (KEY_PREFIX, index)


def chooser(
    distribution: Distribution, key_space: int, source: random.Random, *, first: int = 0, step: int = 1
) -> Callable[[], int]:
    """A function that returns the index of the next key, in [0, key_space).

    `first` and `step` part a sequence among processes: each takes every `step`-th key from its `first` on.
    """
    if distribution == "uniform":
        return lambda: int(source.random() * key_space)
    if distribution == "zipfian":
        return _zipfian(key_space, source)
    position = first - step

    def following() -> int:
        nonlocal position
        position += step
        return position % key_space

    return following


def _zipfian(key_space: int, source: random.Random) -> Callable[[], int]:
    """Gray et al., "Quickly Generating Billion-Record Synthetic Databases" (1994), section 3.2, as in YCSB;
    the ranks are scattered, so that hot keys do not lie side by side."""
    theta = ZIPFIAN_EXPONENT
    zeta = _zeta(key_space, theta)
    alpha = 1 / (1 - theta)
    second = 1 + 0.5**theta
    eta = (1 - (2 / key_space) ** (1 - theta)) / (1 - second / zeta) if key_space > 2 else 0.0

    def draw() -> int:
        drawn = source.random()
        scaled = drawn * zeta
        if scaled < 1:
            rank = 0
        elif scaled < second or key_space <= 2:
            rank = min(1, key_space - 1)
        else:
            rank = min(int(key_space * (eta * drawn - eta + 1) ** alpha), key_space - 1)
        return scattered(rank, key_space)

    return draw


def scattered(rank: int, key_space: int) -> int:
    """Where the key of a rank lies. Several ranks may share a key, as in YCSB's scrambled zipfian."""
    return ((rank * _SCATTER) & 0xFFFFFFFFFFFFFFFF) * key_space >> 64


def _zeta(terms: int, theta: float) -> float:
    """The sum of i**-theta for i up to `terms`; beyond some thousands of terms by the integral."""
    exact = min(terms, _EXACT_TERMS)
    total = math.fsum(i**-theta for i in range(1, exact + 1))
    if terms > exact:
        total += ((terms + 0.5) ** (1 - theta) - (exact + 0.5) ** (1 - theta)) / (1 - theta)
    return total
