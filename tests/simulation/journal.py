"""What happened, in the syntax of the golden scripts: the last steps for a report, or all for a replay.

An event is kept as a tuple and put into words only when somebody asks: a history has thousands.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any

from raftd.core.messages import Message
from tests.simulation.notation import envelope_text

Event = tuple[Any, ...]
"""(command, node id or 0, operands…)."""


class Journal:
    def __init__(self, length_max: int | None) -> None:
        """`length_max` None keeps everything."""
        self._events: deque[Event] = deque(maxlen=length_max)
        self.record = self._events.append

    def lines(self) -> Iterator[str]:
        """One script command for each event; a delivery is explained by a comment."""
        for event in self._events:
            command, node_id, *operands = event
            if command == "deliver":
                number, sender, message = operands
                yield f"# {_delivery_text(number, sender, node_id, message)}"
                yield f"> deliver m{number}"
            else:
                words = [command, f"n{node_id}", *map(_operand_text, operands)]
                yield "> " + " ".join(word for word in words if word)


def _delivery_text(number: int, sender: int, to: int, message: Message) -> str:
    return envelope_text(number, sender, to, message)


def _operand_text(operand: Any) -> str:
    if isinstance(operand, bytes):
        return operand.decode("ascii")
    return "" if operand is None else str(operand)
