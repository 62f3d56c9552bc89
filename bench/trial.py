"""One trial of the failover benchmark: write, hurt the leader, watch, make good, check every write."""

import random
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio

from bench import config
from bench.connections import Connection
from bench.faults import Fault
from bench.history import Verdict, check, read_histories
from bench.probe import Probe, Write
from bench.subject import ClusterFailed, Subject, address
from bench.timeline import (
    MILESTONES,
    Change,
    LogFollower,
    change_after,
    first_success_after,
    longest_gap,
)
from clientctl.client import Client
from clientctl.errors import KeyValueError
from clientctl.link import KV, LEADER_TABLE
from proto.bridge import Channel, connect
from proto.errors import Status
from proto.rpc_pb2 import RangeRequest
from proto.stream import StreamEnded
from proto.table_pb2 import WatchTableRequest

CRASH_SPREAD_S = 0.1
"""A fault falls anywhere into so long a time, lest it always meets the heartbeats in the same phase."""


@dataclass(slots=True)
class Trial:
    """What happened. Times are milliseconds since the fault, None for what was not seen."""

    number: int
    leader: str
    detected: float | None = None
    elected: float | None = None
    first_commit: float | None = None
    table_updated: float | None = None
    first_success: float | None = None
    unavailable: float | None = None
    table_lag: float | None = None
    errors: dict[str, int] = field(default_factory=dict)
    writes: int = 0
    unsent: int = 0
    verdict: Verdict = field(default_factory=Verdict)
    response_ns: list[int] = field(default_factory=list)
    acknowledged_at: list[float] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        return {
            "number": self.number,
            "leader": self.leader,
            **{f"{name}_ms": getattr(self, name) for name in (*MILESTONES, "unavailable", "table_lag")},
            "errors": self.errors,
            "writes": self.writes,
            "unsent": self.unsent,
            "problems": self.verdict.problems,
            "acknowledged_at_ms": self.acknowledged_at,
        }


@dataclass(slots=True)
class FailoverRun:
    """What all trials share. `with_logs`: the nodes are ours, so that their logs and tables can be read."""

    subject: Subject
    fault: Fault
    connection: Connection
    rate: float
    with_logs: bool
    source: random.Random
    keys: bytes

    async def trial(self, number: int) -> Trial:
        """Raises ClusterFailed when the cluster does not come back."""
        leader = await self.subject.until_steady(config.FAILOVER_STEADY_S, config.FAILOVER_ENTRIES_BEHIND)
        old_term = (await self.subject.statuses())[leader].raftTerm
        logs = self._logs()
        probe = Probe(self.connection, self.rate, b"%b/%d/" % (self.keys, number))
        trial = Trial(number, leader)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(probe.run)
            async with self._first_commit_watch(old_term) as watch:
                await trio.sleep(config.FAILOVER_LEAD_S + self.source.random() * CRASH_SPREAD_S)
                fault_at = time.time()
                self.fault.inject(self.subject, leader)
                try:
                    await self._until_recovered(trial, probe, logs, fault_at, old_term)
                    change = _read_change(logs, fault_at, leader, old_term)
                finally:
                    probe.stop()
                    # Nothing may leave a cluster behind that is hurt.
                    with trio.move_on_after(config.CLUSTER_STOP_S, shield=True):
                        await self.fault.heal(self.subject, leader)
        first_proxy = self.subject.record.proxies[0].name if self.subject.record.proxies else ""
        _measure(trial, probe, fault_at, change, watch.at, first_proxy)
        trial.verdict = await self._verify(probe)
        return trial

    async def _until_recovered(
        self, trial: Trial, probe: Probe, logs: list[LogFollower], fault_at: float, old_term: int
    ) -> None:
        with trio.move_on_after(config.FAILOVER_TRIAL_S):
            if self.with_logs:
                await _until_changed(logs, fault_at, trial.leader, old_term)
            await probe.until_served_since(fault_at)
            # Until late proxies know as well, and for writes to be at peace again.
            await trio.sleep(config.FAILOVER_TRAIL_S)
            return
        raise ClusterFailed(
            f"trial {trial.number}: no new leader serves {config.FAILOVER_TRIAL_S:g} s after the fault"
        )

    def _logs(self) -> list[LogFollower]:
        if not self.with_logs:
            return []
        return [LogFollower(entry.name, Path(entry.log)) for entry in self.subject.record.processes]

    async def _verify(self, probe: Probe) -> Verdict:
        keys = {write.key for write in probe.writes}
        failure: str | None = None
        try:
            async with Client(self.subject.endpoints) as client:
                histories = await read_histories(client, keys)
        except* KeyValueError as group:
            failure = str(group.exceptions[0])
        if failure is not None:
            raise ClusterFailed(f"the keys could not be read back: {failure}")
        return check(probe.writes, histories)

    @asynccontextmanager
    async def _first_commit_watch(self, old_term: int) -> AsyncIterator["_FirstCommit"]:
        watch = _FirstCommit(old_term)
        async with trio.open_nursery() as nursery:
            if self.with_logs:
                for node in self.subject.record.nodes:
                    nursery.start_soon(watch.follow, address(node))
            yield watch
            nursery.cancel_scope.cancel()


