"""Which keys a run chooses."""

import random
from collections import Counter

import pytest

from bench.keys import ZIPFIAN_EXPONENT, chooser, key_at, scattered


def test_uniform_touches_every_key_about_equally_often() -> None:
    choose = chooser("uniform", 100, random.Random(1))
    counts = Counter(choose() for _ in range(100_000))
    assert set(counts) == set(range(100))
    assert min(counts.values()) > 850
    assert max(counts.values()) < 1150


@pytest.mark.parametrize("key_space", [1000, 50_000])
def test_zipfian_frequencies_fall_with_the_rank(key_space: int) -> None:
    """The key of rank i comes with a probability proportional to 1 / i**0.99; of 50,000 keys the sum is an
    approximation."""
    draws = 200_000
    choose = chooser("zipfian", key_space, random.Random(3))
    counts = Counter(choose() for _ in range(draws))
    total = sum(rank**-ZIPFIAN_EXPONENT for rank in range(1, key_space + 1))
    shared = Counter(scattered(rank, key_space) for rank in range(key_space))
    for rank in (1, 2):
        key = scattered(rank - 1, key_space)
        expected = draws * rank**-ZIPFIAN_EXPONENT / total
        # Other ranks may lie on the same key, and rare ones add little.
        assert counts[key] == pytest.approx(expected, rel=0.1 + 0.02 * shared[key])
    ranks = key_space // 100
    hottest = sum(count for _, count in counts.most_common(ranks))
    expected = draws * sum(rank**-ZIPFIAN_EXPONENT for rank in range(1, ranks + 1)) / total
    assert hottest > 0.95 * expected


@pytest.mark.parametrize("key_space", [1, 2, 3])
def test_zipfian_works_on_tiny_key_spaces(key_space: int) -> None:
    choose = chooser("zipfian", key_space, random.Random(1))
    assert {choose() for _ in range(1000)} <= set(range(key_space))


def test_processes_part_a_sequence_among_them() -> None:
    choosers = [chooser("sequential", 10, random.Random(1), first=first, step=3) for first in range(3)]
    assert [[choose() for _ in range(4)] for choose in choosers] == [[0, 3, 6, 9], [1, 4, 7, 0], [2, 5, 8, 1]]


def test_keys_sort_as_their_numbers() -> None:
    assert key_at(9) < key_at(10) < key_at(99_999_999)
