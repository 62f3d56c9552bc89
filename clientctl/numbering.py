"""The sequence numbers of one session: which are out, and below which none is (LogCabin's
`first_outstanding_rpc`).

Pure bookkeeping, used by `clientctl.session`.
"""

from collections import deque


class Numbering:
    """Gives out 1, 2, 3… and knows the lowest number whose fate the caller does not know yet.

    A number whose caller gave up counts as settled. Passing it is safe although its command may still be
    under way: the replicated session never executes a number below a `first_outstanding` it has seen, so
    once a command with a higher one has run, that command has taken effect before it or never will.
    """

    def __init__(self) -> None:
        self._next = 1
        self._out: deque[int] = deque()
        self._settled: set[int] = set()

    def __len__(self) -> int:
        """How many numbers lie between the lowest outstanding one and the last given out."""
        return len(self._out)

    @property
    def first_outstanding(self) -> int:
        """The lowest outstanding number; the next one to be given out when none is."""
        return self._out[0] if self._out else self._next

    def take(self) -> int:
        """A new number, outstanding until it is settled."""
        number = self._next
        self._next += 1
        self._out.append(number)
        return number

    def settle(self, number: int) -> None:
        """The result was seen, or nobody waits for it any more. Once per number."""
        assert number < self._next, f"number {number} was not given out; next is {self._next}"
        assert number >= self.first_outstanding, f"number {number} is below {self.first_outstanding}"
        assert number not in self._settled, f"number {number} is settled twice"
        self._settled.add(number)
        while self._out and self._out[0] in self._settled:
            self._settled.remove(self._out.popleft())
