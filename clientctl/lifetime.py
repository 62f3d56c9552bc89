"""Whether a client is in use: made, entered, closed, each once.

Who comes too early or too late is told at once, and does not wait for tasks that do not run.
"""

from typing import Final

import trio

CLOSED: Final = "the client is closed"


class Lifetime:
    """Of one client."""

    def __init__(self) -> None:
        self._entered = self._closed = False

    def begin(self) -> None:
        """Raises RuntimeError the second time."""
        if self._entered:
            raise RuntimeError("a client is entered once: make another one")
        self._entered = True

    def end(self) -> None:
        self._closed = True

    def check(self) -> None:
        """Raises RuntimeError before the beginning and `trio.ClosedResourceError` after the end."""
        if not self._entered:
            raise RuntimeError("the client is not entered: use it within `async with Client(…) as client:`")
        if self._closed:
            raise trio.ClosedResourceError(CLOSED)
