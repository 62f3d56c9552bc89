"""`bench failover`: how long writes stand still when a leader fails; is any lost or done twice?"""

import random
import secrets
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import click
import trio

from bench import config
from bench.connections import open_connections
from bench.disk import DiskFigures, DiskRefused, measure
from bench.document import check_writable, heading, write_document
from bench.faults import FAULTS, Fault, FaultName, Kill, Pause, Term
from bench.flags import FiniteRange, first_error
from bench.history import Verdict
from bench.layout import open_layout, plan
from bench.netns import Partition, network
from bench.plots import check_plotting, plot_failover
from bench.ports import PortGuard
from bench.records import ClusterRecord
from bench.signals import stop_at_signal
from bench.statistics import median, percentile, summarize_ns
from bench.subject import ClusterFailed, Subject, adopted, booted
from bench.tables import aligned, number
from bench.timeline import MILESTONES
from bench.trial import FailoverRun, Trial
from bench.workload import PROTOCOLS, Protocol, Workload

FIGURES = (*MILESTONES, "unavailable", "table_lag")
TITLES = {
    "detected": "detected",
    "elected": "elected",
    "first_commit": "first commit",
    "table_updated": "proxy's table updated",
    "first_success": "first client success",
    "unavailable": "longest time without a write",
    "table_lag": "leader to last proxy's table",
}


@click.command()
@click.option("--fault", type=click.Choice(FAULTS), default="kill", show_default=True)
@click.option("--trials", type=click.IntRange(1, config.TRIALS_MAX), default=30, show_default=True)
@click.option("--nodes", type=click.IntRange(3, 9), default=3, show_default=True)
@click.option("--proxies", type=click.IntRange(1, 9), default=2, show_default=True)
@click.option("--protocol", type=click.Choice(PROTOCOLS), default="session", show_default=True)
@click.option(
    "--rate",
    type=FiniteRange(1, 10_000),
    default=config.FAILOVER_RATE,
    show_default=True,
    help="Writes per second, through the first proxy.",
)
@click.option(
    "--timeout",
    "timeout_s",
    type=FiniteRange(0.01, 600),
    default=config.OPERATION_TIMEOUT_S,
    show_default=True,
    help="Seconds for one write.",
)
@click.option(
    "--cluster",
    "cluster_directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Hurt the cluster that `bench cluster --data-dir` runs there [one of its own].",
)
@click.option(
    "--data-dir",
    "directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where its own cluster lives, on the disk to be measured [the temporary directory].",
)
@click.option("--seed", type=int, default=1, show_default=True, help="Of when exactly a fault comes.")
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), callback=check_writable)
@click.option("--plot", "plot_path", type=click.Path(dir_okay=False, path_type=Path), callback=check_plotting)
def failover(
    fault: FaultName,
    cluster_directory: Path | None,
    directory: Path | None,
    nodes: int,
    proxies: int,
    json_path: Path | None,
    plot_path: Path | None,
    **flags: Any,
) -> None:
    """Hurt the leader again and again while writing, and split the time until writes go on.

    kill is SIGKILL, term SIGTERM, pause SIGSTOP. partition cuts the leader's machine off: that needs root,
    and takes place in network namespaces that this command makes for its own cluster.
    """
    if cluster_directory is not None and fault == "partition":
        raise click.UsageError("--fault partition only works on a cluster of its own, without --cluster")
    trials: list[Trial] = []
    failure: str | None = None
    base = cluster_directory or directory or Path(tempfile.gettempdir())
    try:
        disk = measure(base)
        with _prepared(fault, cluster_directory, base, nodes, proxies) as hurt:
            trio.run(_run, hurt, trials, flags)
    except* (ClusterFailed, DiskRefused) as failures:
        failure = first_error(failures)
    if not trials:
        raise click.ClickException(failure or "interrupted before the first trial was over")
    document = failover_document(fault, trials, disk, {"nodes": nodes, "proxies": proxies, **flags})
    document["interrupted"] = len(trials) < flags["trials"]
    click.echo(summary(document), err=str(json_path) == "-")
    if json_path is not None:
        write_document(json_path, document)
    if plot_path is not None:
        plot_failover(document, plot_path)
    if failure is not None:
        raise click.ClickException(failure)
    if document["problems"]:
        sys.exit(1)


class Hurt:
    """What is hurt, and how."""

    def __init__(
        self, fault: Fault, *, running: Subject | None = None, planned: ClusterRecord | None = None
    ) -> None:
        self.fault, self.running, self.planned = fault, running, planned
        self.prefixes: dict[str, Sequence[str]] = {}


@contextmanager
def _prepared(
    fault: FaultName, cluster_directory: Path | None, base: Path, nodes: int, proxies: int
) -> Iterator[Hurt]:
    """Addresses, directories and, for a partition, the network, before any thread is started. What was made
    is removed, unless the benchmark failed: then the logs are kept. Raises ClusterFailed."""
    simple: dict[str, Callable[[], Fault]] = {"kill": Kill, "term": Term, "pause": Pause}
    if cluster_directory is not None:
        yield Hurt(simple[fault](), running=adopted(cluster_directory.absolute()))
        return
    with own_directory(base, "failover") as made:
        if fault == "partition":
            with network(nodes) as its_network:
                hurt = Hurt(Partition(its_network), planned=its_network.plan(made, proxies))
                hurt.prefixes = its_network.prefixes
                yield hurt
        else:
            guard = PortGuard()
            try:
                yield Hurt(simple[fault](), planned=plan(made, open_layout(made, nodes, proxies, guard)))
            finally:
                guard.close()