class _FirstCommit:
    """When the new leader had committed: it is sent a linearizable read the moment it says that it leads, and
    no leader answers one before it has committed an entry of its own term (thesis, section 6.4)."""

    def __init__(self, old_term: int) -> None:
        self._old_term = old_term
        self.at: float | None = None

    async def follow(self, node: str) -> None:
        try:
            async with connect(node, isolated=True) as channel:
                async with channel.stream(LEADER_TABLE["Watch"], WatchTableRequest()) as updates:
                    while True:
                        for update in await updates.receive_all():
                            if update.term > self._old_term and update.leader == update.member_id:
                                await self._read(channel)
        except (Status, StreamEnded):
            return  # The hurt one; others go on watching.

    async def _read(self, channel: Channel) -> None:
        try:
            await channel.unary(KV["Range"], RangeRequest(key=b"health"), timeout=config.STATUS_TIMEOUT_S)
        except Status:
            return  # Not the leader any more; the next update says more.
        if self.at is None:
            self.at = time.time()


async def _until_changed(logs: list[LogFollower], fault_at: float, leader: str, old_term: int) -> None:
    while True:
        if _read_change(logs, fault_at, leader, old_term) is not None:
            return
        await trio.sleep(config.FAILOVER_POLL_S)


def _read_change(logs: list[LogFollower], fault_at: float, leader: str, old_term: int) -> Change | None:
    for log in logs:
        log.read()
    return change_after((event for log in logs for event in log.events), fault_at, leader, old_term)


def _measure(
    trial: Trial,
    probe: Probe,
    fault_at: float,
    change: Change | None,
    first_commit: float | None,
    proxy: str,
) -> None:
    """`proxy`: the one that the writes went through."""

    def since(moment: float | None) -> float | None:
        return None if moment is None else round((moment - fault_at) * 1000, 3)

    writes: list[Write] = probe.writes
    gap = longest_gap(writes, fault_at)
    if gap is not None:
        trial.unavailable = round((gap[1] - gap[0]) * 1000, 3)
        trial.first_success = since(gap[1])
    if change is not None:
        trial.detected, trial.elected = since(change.detected), since(change.elected)
        trial.first_success = since(first_success_after(writes, change.elected))
        trial.table_updated = since(change.tables.get(proxy))
        trial.table_lag = None if change.table_lag_s is None else round(change.table_lag_s * 1000, 3)
    trial.first_commit = since(first_commit)
    trial.errors = dict(probe.errors_since(fault_at).most_common())
    trial.writes, trial.unsent = len(writes), probe.unsent
    acknowledged = [write for write in writes if write.acknowledged]
    trial.response_ns = [int((write.ended - write.due) * 1e9) for write in acknowledged]
    trial.acknowledged_at = sorted(round((write.ended - fault_at) * 1000, 1) for write in acknowledged)
