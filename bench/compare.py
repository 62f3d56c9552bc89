"""`bench compare`: the same work done by our cluster and by an etcd, on one machine, in one run."""

import os
import shlex
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import trio

from bench import config, etcd
from bench.connections import NoServer
from bench.contest import Contest, tasks, titles
from bench.crew import LoadFailed
from bench.disk import DiskFigures, DiskRefused, measure
from bench.document import check_writable, heading, write_document
from bench.failover import failover_figures, failover_run, own_directory
from bench.faults import Kill
from bench.flags import FiniteRange, first_error
from bench.layout import open_layout, plan
from bench.peer_load import PeerLoad
from bench.plots import check_plotting
from bench.ports import PortGuard
from bench.records import ClusterRecord
from bench.signals import stop_at_signal
from bench.subject import ClusterFailed, Subject, booted
from bench.tables import aligned, markdown
from bench.trial import FailoverRun, Trial
from bench.verdicts import notes, tables

QUICK = {"rounds": 2, "seconds": 1.5, "warmup": 0.5, "trials": 3}
FULL = {"rounds": 5, "seconds": 5.0, "warmup": 1.0, "trials": 30}


@click.command()
@click.option("--peer", type=click.Choice(["etcd"]), default="etcd", show_default=True)
@click.option("--quick", is_flag=True, help="A few minutes instead of three quarters of an hour.")
@click.option(
    "--peer-load",
    "peer_load_command",
    metavar="COMMAND",
    help="A compiled load generator: etcd's benchmark, or one with etcdload's flags and JSON.",
)
@click.option("--peer-flags", default="", metavar="FLAGS", help="For etcd, such as '--election-timeout=300'.")
@click.option("--rounds", type=click.IntRange(1, 1000), help=f"[{FULL['rounds']}, quick {QUICK['rounds']}]")
@click.option(
    "--seconds",
    type=FiniteRange(0.1, 3600),
    help=f"Of one run [{FULL['seconds']}, quick {QUICK['seconds']}].",
)
@click.option(
    "--warmup",
    type=FiniteRange(0, 3600),
    help=f"Seconds before it [{FULL['warmup']}, quick {QUICK['warmup']}].",
)
@click.option(
    "--trials",
    type=click.IntRange(0, config.TRIALS_MAX),
    help=f"Of failover, each cluster [{FULL['trials']}, quick {QUICK['trials']}].",
)
@click.option(
    "--processes",
    type=click.IntRange(1, config.PROCESSES_MAX),
    default=2,
    show_default=True,
    help="Generator processes for 2 clients and more.",
)
@click.option(
    "--data-dir",
    "directory",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where both clusters live [the temporary directory].",
)
@click.option("--json", "json_path", type=click.Path(dir_okay=False, path_type=Path), callback=check_writable)
@click.option(
    "--markdown", "markdown_path", type=click.Path(dir_okay=False, path_type=Path), callback=check_writable
)
@click.option("--plot", "plot_path", type=click.Path(dir_okay=False, path_type=Path), callback=check_plotting)
def compare(
    peer: str,
    quick: bool,
    peer_load_command: str | None,
    peer_flags: str,
    directory: Path | None,
    json_path: Path | None,
    markdown_path: Path | None,
    plot_path: Path | None,
    **given: Any,
) -> None:
    """Compare our cluster with an etcd that this command starts: throughput, latency, cost, failover."""
    flags = (QUICK if quick else FULL) | {name: value for name, value in given.items() if value is not None}
    base = directory or Path(tempfile.gettempdir())
    document: dict[str, Any] = {}
    failed = False
    try:
        binary = etcd.find()
        peer_load = PeerLoad(peer_load_command) if peer_load_command else None
        kept = {"peer": peer, "quick": quick, "peer_load": peer_load_command, "peer_flags": peer_flags}
        document = heading("compare", {**kept, **flags}, measure(base))
        document |= {
            "ways": dict(titles()),
            "runs": [],
            "failover": {},
            "idle_cpu_share": {},
            "interrupted": True,
        }
        document["versions"]["etcd"] = etcd.version(binary)
        with own_directory(base, "compare") as made:
            guard = PortGuard()
            try:
                ours, theirs = _planned(made, binary, shlex.split(peer_flags), guard)
                trio.run(_run, ours, theirs, peer_load, quick, flags, document)
            finally:
                guard.close()
    except* (ClusterFailed, DiskRefused, LoadFailed, NoServer) as failures:
        failed = True
        click.echo(f"Error: {first_error(failures)}", err=True)
    if failed and not document.get("runs"):
        sys.exit(1)
    if not document["runs"]:
        raise click.ClickException("interrupted before the first run was over")
    _publish(document, json_path, markdown_path, plot_path)
    if any(its["problems"] for its in document["failover"].values()):
        sys.exit(1)


