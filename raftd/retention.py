"""How much history is to be kept: what `--auto-compaction-mode` and `--auto-compaction-retention` ask for.

Without a clock: the time is handed in. `raftd.compactor` asks on every node and acts where it leads, so that
a new leader knows as much as the old one.
"""

import re
from collections import deque
from typing import Final, Protocol

REVISION_CHECK_S: Final = 300.0
"""etcd's interval in mode `revision`."""
SAMPLES_PER_PERIOD: Final = 10
"""In mode `periodic`, as in etcd: so exact is what is kept."""
SAMPLE_MIN_S: Final = 0.1
HOUR_S: Final = 3600.0

_UNITS_S: Final = {"h": HOUR_S, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION: Final = re.compile(r"(?:\d+(?:\.\d+)?(?:h|ms|m|s))+")
_PART: Final = re.compile(r"(\d+(?:\.\d+)?)(h|ms|m|s)")


class Retention(Protocol):
    interval_s: float
    """How often to ask."""

    def target(self, now_s: float, revision: int) -> int:
        """The revision to compact at, given the current one; 0: none."""


class KeepRevisions:
    """The newest `count` revisions."""

    interval_s = REVISION_CHECK_S

    def __init__(self, count: int) -> None:
        self._count = count

    def target(self, now_s: float, revision: int) -> int:
        return max(0, revision - self._count)


class KeepPeriod:
    """The revisions of the last `period_s` seconds, or a little more."""

    def __init__(self, period_s: float) -> None:
        self.interval_s = max(period_s / SAMPLES_PER_PERIOD, SAMPLE_MIN_S)
        self._period_s = period_s
        self._samples: deque[tuple[float, int]] = deque()
        self._reached = 0

    def target(self, now_s: float, revision: int) -> int:
        self._samples.append((now_s, revision))
        # A timer may fire early by the last bits of its float.
        while self._samples and self._samples[0][0] <= now_s - self._period_s + 1e-6:
            _, self._reached = self._samples.popleft()
        return self._reached


def retention(mode: str, value: str) -> Retention | None:
    """None: nothing is compacted by itself. Raises ValueError saying what is wanted."""
    if mode == "revision":
        if not value.isdecimal() or not value.isascii():
            raise ValueError("a number of revisions, as --auto-compaction-mode is revision")
        return KeepRevisions(int(value)) if int(value) else None
    if value.isdecimal() and value.isascii():
        period_s = int(value) * HOUR_S
    elif _DURATION.fullmatch(value):
        period_s = sum(float(number) * _UNITS_S[unit] for number, unit in _PART.findall(value))
    else:
        raise ValueError("hours, or a duration such as 90m or 1h30m")
    return KeepPeriod(period_s) if period_s else None
