"""Percentiles against distributions whose percentiles are known."""

import math
import random

import pytest

from bench.statistics import median, percentile, percentile_curve_ns, summarize_ns


def test_a_percentile_is_a_sample_and_never_between_two() -> None:
    ordered = [10, 20, 30, 40]
    assert [percentile(ordered, share) for share in (0.25, 0.26, 0.5, 0.75, 0.99, 1.0)] == [
        10,
        20,
        20,
        30,
        40,
        40,
    ]


def test_the_share_means_at_most_so_many_samples_lie_above() -> None:
    """Of 1 to 10,000 the percentile is p hundredths of them, exactly, whatever floats do to 0.9 * 10000."""
    ordered = list(range(1, 10_001))
    for share in (0.5, 0.9, 0.99, 0.999, 0.9999):
        assert percentile(ordered, share) == round(share * 10_000)


def test_exponential_samples_have_the_percentiles_of_the_distribution() -> None:
    """Of mean 1 ms: the percentile of share p is -ln(1 - p)."""
    source = random.Random(7)
    samples = [int(source.expovariate(1.0) * 1e6) for _ in range(200_000)]
    summary = summarize_ns(samples)
    for name, share in (("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p999", 0.999)):
        assert summary[name] == pytest.approx(-math.log(1 - share), rel=0.05)
    assert summary["mean"] == pytest.approx(1.0, rel=0.02)
    assert summary["max"] == max(samples) / 1e6


def test_one_sample_is_every_percentile_and_none_is_none() -> None:
    assert set(summarize_ns([3_000_000]).values()) == {3.0}
    assert set(summarize_ns([]).values()) == {None}


def test_a_curve_rises_and_ends_at_the_maximum() -> None:
    samples = random.Random(1).sample(range(1_000_000), 5000)
    curve = percentile_curve_ns(samples)
    assert curve == sorted(curve)
    assert curve[-1] == (1.0, max(samples) / 1e6)
    # No point claims more than the samples can tell.
    assert 1 / (1 - curve[-2][0]) <= 5000
    assert percentile_curve_ns([]) == []


def test_the_median_of_an_even_number_lies_in_the_middle() -> None:
    assert median([9, 1, 5]) == 5
    assert median([1, 2, 4, 9]) == 3
