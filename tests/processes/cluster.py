"""Real clusters for tests: `bench cluster` in a process of its own, and what a test does to its processes.

Every wait is for a condition under one generous bound; a bound that is reached fails the test.
"""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from bench import process
from bench.records import ClusterRecord, NodeRecord, ProxyRecord, read_record, replace_pid
from bench.serving import until_healthy, until_leader_known
from clientctl.client import Client
from clientctl.errors import KeyValueError
from proto.rpc_pb2 import StatusResponse

BOUND_S = 90.0
"""Far above what a healthy machine needs: several of these tests may run at once on two loaded cores."""

PACKAGES = {"etcdctl": "etcd-client", "strace": "strace", "curl": "curl"}


def needs(tool: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        shutil.which(tool) is None,
        reason=f"{tool} is missing; this brings it: sudo apt-get install {PACKAGES[tool]}",
    )


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    status: int
    stdout: str
    stderr: str


async def run(*argv: str, stdin: bytes = b"", environ: dict[str, str] | None = None) -> Ended:
    """Run a command to its end."""
    with trio.fail_after(BOUND_S):
        done = await trio.run_process(
            argv,
            stdin=stdin,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env={**os.environ, **(environ or {})},
        )
    return Ended(done.returncode, done.stdout.decode(), done.stderr.decode())


async def run_python(module: str, *arguments: str, stdin: bytes = b"") -> Ended:
    return await run(sys.executable, "-m", module, *arguments, stdin=stdin)


async def until_dead(pid: int) -> None:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with trio.fail_after(BOUND_S):
            await trio.lowlevel.wait_readable(descriptor)
    finally:
        os.close(descriptor)


async def until_text(path: Path, text: str, start: int = 0) -> None:
    """Wait until `text` stands in the file at or behind position `start`."""
    with trio.fail_after(BOUND_S):
        while not path.exists() or text not in path.read_text()[start:]:
            await trio.sleep(0.02)


class LocalCluster:
    """A running `bench cluster`, and the processes that were restarted in it."""

    def __init__(self, directory: Path, launcher: "subprocess.Popen[bytes]", launcher_log: Path) -> None:
        self.directory = directory
        self.launcher = launcher
        self.launcher_log = launcher_log
        self._restarted: list[subprocess.Popen[bytes]] = []

    @property
    def record(self) -> ClusterRecord:
        return read_record(self.directory)

    @property
    def names(self) -> list[str]:
        return [node.name for node in self.record.nodes]

    def process(self, name: str) -> NodeRecord | ProxyRecord:
        return next(entry for entry in self.record.processes if entry.name == name)

    def address(self, name: str) -> str:
        """Where the node or proxy serves clients, as host:port."""
        return self.process(name).client_url.removeprefix("http://")

    def peer_address(self, name: str) -> str:
        return self.record.node(name).peer_url.removeprefix("http://")

    def log(self, name: str) -> str:
        return Path(self.process(name).log).read_text()

    async def kill(self, *names: str, sent: signal.Signals = signal.SIGKILL) -> None:
        """Signal all of them at once, and wait until they are gone."""
        pids = [self.process(name).pid for name in names]
        for pid in pids:
            os.kill(pid, sent)
        for pid in pids:
            await until_dead(pid)

    async def terminate(self, name: str) -> int:
        """SIGTERM; the exit status."""
        pid = self.process(name).pid
        await self.kill(name, sent=signal.SIGTERM)
        for child in self._restarted:
            if child.pid == pid:
                return await process.wait(child)
        ending = f"{name} (pid {pid}) ended with status "
        await until_text(self.launcher_log, f"{ending}")
        return int(self.launcher_log.read_text().split(ending)[1].split(";")[0])

    async def restart(self, *names: str, prefix: Sequence[str] = (), wait: bool = True) -> None:
        """Start dead processes again, by `prefix` where given, and wait until they serve."""
        for name in names:
            dead = self.process(name)
            child = process.start(dead.argv, Path(dead.log), prefix=prefix)
            self._restarted.append(child)
            replace_pid(self.directory, name, child.pid)
        if wait:
            with trio.fail_after(BOUND_S):
                for name in names:
                    await until_leader_known(self.process(name).client_url)

    async def status(self, name: str) -> StatusResponse | None:
        """None when it does not answer."""
        try:
            async with Client([self.address(name)], dial_timeout=1.0) as client:
                return await client.status(self.address(name), timeout=1.0)
        except KeyValueError:
            return None

    async def leader(self) -> str:
        """The name of the node that calls itself leader and that a majority follows."""
        with trio.fail_after(BOUND_S):
            while True:
                statuses = {name: await self.status(name) for name in self.names}
                followed = [status.leader for status in statuses.values() if status is not None]
                for name, status in statuses.items():
                    if status is not None and followed.count(status.header.member_id) > len(self.names) // 2:
                        return name
                await trio.sleep(0.05)

    async def until_serving(self) -> None:
        with trio.fail_after(BOUND_S):
            for node in self.record.nodes:
                await until_leader_known(node.client_url)
            for proxy in self.record.proxies:
                await until_healthy(proxy.client_url)

    async def stop(self) -> int:
        """SIGTERM to the launcher; its exit status."""
        status = await process.stop(self.launcher, BOUND_S)
        for child in self._restarted:
            await process.stop(child, BOUND_S)
        return status


async def start_cluster(
    directory: Path, *, nodes: int | None = None, proxies: int | None = None
) -> LocalCluster:
    """Start a launcher on `directory` and wait until all serve; when it ends instead, fail with its words."""
    directory.mkdir(parents=True, exist_ok=True)
    log = directory / "launcher.log"
    log.write_bytes(b"")
    (directory / "cluster.json").unlink(missing_ok=True)
    argv = [sys.executable, "-m", "bench", "cluster", "--data-dir", str(directory)]
    if nodes is not None:
        argv += ["--nodes", str(nodes)]
    if proxies is not None:
        argv += ["--proxies", str(proxies)]
    launcher = process.start(argv, log)
    with trio.fail_after(BOUND_S):
        while not (directory / "cluster.json").exists():
            assert launcher.poll() is None, log.read_text()
            await trio.sleep(0.02)
    return LocalCluster(directory, launcher, log)


@asynccontextmanager
async def running_cluster(
    directory: Path, *, nodes: int | None = None, proxies: int | None = None
) -> AsyncIterator[LocalCluster]:
    cluster = await start_cluster(directory, nodes=nodes, proxies=proxies)
    try:
        yield cluster
    finally:
        await cluster.stop()


@contextmanager
def lasting_cluster(directory: Path) -> Iterator[LocalCluster]:
    """One cluster for a whole module, for fixtures that are no Trio tasks."""
    cluster = trio.run(start_cluster, directory)
    try:
        yield cluster
    finally:
        trio.run(cluster.stop)
