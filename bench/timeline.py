"""When what happened in a change of leader: from the daemons' JSON logs and a probe's writes. Pure, but for
reading log files.

All moments are seconds since the epoch, by the clock of the one machine on which everything runs.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from bench.probe import Write

MILESTONES = ("detected", "elected", "first_commit", "table_updated", "first_success")
"""In the order in which they usually come."""


@dataclass(frozen=True, slots=True)
class Event:
    """One log line: when, whose, and what it says."""

    at: float
    process: str
    fields: Mapping[str, Any]

    @property
    def name(self) -> str:
        return str(self.fields.get("event", ""))


class LogFollower:
    """What a process's log has gained since this object was made."""

    def __init__(self, process: str, path: Path) -> None:
        self._process, self._path = process, path
        self._position = path.stat().st_size if path.exists() else 0
        self.events: list[Event] = []

    def read(self) -> None:
        """Take in what is new; an unfinished line waits for the next time."""
        with self._path.open("rb") as file:
            file.seek(self._position)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._position += len(whole) + len(newline)
        for line in whole.splitlines():
            if (event := parse(self._process, line)) is not None:
                self.events.append(event)


def parse(process: str, line: bytes) -> Event | None:
    """An event, or None for a line that is none of ours (a traceback, another program's)."""
    try:
        fields = json.loads(line)
        moment = datetime.fromisoformat(fields["timestamp"]).timestamp()
    except (ValueError, KeyError, TypeError):
        return None
    return Event(moment, process, fields)


@dataclass(frozen=True, slots=True)
class Change:
    """A change of leader. `tables`: when each proxy's table named the new one. None is what was not seen."""

    leader: str
    term: int
    detected: float | None
    elected: float
    tables: Mapping[str, float]

    @property
    def table_lag_s(self) -> float | None:
        """Until the last proxy knew."""
        return max(self.tables.values()) - self.elected if self.tables else None


def change_after(events: Iterable[Event], fault: float, old_leader: str, old_term: int) -> Change | None:
    """The last leader that was elected after the fault, and how it came to that; None while there is none.

    Several elections may be needed; the last one is the one that lasted.
    """
    ordered = sorted((event for event in events if event.at >= fault), key=lambda event: event.at)
    elected: Event | None = None
    for event in ordered:
        leads = event.name == "role changed" and event.fields.get("role") == "leader"
        if leads and int(event.fields["term"]) > old_term:
            elected = event
    if elected is None:
        return None
    term = int(elected.fields["term"])
    detected = next((event.at for event in ordered if _notices(event, old_leader)), None)
    tables: dict[str, float] = {}
    for event in ordered:
        names_it = event.name == "leader changed" and "address" in event.fields
        if names_it and event.fields.get("term") == term:
            tables.setdefault(event.process, event.at)
    return Change(elected.process, term, detected, elected.at, tables)


def _notices(event: Event, old_leader: str) -> bool:
    """Whether a node other than the old leader has begun to replace it."""
    return (
        event.process != old_leader
        and event.name == "role changed"
        and event.fields.get("role") in ("pre-candidate", "candidate", "leader")
    )


def first_success_after(writes: Iterable[Write], moment: float) -> float | None:
    """When the first write was acknowledged at or after `moment`."""
    return min(
        (write.ended for write in writes if write.acknowledged and write.ended >= moment), default=None
    )


def longest_gap(writes: Sequence[Write], since: float) -> tuple[float, float] | None:
    """The longest time without an acknowledgement that reached beyond `since`: its begin and end."""
    moments = sorted(write.ended for write in writes if write.acknowledged)
    gaps = [(begin, end) for begin, end in pairwise(moments) if end >= since]
    return max(gaps, key=lambda gap: gap[1] - gap[0], default=None)
