"""How a run is going: one line that is redrawn on a terminal, a line now and then otherwise. To stderr."""

import sys
import time
from typing import TextIO

from bench.config import PLAIN_PROGRESS_INTERVAL_S, PROGRESS_INTERVAL_S
from bench.recorder import Interval


class Progress:
    """Fed with what each generator process did; `seconds` or `total` says how far there is to go."""

    def __init__(
        self,
        what: str,
        *,
        seconds: float | None = None,
        total: int | None = None,
        stream: TextIO | None = None,
    ) -> None:
        self._what = what
        self._seconds, self._total = seconds, total
        self._stream = stream or sys.stderr
        self._redraws = self._stream.isatty()
        self._every_s = PROGRESS_INTERVAL_S if self._redraws else PLAIN_PROGRESS_INTERVAL_S
        self._begin = self._shown_at = time.monotonic()
        self._operations = self._errors = 0
        self._all_operations = self._all_errors = 0
        self._p99_ms = 0.0

    def take(self, interval: Interval) -> None:
        self._operations += interval.operations
        self._errors += interval.errors
        self._all_operations += interval.operations
        self._all_errors += interval.errors
        self._p99_ms = max(self._p99_ms, interval.p99_ms or 0.0)
        now = time.monotonic()
        if now - self._shown_at >= self._every_s:
            self._show(now)

    def _show(self, now: float) -> None:
        rate = self._operations / (now - self._shown_at)
        line = (
            f"{self._what}: {rate:,.0f} ops/s, p99 {self._p99_ms:.1f} ms, "
            f"{self._all_errors} errors{self._left(now, rate)}"
        )
        self._stream.write(f"\r{line}\x1b[K" if self._redraws else f"{line}\n")
        self._stream.flush()
        self._operations = self._errors = 0
        self._p99_ms = 0.0
        self._shown_at = now

    def _left(self, now: float, rate: float) -> str:
        if self._seconds is not None:
            return f", {max(0.0, self._seconds - (now - self._begin)):.0f} s left"
        if self._total is not None and rate:
            return f", {max(0.0, (self._total - self._all_operations) / rate):.0f} s left"
        return ""

    def close(self) -> None:
        """Leave an empty line behind for what is printed next."""
        if self._redraws:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