def _planned(
    made: Path, binary: str, flags: list[str], guard: PortGuard
) -> tuple[ClusterRecord, ClusterRecord]:
    for name in ("raftd", "etcd"):
        (made / name).mkdir()
    layout = open_layout(made / "raftd", 3, 1, guard)
    return plan(made / "raftd", layout), etcd.plan(binary, made / "etcd", flags, guard)


async def _run(
    ours: ClusterRecord,
    theirs: ClusterRecord,
    peer_load: PeerLoad | None,
    quick: bool,
    flags: dict[str, Any],
    document: dict[str, Any],
) -> None:
    """Fills in the document as it goes, so that an early end leaves what was done."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_at_signal, stop)
        async with booted(ours) as raftd, booted(theirs) as peer:
            contest = Contest(
                raftd, peer, peer_load, flags["seconds"], flags["warmup"], flags["processes"], _say
            )
            await contest.prepare()
            document["idle_cpu_share"] = await contest.idle()
            await contest.rounds(flags["rounds"], tasks(quick), document["runs"], stop)
            await _failovers(raftd, peer, flags["trials"], document["failover"], stop)
        document["interrupted"] = stop.is_set()
        nursery.cancel_scope.cancel()


async def _failovers(
    raftd: Subject, peer: Subject, trials: int, found: dict[str, Any], stop: trio.Event
) -> None:
    """One trial on each in turn."""
    common: dict[str, Any] = {
        "rate": config.FAILOVER_RATE,
        "timeout_s": config.OPERATION_TIMEOUT_S,
        "seed": 1,
    }
    async with (
        failover_run(raftd, Kill(), protocol="session", with_logs=True, **common) as ours,
        failover_run(raftd, Kill(), protocol="etcd", with_logs=True, **common) as stock,
        failover_run(peer, Kill(), protocol="etcd", with_logs=False, **common) as theirs,
    ):
        runs: dict[str, tuple[FailoverRun, list[Trial]]] = {
            "proxy": (ours, []),
            "stock": (stock, []),
            "etcd": (theirs, []),
        }
        for number in range(1, trials + 1):
            for name, (run, done) in runs.items():
                if stop.is_set():
                    return
                _say(f"failover {number}/{trials}: {titles()[name]}")
                done.append(await run.trial(number))
                found[name] = {"title": titles()[name], **failover_figures(done)}


def _say(text: str) -> None:
    click.echo(text, err=True)


def _publish(
    document: dict[str, Any], json_path: Path | None, markdown_path: Path | None, plot_path: Path | None
) -> None:
    disk = DiskFigures(**document["disk"]).line()
    to_stderr = "-" in (str(json_path), str(markdown_path))
    for title, table in tables(document, aligned):
        click.echo(f"\n{title}\n\n{table}", err=to_stderr)
    click.echo("\n" + "\n".join([*notes(document), disk]), err=to_stderr)
    if document["interrupted"]:
        click.echo("ended early: what was done by then is shown", err=to_stderr)
    if json_path is not None:
        write_document(json_path, document)
    if markdown_path is not None:
        _write_markdown(markdown_path, document, disk)
    if plot_path is not None:
        from bench.plots_compare import plot_compare

        plot_compare(document, plot_path)


def _write_markdown(path: Path, document: dict[str, Any], disk: str) -> None:
    host, versions = document["host"], document["versions"]
    about = (
        f"{host['cores']} cores ({host['cpu']}), {host['memory_bytes'] / (1 << 30):.0f} GiB, kernel "
        f"{host['kernel']}, load average before {host['load_average'][0]:.1f}; commit {document['commit']}, "
        f"Python {versions['python']}, etcd {versions['etcd']}; {disk}."
    )
    parts = [f"`{shlex.join(document['command'])}`, finished {document['finished_at']}", about]
    for title, table in tables(document, markdown):
        parts += [f"**{title}**", table]
    text = "\n\n".join([*parts, *(f"- {note}" for note in notes(document))]) + "\n"
    if str(path) == "-":
        click.echo(text)
        return
    try:
        path.write_text(text)
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {os.strerror(error.errno or 0)}") from None
