"""Majority arithmetic."""

from collections.abc import Iterable


def majority(voters: int) -> int:
    """The least number of `voters` of which any two sets overlap."""
    return voters // 2 + 1


def reached_by_majority(values: Iterable[int]) -> int:
    """The greatest value that a majority has reached, given one value for each voter."""
    descending = sorted(values, reverse=True)
    return descending[len(descending) // 2]
