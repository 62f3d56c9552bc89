"""What a run measured: one exact sample per operation, and failures by their text.

Each generator process fills a `Recorder`; the parent merges their `Recording`s. Two times are kept for an
operation, because they answer different questions. *Service time*: from the moment it was really sent to its
answer. *Response time*: from the moment it should have been sent, so that a stall of the server counts for
everything that it held up (no coordinated omission). In a closed loop both are the same.
"""

import base64
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from bench.config import ERROR_TEXTS_MAX, OTHER_ERRORS
from bench.statistics import milliseconds, percentile

READ, WRITE, EVENT = 0, 1, 2
KIND_NAMES = {READ: "get", WRITE: "put", EVENT: "event"}

_NS = 1_000_000_000


@dataclass(slots=True)
class Recording:
    """The samples of a run, in nanoseconds; operation i is at index i of each array.

    `ended` counts from the begin of the measured window. `queued` is empty in a closed loop, else how long
    an operation was sent after its time. `failed` holds when each failure was met. `unsent`: operations whose
    time came within the window, but which were still waiting for a free client at its end. `in_flight`: those
    cut off by an early end. `window_s`: how long the measured window was.
    """

    kinds: bytearray = field(default_factory=bytearray)
    ended: "array[int]" = field(default_factory=lambda: array("q"))
    service: "array[int]" = field(default_factory=lambda: array("q"))
    queued: "array[int]" = field(default_factory=lambda: array("q"))
    failed: "array[int]" = field(default_factory=lambda: array("q"))
    errors: Counter[str] = field(default_factory=Counter)
    unsent: int = 0
    in_flight: int = 0
    window_s: float = 0.0

    def __len__(self) -> int:
        return len(self.service)

    @property
    def response(self) -> "array[int]":
        if not self.queued:
            return self.service
        return array("q", map(int.__add__, self.service, self.queued))

    def response_of(self, kind: int) -> "array[int]":
        """The response times of reads or of writes alone."""
        return array("q", (ns for ns, its in zip(self.response, self.kinds, strict=True) if its == kind))

    @property
    def completed_in_window(self) -> int:
        end = int(self.window_s * _NS)
        return sum(1 for ns in self.ended if ns < end)

    def longest_gap_s(self) -> float:
        """The longest time within the window in which nothing was completed, its begin and end included."""
        end = int(self.window_s * _NS)
        moments = [0, *sorted(ns for ns in self.ended if ns < end), end]
        return max(later - earlier for earlier, later in pairwise(moments)) / _NS

    def series(self) -> list[dict[str, Any]]:
        """Second by second: what was completed in it, its response times, and the failures."""
        seconds: list[list[int]] = [[] for _ in range(max(1, int(-(-self.window_s // 1))))]
        for ended, response in zip(self.ended, self.response, strict=True):
            if (second := ended // _NS) < len(seconds):
                seconds[second].append(response)
        failures = Counter(min(ns // _NS, len(seconds) - 1) for ns in self.failed)
        points = []
        for second, samples in enumerate(seconds):
            samples.sort()
            point: dict[str, Any] = {"second": second, "operations": len(samples), "errors": failures[second]}
            for name, share in (("p50", 0.5), ("p99", 0.99)):
                point[f"{name}_ms"] = milliseconds(percentile(samples, share)) if samples else None
            points.append(point)
        return points

    def add(self, other: "Recording") -> None:
        """Take over the samples of another process. Windows begin together; the longest counts."""
        assert bool(self.queued) == bool(other.queued) or not self.service or not other.service
        self.kinds += other.kinds
        for mine, its in (
            (self.ended, other.ended),
            (self.service, other.service),
            (self.queued, other.queued),
            (self.failed, other.failed),
        ):
            mine.extend(its)
        for text, count in other.errors.items():
            count_error(self.errors, text, count)
        self.unsent += other.unsent
        self.in_flight += other.in_flight
        self.window_s = max(self.window_s, other.window_s)

    def to_json(self) -> dict[str, Any]:
        return {
            "kinds": base64.b85encode(self.kinds).decode(),
            **{
                name: base64.b85encode(getattr(self, name).tobytes()).decode()
                for name in ("ended", "service", "queued", "failed")
            },
            "errors": dict(self.errors),
            "unsent": self.unsent,
            "in_flight": self.in_flight,
            "window_s": self.window_s,
        }

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Recording":
        def samples(name: str) -> "array[int]":
            return array("q", base64.b85decode(document[name]))

        return cls(
            kinds=bytearray(base64.b85decode(document["kinds"])),
            ended=samples("ended"),
            service=samples("service"),
            queued=samples("queued"),
            failed=samples("failed"),
            errors=Counter(document["errors"]),
            unsent=document["unsent"],
            in_flight=document["in_flight"],
            window_s=document["window_s"],
        )


@dataclass(frozen=True, slots=True)
class Interval:
    """What happened since the last look, for a progress line."""

    operations: int
    errors: int
    p99_ms: float | None


class Recorder:
    """Takes the times of operations as they end. Times are seconds on one clock; `begin` is when the measured
    window opens, and what was due before (the warm-up) is dropped."""

    def __init__(self, begin: float, *, open_loop: bool) -> None:
        self.begin = begin
        self.recording = Recording()
        self._open_loop = open_loop
        self._recent: list[int] = []
        self._recent_errors = 0

    def done(self, kind: int, due: float, sent: float, ended: float) -> None:
        """An operation that should have been sent at `due` (in a closed loop: `sent`) succeeded."""
        service = int((ended - sent) * 1e9)
        self._recent.append(service)
        if due < self.begin:
            return
        recording = self.recording
        recording.kinds.append(kind)
        recording.ended.append(int((ended - self.begin) * 1e9))
        recording.service.append(service)
        if self._open_loop:
            recording.queued.append(int((sent - due) * 1e9))

    def failed(self, due: float, ended: float, text: str) -> None:
        self._recent_errors += 1
        if due >= self.begin:
            self.recording.failed.append(int((ended - self.begin) * 1e9))
            count_error(self.recording.errors, text, 1)

    def take_interval(self) -> Interval:
        recent, self._recent = sorted(self._recent), []
        errors, self._recent_errors = self._recent_errors, 0
        return Interval(len(recent), errors, milliseconds(percentile(recent, 0.99)) if recent else None)


def count_error(errors: Counter[str], text: str, count: int) -> None:
    """Count a failure under its text, and under a common one when there are too many texts."""
    known = text in errors or len(errors) < ERROR_TEXTS_MAX
    errors[text if known else OTHER_ERRORS] += count


def merged(recordings: Iterable[Recording]) -> Recording:
    whole = Recording()
    for recording in recordings:
        whole.add(recording)
    return whole
