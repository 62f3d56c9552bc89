"""The cluster under test: its processes, who leads, and how one is started again.

`booted` starts one and ends it; `adopted` takes one that `bench cluster` runs, whose processes then go on
when the benchmark has ended. It speaks only etcd's Status to the nodes, so a cluster of etcd will do as well.
"""

import os
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import trio

from bench import process
from bench.config import CLUSTER_START_S, CLUSTER_STOP_S, FAILOVER_POLL_S, STATUS_TIMEOUT_S
from bench.records import ClusterRecord, NodeRecord, ProxyRecord, read_record, replace_pid
from bench.serving import until_healthy, until_leader_known
from clientctl.link import MAINTENANCE
from proto.bridge import connect
from proto.errors import Status
from proto.rpc_pb2 import StatusRequest, StatusResponse


class ClusterFailed(Exception):
    """The cluster does not do what a trial needs; the text is one line for the user."""


@dataclass(slots=True)
class Subject:
    """A running cluster. `directory` is None for one that was booted here; `prefixes` are programs by which
    a process is started (`ip netns exec`), by its name."""

    record: ClusterRecord
    directory: Path | None
    prefixes: Mapping[str, Sequence[str]]
    children: "dict[str, subprocess.Popen[bytes]]"

    @property
    def endpoints(self) -> tuple[str, ...]:
        """Where clients go: the proxies, or the nodes if there are none."""
        return tuple(address(entry) for entry in self.record.proxies or self.record.nodes)

    @property
    def pids(self) -> list[int]:
        return [entry.pid for entry in self.record.processes]

    def signal(self, name: str, number: signal.Signals) -> None:
        """Raises ClusterFailed if the process is gone."""
        try:
            os.kill(self.record.node(name).pid, number)
        except ProcessLookupError:
            raise ClusterFailed(f"{name} is gone") from None

    async def until_gone(self, name: str) -> None:
        if (child := self.children.get(name)) is not None:
            await process.wait(child)
            return
        try:
            descriptor = os.pidfd_open(self.record.node(name).pid)
        except ProcessLookupError:
            return
        try:
            await trio.lowlevel.wait_readable(descriptor)
        finally:
            os.close(descriptor)

    def restart(self, name: str) -> None:
        """Start a node again that has ended. Raises ClusterFailed."""
        node = self.record.node(name)
        try:
            if self.directory is None:
                child = process.start(node.argv, Path(node.log), prefix=self.prefixes.get(name, ()))
                self.children[name] = child
            else:
                child = _start_for_good(node)
                self.children[name] = child
                replace_pid(self.directory, name, child.pid)
        except OSError as error:
            raise ClusterFailed(f"cannot restart {name}: {error}") from None
        self.record = with_pids(self.record, {name: child.pid})

    async def statuses(self) -> dict[str, StatusResponse]:
        """What each node that answers says of itself."""
        answers: dict[str, StatusResponse] = {}

        async def ask(node: NodeRecord) -> None:
            try:
                async with connect(address(node), isolated=True) as channel:
                    answers[node.name] = await channel.unary(
                        MAINTENANCE["Status"], StatusRequest(), timeout=STATUS_TIMEOUT_S
                    )
            except Status:
                return  # Left out, as documented.

        async with trio.open_nursery() as nursery:
            for node in self.record.nodes:
                nursery.start_soon(ask, node)
        return answers

    async def until_steady(self, timeout_s: float, entries_behind: int) -> str:
        """Wait until all nodes name the same leader and none lags; its name. Raises ClusterFailed."""
        with trio.move_on_after(timeout_s):
            while True:
                statuses = await self.statuses()
                leaders = {status.leader for status in statuses.values()}
                applied = [status.raftAppliedIndex for status in statuses.values()]
                if len(statuses) == len(self.record.nodes) and len(leaders) == 1 and 0 not in leaders:
                    by_id = {status.header.member_id: name for name, status in statuses.items()}
                    leader = by_id.get(leaders.pop())
                    if leader is not None and max(applied) - min(applied) <= entries_behind:
                        return leader
                await trio.sleep(FAILOVER_POLL_S)
        raise ClusterFailed(f"the cluster is not complete and in agreement after {timeout_s:g} s")


def address(entry: NodeRecord | ProxyRecord) -> str:
    return entry.client_url.removeprefix("http://")


def with_pids(record: ClusterRecord, pids: Mapping[str, int]) -> ClusterRecord:
    return ClusterRecord(
        nodes=tuple(replace(node, pid=pids.get(node.name, node.pid)) for node in record.nodes),
        proxies=tuple(replace(proxy, pid=pids.get(proxy.name, proxy.pid)) for proxy in record.proxies),
    )


def _start_for_good(node: NodeRecord) -> "subprocess.Popen[bytes]":
    """A process that outlives the benchmark: its launcher ends it, finding its pid in the record."""
    with Path(node.log).open("ab") as output:
        return subprocess.Popen(
            node.argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0
        )


def adopted(directory: Path) -> Subject:
    """The cluster that `bench cluster --data-dir DIRECTORY` runs. Raises ClusterFailed."""
    try:
        return Subject(read_record(directory), directory, {}, {})
    except FileNotFoundError:
        raise ClusterFailed(f"no bench cluster serves in {directory}") from None
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise ClusterFailed(f"{directory}/cluster.json cannot be read: {error}") from None


@asynccontextmanager
async def booted(
    planned: ClusterRecord, prefixes: Mapping[str, Sequence[str]] | None = None
) -> AsyncIterator[Subject]:
    """Start all processes, wait until they serve, and end them at last. Raises ClusterFailed."""
    subject = Subject(planned, None, prefixes or {}, {})
    try:
        for entry in planned.processes:
            try:
                subject.children[entry.name] = process.start(
                    entry.argv, Path(entry.log), prefix=subject.prefixes.get(entry.name, ())
                )
            except OSError as error:
                raise ClusterFailed(f"cannot start {entry.name}: {error}") from None
        pids = {name: child.pid for name, child in subject.children.items()}
        subject.record = with_pids(planned, pids)
        await _until_all_serve(subject)
        yield subject
    finally:
        with trio.CancelScope(shield=True):
            async with trio.open_nursery() as nursery:
                for child in subject.children.values():
                    if child.poll() is None:
                        child.send_signal(signal.SIGCONT)
                    nursery.start_soon(process.stop, child, CLUSTER_STOP_S)


async def _until_all_serve(subject: Subject) -> None:
    with trio.move_on_after(CLUSTER_START_S):
        async with trio.open_nursery() as watching:
            for entry in subject.record.processes:
                watching.start_soon(_complain_of_end, entry, subject.children[entry.name])
            async with trio.open_nursery() as nursery:
                for node in subject.record.nodes:
                    nursery.start_soon(until_leader_known, node.client_url)
                for proxy in subject.record.proxies:
                    nursery.start_soon(until_healthy, proxy.client_url)
            watching.cancel_scope.cancel()
        return
    raise ClusterFailed(f"not all processes serve after {CLUSTER_START_S:g} s")


async def _complain_of_end(entry: NodeRecord | ProxyRecord, child: "subprocess.Popen[bytes]") -> None:
    status = await process.wait(child)
    raise ClusterFailed(f"{entry.name} {process.how_it_ended(status)}: {last_line(Path(entry.log))}")


def last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "its log is empty"