@contextmanager
def own_directory(base: Path, what: str) -> Iterator[Path]:
    """A directory for a cluster; it is removed unless the benchmark failed, when its logs are of use."""
    try:
        made = Path(tempfile.mkdtemp(prefix=f"bench-{what}-", dir=base))
    except OSError as error:
        raise ClusterFailed(f"cannot use {base}: {error.strerror}") from None
    try:
        yield made
    except BaseException:
        click.echo(f"What the processes logged is in {made}", err=True)
        raise
    shutil.rmtree(made)


async def _run(hurt: Hurt, trials: list[Trial], flags: dict[str, Any]) -> None:
    """All trials; the first Ctrl-C ends them after the present one."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_at_signal, stop)
        if hurt.running is not None:
            await _trials(hurt.running, hurt.fault, trials, flags, stop)
        else:
            assert hurt.planned is not None
            async with booted(hurt.planned, hurt.prefixes) as subject:
                await _trials(subject, hurt.fault, trials, flags, stop)
        nursery.cancel_scope.cancel()


async def _trials(
    subject: Subject, fault: Fault, trials: list[Trial], flags: dict[str, Any], stop: trio.Event
) -> None:
    async with failover_run(
        subject,
        fault,
        protocol=flags["protocol"],
        rate=flags["rate"],
        timeout_s=flags["timeout_s"],
        seed=flags["seed"],
        with_logs=True,
    ) as run:
        for index in range(1, flags["trials"] + 1):
            trials.append(await run.trial(index))
            click.echo(_progress(trials[-1], flags["trials"]), err=True)
            if stop.is_set():
                return


def _progress(trial: Trial, of: int) -> str:
    errors = sum(trial.errors.values())
    return (
        f"{trial.number}/{of}: {trial.leader} failed, first success after {number(trial.first_success)} ms, "
        f"{errors} errors" + "".join(f"\n  {problem}" for problem in trial.verdict.problems)
    )


@asynccontextmanager
async def failover_run(
    subject: Subject,
    fault: Fault,
    *,
    protocol: Protocol,
    rate: float,
    timeout_s: float,
    seed: int,
    with_logs: bool,
) -> AsyncIterator[FailoverRun]:
    """Trials on `subject`, over one connection."""
    workload = Workload(
        "put", subject.endpoints, protocol=protocol, total=1, timeout_s=timeout_s, rate=rate, seed=seed
    )
    keys = b"bench/failover/%b" % secrets.token_hex(4).encode()
    async with open_connections(workload) as (connection,):
        yield FailoverRun(subject, fault, connection, rate, with_logs, random.Random(seed), keys)


def failover_document(
    fault: str, trials: Sequence[Trial], disk: DiskFigures | None, flags: dict[str, Any]
) -> dict[str, Any]:
    return heading("failover", {"fault": fault, **flags}, disk) | failover_figures(trials)


def failover_figures(trials: Sequence[Trial]) -> dict[str, Any]:
    """What all trials together show."""
    errors: Counter[str] = Counter()
    verdict = Verdict()
    response: list[int] = []
    for trial in trials:
        errors.update(trial.errors)
        verdict.add(trial.verdict)
        response += trial.response_ns
    spans = [
        trial.acknowledged_at[-1] - trial.acknowledged_at[0] for trial in trials if trial.acknowledged_at
    ]
    return {
        "ops_per_s": round(1000 * len(response) / sum(spans), 3) if sum(spans) else 0.0,
        "latency_ms": summarize_ns(response),
        "errors": dict(errors.most_common()),
        "unsent": sum(trial.unsent for trial in trials),
        "summary_ms": {name: _spread([getattr(trial, name) for trial in trials]) for name in FIGURES},
        "acknowledged": verdict.acknowledged,
        "refused": verdict.refused,
        "unknown_done": verdict.unknown_done,
        "unknown_not_done": verdict.unknown_not_done,
        "problems": verdict.problems,
        "trials": [trial.to_json() for trial in trials],
    }


def _spread(values: Sequence[float | None]) -> dict[str, float | None]:
    known = sorted(value for value in values if value is not None)
    if not known:
        return {"p50": None, "p95": None, "max": None, "seen": 0}
    return {
        "p50": round(median(known), 3),
        "p95": percentile(known, 0.95),
        "max": known[-1],
        "seen": len(known),
    }


def summary(document: dict[str, Any]) -> str:
    """The figures as lines for a terminal."""
    flags, trials = document["flags"], document["trials"]
    rows = [
        (TITLES[name], *(number(spread[column]) for column in ("p50", "p95", "max")), str(spread["seen"]))
        for name, spread in document["summary_ms"].items()
    ]
    errors = [f"  {count:,} × {text}" for text, count in document["errors"].items()]
    lines = [
        f"{flags['fault']} of the leader, {len(trials)} trials, {flags['rate']:g} writes/s by "
        f"{flags['protocol']} protocol" + (", ended early" if document["interrupted"] else ""),
        aligned(("ms since the fault", "p50", "p95", "max", "trials"), rows),
        "errors seen by clients: " + ("none" if not errors else ""),
        *errors,
        f"{document['acknowledged']:,} writes acknowledged, {document['refused']:,} surely not done, "
        f"{document['unknown_done'] + document['unknown_not_done']:,} unknown "
        f"({document['unknown_done']:,} of them were done)",
    ]
    if document["unsent"]:
        lines.append(f"{document['unsent']:,} writes were due and not sent: too many were waiting")
    problems = document["problems"]
    if problems:
        lines += [f"PROBLEMS: {len(problems)}", *(f"  {problem}" for problem in problems[:20])]
    else:
        lines.append("no acknowledged write lost, none applied twice: every version of every key was checked")
    if document["disk"]:
        lines.append(DiskFigures(**document["disk"]).line())
    return "\n".join(lines)
