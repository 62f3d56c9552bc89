"""What processes have used: CPU seconds and memory, and how busy the whole machine was. From /proc."""

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, slots=True)
class Usage:
    """Sums over processes, all threads and times since their start. `anonymous_bytes`: memory that is theirs
    alone; `resident_bytes` adds mapped files, of which LMDB and bbolt have their databases. The machine's
    times are over all cores."""

    cpu_s: float
    resident_bytes: int
    anonymous_bytes: int
    machine_busy_s: float
    machine_s: float


def usage(pids: Iterable[int]) -> Usage:
    """A process that is gone counts as nothing."""
    cpu_s, resident, anonymous = 0.0, 0, 0
    for pid in pids:
        try:
            # The name, in parentheses, may contain anything; utime and stime are fields 14 and 15.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            status = Path(f"/proc/{pid}/status").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        cpu_s += (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
        resident += _kilobytes(status, "VmRSS") * 1024
        anonymous += _kilobytes(status, "RssAnon") * 1024
    busy_s, all_s = _machine()
    return Usage(cpu_s, resident, anonymous, busy_s, all_s)


def _kilobytes(status: str, name: str) -> int:
    for line in status.splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1])
    return 0


def _machine() -> tuple[float, float]:
    """Seconds of all cores: at work, and in all."""
    times = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
    idle = times[3] + times[4]
    return (sum(times) - idle) / _TICKS_PER_S, sum(times) / _TICKS_PER_S
