"""The check of a store against what it told its clients: it must find every way of breaking its word."""

import pytest

from bench.history import Version, check
from bench.probe import Write


def write(number: int, revision: int | None = None, *, not_done: bool = False) -> Write:
    error = None if revision is not None else "failed"
    return Write(b"k", b"%d ..." % number, 0.0, 1.0, revision, error, not_done)


def history(*numbers_and_revisions: tuple[int, int]) -> dict[bytes, list[Version]]:
    first = numbers_and_revisions[0][1] if numbers_and_revisions else 0
    return {
        b"k": [
            Version(version, first, revision, b"%d ..." % number)
            for version, (number, revision) in enumerate(numbers_and_revisions, 1)
        ]
    }


def test_a_store_that_kept_its_word_has_no_problems() -> None:
    """Writes of one key may take effect in another order than they were sent; one of unknown outcome may be
    there or not."""
    writes = [write(0, 5), write(1, 9), write(2), write(3), write(4, not_done=True)]
    verdict = check(writes, history((0, 5), (2, 7), (1, 9)))
    assert verdict.problems == []
    counts = (verdict.acknowledged, verdict.unknown_done, verdict.unknown_not_done, verdict.refused)
    assert counts == (2, 1, 1, 1)


@pytest.mark.parametrize(
    ("writes", "there", "problem"),
    [
        ([write(0, 5), write(1, 6)], [(0, 5)], "k: write 1 was acknowledged and is lost"),
        ([write(0, 5)], [(0, 5), (0, 6)], "k: write 0 was applied 2 times"),
        ([write(0)], [(0, 5), (0, 6)], "k: write 0 was applied 2 times"),
        ([write(0, 5)], [(0, 6)], "k: write 0 is at revision 6, not at 5 as acknowledged"),
        ([write(0, not_done=True)], [(0, 5)], "k: write 0 was said to be not done and is there"),
        ([write(0, 5)], [(0, 5), (7, 6)], "k: holds a value that nobody wrote: b'7 ...'"),
        ([write(0, 5)], [], "k: write 0 was acknowledged and is lost"),
    ],
)
def test_each_broken_word_is_named(writes: list[Write], there: list[tuple[int, int]], problem: str) -> None:
    assert problem in check(writes, history(*there)).problems


def test_a_history_with_a_hole_or_two_beginnings_is_named() -> None:
    hole = {b"k": [Version(1, 5, 5, b"0 ..."), Version(3, 5, 7, b"1 ...")]}
    assert check([write(0, 5), write(1, 7)], hole).problems == ["k: the versions are not 1 to 2"]
    twice = {b"k": [Version(1, 5, 5, b"0 ..."), Version(2, 6, 7, b"1 ...")]}
    assert check([write(0, 5), write(1, 7)], twice).problems == ["k: it was created more than once"]
