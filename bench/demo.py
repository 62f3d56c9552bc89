"""`bench demo`: what this store does, shown on a real cluster on this machine in about half a minute.

Three nodes and a proxy on loopback; put and get by the command line; writers that go on while the leader
is killed; the node back and caught up; every acknowledged put looked for; what was measured. All of it is
real processes, started and ended here.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import click
import trio

from bench import process
from bench.flags import first_error
from bench.records import ClusterRecord, NodeRecord, read_record, record_path, replace_pid
from bench.serving import until_leader_known
from clientctl.client import Client
from clientctl.errors import KeyValueError
from proto.rpc_pb2 import StatusResponse

START_BOUND_S = 90.0
STEP_BOUND_S = 60.0
WRITERS = 8
MEASURE_S = 2.0
CLIENTS = (1, 64)
INTERRUPTED = 130
VALUE = b"v" * 256


class DemonstrationFailed(Exception):
    """One line for the person who watches."""


# What is shown.


def step(title: str) -> None:
    click.secho(f"\n▸ {title}", bold=True)


def say(line: str) -> None:
    click.echo(f"  {line}")


async def clientctl(endpoint: str, *arguments: str) -> str:
    """Runs the command as a person would, shows it, and returns what it printed."""
    say(click.style("$ clientctl " + " ".join(arguments), fg="cyan"))
    command = [sys.executable, "-m", "clientctl", "--endpoints", endpoint, *arguments]
    with trio.fail_after(STEP_BOUND_S):
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    if done.returncode != 0:
        raise DemonstrationFailed(f"clientctl ended with {done.returncode}: {done.stderr.decode().strip()}")
    printed: str = done.stdout.decode()
    for line in printed.splitlines():
        say(line)
    return printed


# The cluster.


@dataclass(frozen=True, slots=True)
class RunningCluster:
    """Its directory, its processes as they were started, and those that were restarted since."""

    directory: Path
    record: ClusterRecord
    restarted: list["subprocess.Popen[bytes]"]

    def restart(self, node: NodeRecord) -> None:
        child = process.start(node.argv, Path(node.log))
        self.restarted.append(child)
        replace_pid(self.directory, node.name, child.pid)


@asynccontextmanager
async def running_cluster(directory: Path) -> AsyncIterator[RunningCluster]:
    """`bench cluster` in a process of its own, stopped at the end."""
    command = [sys.executable, "-m", "bench", "cluster", "--nodes", "3", "--proxies", "1"]
    log = directory / "launcher.log"
    launcher = process.start([*command, "--data-dir", str(directory / "cluster")], log)
    restarted: list[subprocess.Popen[bytes]] = []
    try:
        with trio.fail_after(START_BOUND_S):
            while launcher.poll() is None:
                if record_path(directory / "cluster").exists():
                    break
                await trio.sleep(0.05)
            else:
                raise DemonstrationFailed(f"the cluster did not start: {log.read_text().strip()}")
        yield RunningCluster(directory / "cluster", read_record(directory / "cluster"), restarted)
    finally:
        for child in (launcher, *restarted):
            await process.stop(child, STEP_BOUND_S)


def address_of(url: str) -> str:
    return url.removeprefix("http://")


async def statuses(client: Client, record: ClusterRecord) -> dict[str, StatusResponse]:
    """Of the nodes that answer, by name."""
    answers: dict[str, StatusResponse] = {}

    async def ask(node: NodeRecord) -> None:
        try:
            answers[node.name] = await client.status(address_of(node.client_url), timeout=1.0)
        except KeyValueError:
            return  # it is down; the table shows who answered

    async with trio.open_nursery() as nursery:
        for node in record.nodes:
            nursery.start_soon(ask, node)
    return answers


async def leader_of(client: Client, record: ClusterRecord) -> NodeRecord:
    with trio.fail_after(STEP_BOUND_S):
        while True:
            for name, status in (await statuses(client, record)).items():
                if status.leader and status.leader == status.header.member_id:
                    return record.node(name)
            await trio.sleep(0.02)


# The writers.


@dataclass(slots=True)
class Load:
    """Writers that put numbered values until told to stop. `acknowledged` has each key's last
    acknowledged number."""

    client: Client
    acknowledged: dict[bytes, int] = field(default_factory=dict)
    times: list[float] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    more: trio.Event = field(default_factory=trio.Event)
    stopping: bool = False

    async def write(self, writer: int) -> None:
        key = b"demo/%d" % writer
        number = 0
        while not self.stopping:
            number += 1
            try:
                await self.client.put(key, b"%d" % number, timeout=5.0)
            except KeyValueError as error:
                self.errors.append(str(error))
            else:
                self.acknowledged[key] = number
                self.times.append(time.monotonic())
                more, self.more = self.more, trio.Event()
                more.set()

    async def until_more(self, puts: int) -> None:
        """Waits for so many more acknowledgements."""
        wanted = len(self.times) + puts
        with trio.fail_after(STEP_BOUND_S):
            while len(self.times) < wanted:
                await self.more.wait()

    def gap_ms(self, since: float) -> float:
        """The longest time without an acknowledgement from `since` on."""
        times = [since, *(at for at in self.times if at > since)]
        return max(later - earlier for earlier, later in pairwise(times)) * 1000

    async def missing(self) -> list[str]:
        """Keys whose value is older than what was acknowledged."""
        lost = []
        for key, number in sorted(self.acknowledged.items()):
            kvs = (await self.client.get(key)).kvs
            if not kvs or int(kvs[0].value) < number:
                lost.append(key.decode())
        return lost


# What is measured.


@dataclass(frozen=True, slots=True)
class Measured:
    operation: str
    clients: int
    per_s: float
    p50_ms: float
    p99_ms: float


async def measure(endpoint: str, operation: str, clients: int) -> Measured:
    """A closed loop of so many tasks through the proxy, 256-byte values."""
    latencies: list[float] = []

    async with Client([endpoint]) as client:
        await client.put(b"measure/0", VALUE)
        begin = time.monotonic()

        async def work(task: int) -> None:
            key = b"measure/%d" % task
            while (started := time.monotonic()) - begin < MEASURE_S:
                if operation == "put":
                    await client.put(key, VALUE)
                else:
                    await client.get(key)
                latencies.append(time.monotonic() - started)

        async with trio.open_nursery() as nursery:
            for task in range(clients):
                nursery.start_soon(work, task)
        took_s = time.monotonic() - begin
    latencies.sort()

    def percentile_ms(share: float) -> float:
        return latencies[min(len(latencies) - 1, int(len(latencies) * share))] * 1000

    return Measured(operation, clients, len(latencies) / took_s, percentile_ms(0.5), percentile_ms(0.99))


async def start_up_ms(endpoint: str) -> float:
    """A whole `clientctl get`, from the start of the process to its end: the median of five."""
    took = []
    for _ in range(5):
        begin = time.monotonic()
        command = [sys.executable, "-m", "clientctl", "--endpoints", endpoint, "get", "greeting"]
        await trio.run_process(command, stdout=subprocess.DEVNULL)
        took.append(time.monotonic() - begin)
    return sorted(took)[2] * 1000


# The story.


async def demonstrate(directory: Path) -> None:
    step("Three nodes and a proxy, real processes on loopback")
    async with running_cluster(directory) as cluster:
        record = cluster.record
        for entry in record.processes:
            say(f"{entry.name}  pid {entry.pid:<8} {entry.client_url}")
        proxy = address_of(record.proxies[0].client_url)
        nodes = ",".join(address_of(node.client_url) for node in record.nodes)

        step("Put and get, through the proxy")
        await clientctl(proxy, "put", "greeting", "hello")
        await clientctl(proxy, "get", "greeting")
        await clientctl(nodes, "endpoint", "status", "-w", "table")

        async with Client([proxy]) as client:
            load = Load(client)
            async with trio.open_nursery() as writers:
                for writer in range(WRITERS):
                    writers.start_soon(load.write, writer)
                gap_ms = await kill_the_leader(cluster, client, load)
                load.stopping = True
            step("Is every acknowledged put there?")
            if lost := await load.missing():
                raise DemonstrationFailed(f"acknowledged puts are lost: {', '.join(lost)}")
            say(f"yes: {len(load.times)} puts were acknowledged, and none is lost")
            say(f"errors that the writers saw: {len(load.errors)}")
        await show_figures(proxy, gap_ms)


async def kill_the_leader(cluster: RunningCluster, client: Client, load: Load) -> float:
    """SIGKILL under load, then the node again; returns the longest gap between acknowledged puts, in ms."""
    record = cluster.record
    leader = await leader_of(client, record)
    step(f"{WRITERS} writers, and the leader {leader.name} (pid {leader.pid}) is killed with SIGKILL")
    await load.until_more(500)
    say(f"{len(load.times)} puts acknowledged so far")
    killed_at = time.monotonic()
    os.kill(leader.pid, signal.SIGKILL)
    await load.until_more(500)
    gap_ms = load.gap_ms(killed_at)
    successor = await leader_of(client, record)
    say(f"{successor.name} leads now; {len(load.times)} puts acknowledged")
    say(f"longest time without an acknowledged put: {gap_ms:.0f} ms; errors: {len(load.errors)}")

    step(f"{leader.name} comes back and catches up, while the writers go on")
    cluster.restart(leader)
    with trio.fail_after(STEP_BOUND_S):
        await until_leader_known(leader.client_url)
        while True:
            answers = await statuses(client, record)
            applied = {name: status.raftAppliedIndex for name, status in answers.items()}
            behind = max(applied.values()) - applied.get(leader.name, 0)
            say("applied index  " + "  ".join(f"{name} {applied[name]}" for name in sorted(applied)))
            if len(applied) == len(record.nodes) and behind < 100:
                return gap_ms
            await trio.sleep(0.1)


async def show_figures(proxy: str, gap_ms: float) -> None:
    step("Measured on this machine, through the proxy, 256-byte values")
    say(f"{'':6}{'clients':>9}{'per second':>13}{'p50 ms':>10}{'p99 ms':>10}")
    for clients in CLIENTS:
        for operation in ("put", "get"):
            it = await measure(proxy, operation, clients)
            say(f"{operation:6}{clients:9}{it.per_s:13.0f}{it.p50_ms:10.2f}{it.p99_ms:10.2f}")
    say(f"longest gap after SIGKILL of the leader: {gap_ms:.0f} ms")
    say(f"a whole `clientctl get`, process start to end: {await start_up_ms(proxy):.0f} ms")


def run_in(directory: Path, story: Callable[[Path], Awaitable[None]]) -> None:
    last_words: str | int | None = None
    try:
        trio.run(story, directory)
    except* DemonstrationFailed as failed:
        last_words = f"bench demo: {first_error(failed)}"
    except* trio.TooSlowError:
        last_words = f"bench demo: a step took longer than {STEP_BOUND_S:g} s; is this machine very busy?"
    except* KeyboardInterrupt:
        last_words = INTERRUPTED
    if last_words is not None:
        sys.exit(last_words)


@click.command()
def demo() -> None:
    """Show a cluster at work: put, get, kill the leader, keep serving, numbers."""
    # As Ctrl-C, which Trio knows to deliver: everything is stopped and removed first.
    signal.signal(signal.SIGTERM, lambda number, frame: signal.raise_signal(signal.SIGINT))
    directory = Path(tempfile.mkdtemp(prefix="raftd-demo-"))
    try:
        run_in(directory, demonstrate)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    step("Done. Everything was stopped and removed.")
