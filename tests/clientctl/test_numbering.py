"""`Numbering`: which numbers are out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clientctl.numbering import Numbering


def test_first_outstanding_waits_for_the_lowest() -> None:
    numbering = Numbering()
    assert [numbering.take() for _ in range(3)] == [1, 2, 3]
    numbering.settle(2)
    assert (numbering.first_outstanding, len(numbering)) == (1, 3)
    numbering.settle(1)
    assert (numbering.first_outstanding, len(numbering)) == (3, 1)
    numbering.settle(3)
    assert (numbering.first_outstanding, len(numbering)) == (4, 0)


@pytest.mark.parametrize("number", [2, 0])
def test_numbers_not_out_cannot_be_settled(number: int) -> None:
    numbering = Numbering()
    numbering.take()
    with pytest.raises(AssertionError, match=f"number {number}"):
        numbering.settle(number)


def test_settling_twice_is_a_bug() -> None:
    numbering = Numbering()
    numbering.take()
    numbering.take()
    numbering.settle(2)
    with pytest.raises(AssertionError, match="twice"):
        numbering.settle(2)


@given(st.lists(st.integers(0, 5)))
def test_is_the_minimum_of_what_is_out(choices: list[int]) -> None:
    numbering, out, highest = Numbering(), set[int](), 0
    for choice in choices:
        if choice == 0 or not out:
            highest = numbering.take()
            out.add(highest)
        else:
            number = sorted(out)[choice % len(out)]
            out.remove(number)
            numbering.settle(number)
        assert numbering.first_outstanding == min(out, default=highest + 1)
