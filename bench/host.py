"""Where a run took place: the machine, the versions, the commit. Part of every document, because figures
mean nothing without it."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

_DISTRIBUTIONS = ("raftd", "grpcio", "protobuf", "trio", "lmdb", "msgpack")


def host() -> dict[str, Any]:
    return {
        "name": platform.node(),
        "cores": len(os.sched_getaffinity(0)),
        "cpu": _first_value("/proc/cpuinfo", "model name") or platform.machine(),
        "memory_bytes": _memory_bytes(),
        "kernel": platform.release(),
        "load_average": list(os.getloadavg()),
    }


def versions() -> dict[str, str]:
    known = {"python": platform.python_version()}
    for name in _DISTRIBUTIONS:
        try:
            known[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            known[name] = "unknown"
    return known


def commit() -> str | None:
    """The commit of the checkout that this program runs from, with `+` when something is changed; None for
    an installed package."""
    root = Path(__file__).parent.parent
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"],
            capture_output=True,
            text=True,
            check=False,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None


def command_line() -> list[str]:
    return ["bench", *sys.argv[1:]]


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _first_value(path: str, key: str) -> str | None:
    try:
        for line in Path(path).read_text().splitlines():
            name, separator, rest = line.partition(":")
            if separator and name.strip() == key:
                return rest.strip()
    except OSError:
        return None
    return None
