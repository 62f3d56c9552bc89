"""`bench cluster`: raftd and proxyd processes on this machine, in the foreground.

The processes are the real programs, each with its log in a file. A process that dies is reported and left
alone; all are stopped when the launcher is, and killed by the kernel should it be killed itself.
"""

import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
import trio

from bench import process
from bench.layout import LayoutRefused, open_layout, plan
from bench.ports import PortBusy, PortGuard
from bench.records import ClusterRecord, NodeRecord, ProxyRecord, read_record, record_path, write_record
from bench.serving import until_healthy, until_leader_known

START_TIMEOUT_S = 60.0
"""For all processes to serve; a loaded machine with two cores needs about a tenth of it."""

STOP_TIMEOUT_S = 10.0
"""From SIGTERM to SIGKILL; raftd needs at most 5 s."""

NODES_MAX = 9
PROXIES_MAX = 9


class LaunchFailed(Exception):
    """The cluster does not run; the text is one line for the user."""


class Launcher:
    """The processes of one cluster, from their start to their end.

    Each process has a task that waits for its end. Until the record is written a death ends the launch.
    """

    def __init__(self, directory: Path, planned: ClusterRecord) -> None:
        self._directory = directory
        self._planned = planned
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._log_offsets: dict[str, int] = {}
        self._serving = False

    async def run(self) -> None:
        """Start everything, record it, wait; at the end stop everything. Raises LaunchFailed."""
        try:
            async with trio.open_nursery() as nursery:
                for planned in self._planned.processes:
                    self._start(planned)
                    nursery.start_soon(self._watch, planned)
                await self._wait_until_all_serve()
                self._serving = True
                record = self._record()
                write_record(self._directory, record)
                click.echo(_summary(record))
                # All may be dead for a while, until somebody restarts them.
                await trio.sleep_forever()
        finally:
            await self._stop()

    def _start(self, planned: NodeRecord | ProxyRecord) -> None:
        log = Path(planned.log)
        try:
            # What stands there already is of earlier runs.
            self._log_offsets[planned.name] = log.stat().st_size if log.exists() else 0
            self._processes[planned.name] = process.start(planned.argv, log)
        except OSError as error:
            raise LaunchFailed(f"cannot start {planned.name}: {error}") from None

    async def _wait_until_all_serve(self) -> None:
        with trio.move_on_after(START_TIMEOUT_S) as scope:
            async with trio.open_nursery() as nursery:
                for node in self._planned.nodes:
                    nursery.start_soon(until_leader_known, node.client_url)
                for proxy in self._planned.proxies:
                    nursery.start_soon(until_healthy, proxy.client_url)
        if scope.cancelled_caught:
            raise LaunchFailed(
                f"not all serve after {START_TIMEOUT_S:.0f} s; the logs are in {self._directory}"
            )

    def _record(self) -> ClusterRecord:
        pids = {name: child.pid for name, child in self._processes.items()}
        return ClusterRecord(
            nodes=tuple(replace(node, pid=pids[node.name]) for node in self._planned.nodes),
            proxies=tuple(replace(proxy, pid=pids[proxy.name]) for proxy in self._planned.proxies),
        )

    async def _watch(self, planned: NodeRecord | ProxyRecord) -> None:
        child = self._processes[planned.name]
        status = await process.wait(child)
        text = f"{planned.name} (pid {child.pid}) {process.how_it_ended(status)}; its log is {planned.log}"
        if not self._serving:
            raise LaunchFailed(f"{text}: {reason_in(Path(planned.log), self._log_offsets[planned.name])}")
        click.echo(text, err=True)

    async def _stop(self) -> None:
        """End our own processes, and those that others started in place of dead ones."""
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for name, child in self._processes.items():
                    nursery.start_soon(stop_and_tell, name, child, STOP_TIMEOUT_S)
                if self._serving:
                    for record in read_record(self._directory).processes:
                        if record.pid != self._processes[record.name].pid:
                            nursery.start_soon(self._stop_successor, record)
            record_path(self._directory).unlink(missing_ok=True)

    @staticmethod
    async def _stop_successor(record: NodeRecord | ProxyRecord) -> None:
        if await process.stop_stranger(record.pid, record.argv, STOP_TIMEOUT_S):
            click.echo(_killed(record.name, record.pid, STOP_TIMEOUT_S), err=True)


