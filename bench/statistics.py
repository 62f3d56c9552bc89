"""Percentiles, medians and spreads of exact samples. Pure.

A percentile is a sample, never an interpolation: the smallest one that is not exceeded by the asked share of
all samples (nearest rank).
"""

import math
from collections.abc import Sequence

PERCENTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999), ("p9999", 0.9999))
"""Name in documents and share of the samples."""


def percentile(ordered: Sequence[float], share: float) -> float:
    """`ordered` is ascending and not empty; `share` lies in (0, 1]."""
    assert ordered
    assert 0 < share <= 1
    # 0.9 * 10 is 9.000000000000002 where the rank meant is 9.
    rank = math.ceil(round(share * len(ordered), 6))
    return ordered[max(rank, 1) - 1]


def summarize_ns(samples: Sequence[int]) -> dict[str, float | None]:
    """Percentiles, mean and maximum in milliseconds of samples in nanoseconds; all None without samples."""
    if not samples:
        return dict.fromkeys([*(name for name, _ in PERCENTILES), "mean", "max"])
    ordered = sorted(samples)
    summary: dict[str, float | None] = {
        name: milliseconds(percentile(ordered, share)) for name, share in PERCENTILES
    }
    return summary | {"mean": milliseconds(sum(ordered) / len(ordered)), "max": milliseconds(ordered[-1])}


def percentile_curve_ns(samples: Sequence[int]) -> list[tuple[float, float]]:
    """Pairs of share and milliseconds, three for each halving of the rest, as far as the samples go."""
    ordered = sorted(samples)
    curve = []
    rest = 1.0
    while ordered and rest * len(ordered) >= 1:
        share = 1 - rest
        curve.append((share, milliseconds(percentile(ordered, max(share, 1 / len(ordered))))))
        rest /= 2 ** (1 / 3)
    if ordered:
        curve.append((1.0, milliseconds(ordered[-1])))
    return curve


def milliseconds(nanoseconds: float) -> float:
    return round(nanoseconds / 1e6, 6)


def median(values: Sequence[float]) -> float:
    """The middle one, or the mean of the two in the middle; not of nothing."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2
