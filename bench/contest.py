"""The comparison itself: which workloads, which ways to which cluster, round by round.

Every round runs each workload once on every way, one after the other, so that whatever disturbs the machine
for a while disturbs all of them.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import trio

from bench import config
from bench.connections import check_endpoints, fill
from bench.crew import generate
from bench.document import load_figures
from bench.peer_load import PeerLoad
from bench.subject import Subject, address
from bench.usage import Usage, usage
from bench.workload import Consistency, Operation, Protocol, Workload

WayName = Literal["proxy", "leader", "stock", "etcd"]


@dataclass(frozen=True, slots=True)
class Way:
    """How operations reach a cluster. `stock`: by etcd's plain calls, so a compiled client may go it too."""

    name: WayName
    title: str
    stock: bool

    @property
    def protocol(self) -> Protocol:
        return "etcd" if self.stock else "session"


WAYS = (
    Way("proxy", "raftd via proxyd", stock=False),
    Way("leader", "raftd, straight to the leader", stock=False),
    Way("stock", "raftd via proxyd, stock client", stock=True),
    Way("etcd", "etcd", stock=True),
)


@dataclass(frozen=True, slots=True)
class Task:
    """One row of the comparison."""

    operation: Operation
    consistency: Consistency
    clients: int

    @property
    def name(self) -> str:
        return f"{self.what}, {self.clients:,} client{'s' * (self.clients != 1)}"

    @property
    def what(self) -> str:
        return "put" if self.operation == "put" else f"{self.consistency} get"


PUTS = tuple(Task("put", "linearizable", clients) for clients in (1, 64, 256, 1000))


def tasks(quick: bool) -> list[Task]:
    read_clients = (64,) if quick else (1, 64, 256)
    consistencies: tuple[Consistency, ...] = ("linearizable", "serializable")
    return [*PUTS, *(Task("get", kind, clients) for kind in consistencies for clients in read_clients)]


@dataclass(slots=True)
class Contest:
    """Both clusters, running. `say` is told what is going on."""

    ours: Subject
    peer: Subject
    peer_load: PeerLoad | None
    seconds: float
    warmup_s: float
    processes: int
    say: Callable[[str], None]

    async def prepare(self) -> None:
        """Write the keys that are read later. Raises NoServer."""
        for way in (WAYS[0], WAYS[-1]):
            workload = await self._workload(way, Task("get", "linearizable", 1))
            await check_endpoints(workload)
            await fill(workload)

    async def idle(self) -> dict[str, float]:
        """What each cluster uses of one core when nobody asks it anything."""
        subjects = {"proxy": self.ours, "etcd": self.peer}
        before = {name: usage(subject.pids).cpu_s for name, subject in subjects.items()}
        await trio.sleep(config.COMPARE_IDLE_S)
        return {
            name: round((usage(subject.pids).cpu_s - before[name]) / config.COMPARE_IDLE_S, 4)
            for name, subject in subjects.items()
        }

    async def rounds(
        self, rounds: int, chosen: list[Task], runs: list[dict[str, Any]], stop: trio.Event
    ) -> None:
        """Add all runs to `runs`, in the order in which they take place; `stop` ends it after the present
        one. Raises LoadFailed, ClusterFailed."""
        for number, task, way in self._order(rounds, chosen):
            if stop.is_set():
                break
            self.say(f"round {number}/{rounds}: {task.name}: {way.title}")
            for figures in await self._run(way, task):
                runs.append(
                    {"round": number, "task": task.name, "what": task.what, "clients": task.clients}
                    | {"way": way.name, **figures}
                )

    @staticmethod
    def _order(rounds: int, chosen: list[Task]) -> Iterator[tuple[int, Task, Way]]:
        for number in range(1, rounds + 1):
            for task in chosen:
                # Nobody always comes first, or always after the same one.
                shift = number % len(WAYS)
                for way in WAYS[shift:] + WAYS[:shift]:
                    yield number, task, way

    async def _run(self, way: Way, task: Task) -> list[dict[str, Any]]:
        """With our generator, and for stock clients with the compiled one too."""
        workload = await self._workload(way, task)
        subject = self._subject(way)

        def look() -> Usage:
            return usage(subject.pids)

        await trio.sleep(config.COMPARE_PAUSE_S)
        processes = min(self.processes, task.clients)
        result = await generate(workload, processes, look=look)
        figures = load_figures(result)
        del figures["series"]
        figures["cpu_shares"] = figures.pop("generator")["cpu_shares"]
        ours = figures | _used(result.before, result.after, result.recording.completed_in_window)
        outcomes = [{"generator": "python", "limited": result.limited_by_generator, **ours}]
        if way.stock and self.peer_load is not None:
            await trio.sleep(config.COMPARE_PAUSE_S)
            before = look()
            compiled = await self.peer_load.run(workload, figures["ops_per_s"])
            outcomes.append(
                {
                    "generator": "compiled",
                    "limited": False,
                    "operations": compiled.operations,
                    "ops_per_s": round(compiled.ops_per_s, 3),
                    "latency_ms": compiled.latency_ms,
                    "errors": compiled.errors,
                    **_used(before, look(), compiled.operations),
                }
            )
        return outcomes

    def _subject(self, way: Way) -> Subject:
        return self.peer if way.name == "etcd" else self.ours

    async def _workload(self, way: Way, task: Task) -> Workload:
        subject = self._subject(way)
        endpoints = subject.endpoints
        if way.name == "leader" or (way.name == "etcd" and task.operation == "put"):
            # A follower would have to pass each write on: etcd gets its better way.
            leader = await subject.until_steady(config.FAILOVER_STEADY_S, config.FAILOVER_ENTRIES_BEHIND)
            endpoints = (address(subject.record.node(leader)),)
        processes = min(self.processes, task.clients)
        connections = processes
        if way.stock:
            connections = min(task.clients, max(processes, config.COMPARE_CONNECTIONS_MAX))
        return Workload(
            task.operation,
            endpoints,
            protocol=way.protocol,
            clients=task.clients,
            connections=connections,
            seconds=self.seconds,
            value_size=config.COMPARE_VALUE_BYTES,
            key_space=config.COMPARE_KEY_SPACE,
            consistency=task.consistency,
            warmup_s=self.warmup_s,
            timeout_s=config.OPERATION_TIMEOUT_S,
        )


def _used(before: Usage, after: Usage, operations: int) -> dict[str, Any]:
    cpu_s = after.cpu_s - before.cpu_s
    machine_s = after.machine_s - before.machine_s
    return {
        "cpu_s_per_1000": round(1000 * cpu_s / operations, 6) if operations else None,
        "resident_bytes": after.resident_bytes,
        "anonymous_bytes": after.anonymous_bytes,
        "machine_busy": round((after.machine_busy_s - before.machine_busy_s) / machine_s, 3)
        if machine_s
        else None,
    }


def titles() -> Mapping[str, str]:
    return {way.name: way.title for way in WAYS}
