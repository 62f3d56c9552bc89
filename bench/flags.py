"""Kinds of command line values that click has not."""

import math
from typing import Any

import click


class FiniteRange(click.FloatRange):
    """A number within a range; unlike click's, `nan` is none."""

    def convert(self, value: Any, parameter: click.Parameter | None, context: click.Context | None) -> float:
        number: float = super().convert(value, parameter, context)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", parameter, context)
        return number


def first_error(group: BaseExceptionGroup[Any]) -> str:
    """The text of the first error in a group: what a user needs to see of it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return str(error)
