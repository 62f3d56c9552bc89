"""Load generators that are not ours: a command that speaks etcd's protocol, and its figures read.

Two kinds are known, told apart by the command's name: etcd's own `benchmark`, which prints text, and any
other, which takes the flags of etcdload (-endpoints -op -clients -seconds -size -keys) and prints a line of
JSON.
"""

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trio

from bench.config import PEER_LOAD_GRACE_S, PEER_LOAD_TOTAL_MIN
from bench.crew import LoadFailed
from bench.keys import key_at
from bench.workload import Workload


@dataclass(frozen=True, slots=True)
class PeerFigures:
    """Latencies in milliseconds; None where the generator does not say."""

    operations: int
    ops_per_s: float
    latency_ms: dict[str, float | None]
    errors: dict[str, int]


class PeerLoad:
    """`command` may have arguments of its own. Raises LoadFailed if there is no such program."""

    def __init__(self, command: str) -> None:
        self._argv = shlex.split(command)
        if not self._argv or shutil.which(self._argv[0]) is None:
            raise LoadFailed(f"--peer-load: no program {self._argv[0] if self._argv else repr(command)}")
        self._is_benchmark = Path(self._argv[0]).name.startswith("benchmark")

    async def run(self, workload: Workload, expected_ops_per_s: float) -> PeerFigures:
        """Carry out `workload`. `expected_ops_per_s` is for generators that take a number of operations and
        not a time. Raises LoadFailed."""
        assert workload.seconds is not None
        if self._is_benchmark:
            total = max(PEER_LOAD_TOTAL_MIN, int(expected_ops_per_s * workload.seconds))
            return parse_benchmark(
                await self._output(_benchmark_arguments(workload, total), workload.seconds)
            )
        return parse_etcdload(await self._output(_etcdload_arguments(workload), workload.seconds))

    async def _output(self, arguments: Sequence[str], seconds: float) -> str:
        argv = [*self._argv, *arguments]
        with trio.move_on_after(seconds + PEER_LOAD_GRACE_S):
            try:
                done = await trio.run_process(
                    argv, capture_stdout=True, capture_stderr=True, check=False, stdin=subprocess.DEVNULL
                )
            except OSError as error:
                raise LoadFailed(f"cannot start {argv[0]}: {error}") from None
            if done.returncode != 0:
                said = done.stderr.decode(errors="replace").strip().splitlines()
                raise LoadFailed(f"`{shlex.join(argv)}` failed: {said[-1] if said else done.returncode}")
            return done.stdout.decode(errors="replace")
        raise LoadFailed(f"`{shlex.join(argv)}` did not end")


def _etcdload_arguments(workload: Workload) -> list[str]:
    read = "sget" if workload.consistency == "serializable" else "get"
    return [
        *("-endpoints", ",".join(workload.endpoints)),
        *("-op", "put" if workload.operation == "put" else read),
        *("-clients", str(workload.clients)),
        *("-seconds", str(workload.seconds)),
        *("-size", str(workload.value_size)),
        *("-keys", str(workload.key_space)),
        *("-timeout", f"{workload.timeout_s:g}s"),
    ]


def _benchmark_arguments(workload: Workload, total: int) -> list[str]:
    connections = min(workload.clients, 100)
    common = [
        f"--endpoints={','.join(workload.endpoints)}",
        f"--conns={max(connections, 1)}",
        f"--clients={workload.clients}",
    ]
    if workload.operation == "put":
        return [
            *common,
            "put",
            f"--total={total}",
            f"--key-size={len(key_at(0))}",
            f"--val-size={workload.value_size}",
            f"--key-space-size={workload.key_space}",
        ]
    consistency = "s" if workload.consistency == "serializable" else "l"
    return [*common, "range", key_at(0).decode(), f"--total={total}", f"--consistency={consistency}"]


def parse_etcdload(output: str) -> PeerFigures:
    """One line of JSON. Raises LoadFailed."""
    try:
        document: dict[str, Any] = json.loads(output.strip().splitlines()[-1])
        latency: dict[str, float | None] = {
            name: document.get(f"{name}_ms") for name in ("p50", "p90", "p99", "p999", "max")
        }
        return PeerFigures(
            int(document["ops"]), float(document["ops_per_s"]), latency, dict(document.get("errors", {}))
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
        raise LoadFailed(f"--peer-load printed no line of JSON as etcdload does: {error!r}") from None


def parse_benchmark(output: str) -> PeerFigures:
    """The summary of etcd's benchmark tool. Raises LoadFailed."""
    rate = re.search(r"Requests/sec:\s*([\d.]+)", output)
    took = re.search(r"Total:\s*([\d.]+) secs", output)
    if rate is None or took is None:
        raise LoadFailed("--peer-load printed no summary as etcd's benchmark does")
    latency: dict[str, float | None] = dict.fromkeys(("p50", "p90", "p99", "p999", "max"))
    for percent, seconds in re.findall(r"([\d.]+)% in ([\d.]+) secs", output):
        name = "p" + percent.replace(".", "")
        if name in latency:
            latency[name] = float(seconds) * 1000
    if slowest := re.search(r"Slowest:\s*([\d.]+) secs", output):
        latency["max"] = float(slowest[1]) * 1000
    errors = {
        text.strip(): int(count)
        for count, text in re.findall(
            r"^\s*\[(\d+)\]\s+(.+)$", output.partition("Error distribution:")[2], re.M
        )
    }
    return PeerFigures(round(float(rate[1]) * float(took[1])), float(rate[1]), latency, errors)