async def stop_and_tell(name: str, child: "subprocess.Popen[bytes]", timeout_s: float) -> None:
    """Stop a child that may have ended already; say so when it does not end in order."""
    if child.poll() is not None:
        return
    status = await process.stop(child, timeout_s)
    if status == -signal.SIGKILL:
        click.echo(_killed(name, child.pid, timeout_s), err=True)
    elif status not in (0, -signal.SIGTERM):  # which ends a program that is not yet up
        click.echo(f"{name} (pid {child.pid}) {process.how_it_ended(status)} when it was stopped", err=True)


def _killed(name: str, pid: int, timeout_s: float) -> str:
    return f"{name} (pid {pid}) did not stop within {timeout_s:g} s of SIGTERM: killed by SIGKILL"


def reason_in(log: Path, offset: int) -> str:
    """Why a program ended, from what it wrote behind `offset`: its last line that is meant for people, or
    that failing its last one."""
    with log.open("rb") as file:
        file.seek(offset)
        lines = file.read().decode(errors="replace").split("\n")
    lines = [line.strip() for line in lines if line.strip()]
    plain = [line for line in lines if not line.startswith("{")]
    return (plain or lines or ["it wrote nothing"])[-1]


def _summary(record: ClusterRecord) -> str:
    width = max(len(entry.name) for entry in record.processes)
    lines = [f"{entry.name:{width}}  pid {entry.pid:<8} {entry.client_url}" for entry in record.processes]
    entrance = (record.proxies or record.nodes)[0].client_url.removeprefix("http://")
    return "\n".join([*lines, f"All serve. Try: clientctl --endpoints {entrance} put greeting hello", ""])


@contextmanager
def claim(directory: Path) -> Iterator[None]:
    """Hold `directory` against a second launcher; the lock ends with the process. Raises LaunchFailed."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / "launcher.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise LaunchFailed(f"cannot use {directory}: {error.strerror}") from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LaunchFailed(f"{directory} is in use by another bench cluster") from None
        yield
    finally:
        os.close(descriptor)


async def _run_until_signal(launcher: Launcher) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:

            async def cancel_at_signal() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            nursery.start_soon(cancel_at_signal)
            await launcher.run()


def _first_failure(group: BaseExceptionGroup[BaseException]) -> LaunchFailed | None:
    failed, _ = group.split(LaunchFailed)
    while isinstance(failed, BaseExceptionGroup):
        failed = failed.exceptions[0]  # type: ignore[assignment]
    return failed if isinstance(failed, LaunchFailed) else None


def launch(directory: Path, nodes: int | None, proxies: int | None) -> None:
    """Run a cluster in `directory` until SIGINT, SIGTERM or SIGHUP. Raises LaunchFailed."""
    directory = directory.absolute()
    with claim(directory):
        record_path(directory).unlink(missing_ok=True)
        guard = PortGuard()
        try:
            planned = plan(directory, open_layout(directory, nodes, proxies, guard))
            trio.run(partial(_run_until_signal, Launcher(directory, planned)))
        except (LayoutRefused, PortBusy) as error:
            raise LaunchFailed(str(error)) from None
        except BaseExceptionGroup as group:
            if (failure := _first_failure(group)) is None:
                raise
            raise failure from None
        finally:
            guard.close()


@click.command()
@click.option("--nodes", type=click.IntRange(1, NODES_MAX), help="Number of nodes [3, or as DIR has it].")
@click.option(
    "--proxies", type=click.IntRange(0, PROXIES_MAX), help="Number of proxies [1, or as DIR has it]."
)
@click.option(
    "--data-dir",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    metavar="DIR",
    required=True,
    help="Holds data, logs and cluster.json; used again, the same cluster goes on.",
)
def cluster(directory: Path, nodes: int | None, proxies: int | None) -> None:
    """Run a cluster on this machine, in the foreground, until Ctrl-C or SIGTERM."""
    try:
        launch(directory, nodes, proxies)
    except LaunchFailed as failure:
        sys.exit(f"bench cluster: {failure}")
