"""`bench put`, `bench get`, `bench mixed`, `bench watch`: load on running servers, measured."""

import secrets
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import trio

from bench import config
from bench.audience import HEADER
from bench.connections import NoServer, check_endpoints, fill
from bench.crew import LoadFailed, LoadResult, generate
from bench.disk import DiskFigures, DiskRefused, measure
from bench.document import check_writable, load_document, write_document
from bench.flags import FiniteRange, first_error
from bench.plots import check_plotting, plot_load
from bench.progress import Progress
from bench.signals import stop_at_signal
from bench.tables import number
from bench.workload import CONSISTENCIES, DISTRIBUTIONS, PROTOCOLS, Operation, Workload
from clientctl.endpoints import parse_endpoint
from clientctl.settings import parse_endpoints

LOOPBACK = ("127.", "localhost:", "[::1]:")


def _endpoints(context: click.Context, parameter: click.Parameter, text: str) -> tuple[str, ...]:
    try:
        return parse_endpoints(text)
    except ValueError as error:
        raise click.BadParameter(str(error), context, parameter) from None


TOTAL = click.option(
    "--total", type=click.IntRange(1, config.OPERATIONS_MAX), help="How many operations, instead."
)
DISTRIBUTION = click.option(
    "--distribution", type=click.Choice(DISTRIBUTIONS), default="uniform", show_default=True
)
OPTIONS = (
    click.option(
        "--endpoints",
        callback=_endpoints,
        default="127.0.0.1:2379",
        show_default=True,
        metavar="HOST:PORT,…",
        help="Servers; connections begin with different ones.",
    ),
    click.option(
        "--protocol",
        type=click.Choice(PROTOCOLS),
        default="session",
        show_default=True,
        help="Our stream with batches and exactly-once writes, or etcd's plain calls.",
    ),
    click.option(
        "--clients",
        type=click.IntRange(1, config.CLIENTS_MAX),
        default=1,
        show_default=True,
        help="Concurrent callers; each waits for its answer.",
    ),
    click.option(
        "--connections",
        type=click.IntRange(1, config.CONNECTIONS_MAX),
        help="Which the clients share [one per process].",
    ),
    click.option(
        "--processes",
        type=click.IntRange(1, config.PROCESSES_MAX),
        default=1,
        show_default=True,
        help="Generator processes; one uses one core at most.",
    ),
    click.option("--seconds", type=FiniteRange(0, config.SECONDS_MAX, min_open=True), help="How long [10]."),
    TOTAL,
    click.option(
        "--warmup",
        type=FiniteRange(0, config.SECONDS_MAX),
        default=1.0,
        show_default=True,
        help="Seconds of the same load before, not measured.",
    ),
    click.option(
        "--rate",
        type=FiniteRange(0, config.RATE_MAX, min_open=True),
        help="Operations per second, sent on time whatever the server does [closed loop].",
    ),
    click.option(
        "--value-size", type=click.IntRange(0, config.VALUE_BYTES_MAX), default=256, show_default=True
    ),
    click.option(
        "--key-space", type=click.IntRange(1, config.KEY_SPACE_MAX), default=10_000, show_default=True
    ),
    DISTRIBUTION,
    click.option(
        "--timeout",
        type=FiniteRange(0, 3600, min_open=True),
        default=config.OPERATION_TIMEOUT_S,
        show_default=True,
        help="Seconds for one operation.",
    ),
    click.option("--seed", type=int, default=1, show_default=True, help="Of keys and values."),
    click.option(
        "--disk",
        "disk_directory",
        type=click.Path(exists=True, file_okay=False, path_type=Path),
        help="Measure the disk there too [the temporary directory, if a server is on this machine].",
    ),
    click.option(
        "--json",
        "json_path",
        type=click.Path(dir_okay=False, path_type=Path),
        callback=check_writable,
        help="Write all figures there; - is standard output.",
    ),
    click.option(
        "--plot",
        "plot_path",
        type=click.Path(dir_okay=False, path_type=Path),
        callback=check_plotting,
        help="Draw them (.png, .svg, .pdf); needs matplotlib.",
    ),
)

READ_OPTIONS = (
    click.option(
        "--consistency",
        type=click.Choice(CONSISTENCIES),
        default="linearizable",
        show_default=True,
    ),
    click.option(
        "--fill/--no-fill",
        default=True,
        show_default=True,
        help="Write the keys first, unless all are there.",
    ),
)


def _with(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


@click.command()
@_with(*OPTIONS)
def put(**flags: Any) -> None:
    """Write keys, and measure how fast and how steadily."""
    _run("put", fill_keys=False, **flags)


@click.command()
@_with(*OPTIONS, *READ_OPTIONS)
def get(fill: bool, **flags: Any) -> None:
    """Read keys, and measure how fast and how steadily."""
    _run("get", fill_keys=fill, **flags)


@click.command()
@_with(
    *OPTIONS,
    *READ_OPTIONS,
    click.option(
        "--read-ratio",
        type=FiniteRange(0, 1),
        default=0.5,
        show_default=True,
        help="Which part of the operations reads (YCSB: A 0.5, B 0.95, C 1).",
    ),
)
def mixed(fill: bool, **flags: Any) -> None:
    """Read and write keys, and measure how fast and how steadily."""
    _run("mixed", fill_keys=fill, **flags)


@click.command()
@_with(*(option for option in OPTIONS if option not in (TOTAL, DISTRIBUTION)))
def watch(rate: float | None, **flags: Any) -> None:
    """Watch keys that one writer puts, and measure how long an event takes to each watcher.

    --clients are watchers, --rate is that of the writer [50]; an operation is an event delivered to one
    watcher. An event that is lost, doubled or out of order is an error.
    """
    if flags["value_size"] < HEADER.size:
        raise click.UsageError(f"--value-size must be at least {HEADER.size} for a watch")
    rate = 50.0 if rate is None else rate
    _run("watch", fill_keys=False, total=None, rate=rate, token=secrets.token_hex(4), **flags)


def _run(
    operation: Operation,
    *,
    fill_keys: bool,
    processes: int,
    seconds: float | None,
    total: int | None,
    connections: int | None,
    warmup: float,
    timeout: float,
    disk_directory: Path | None,
    json_path: Path | None,
    plot_path: Path | None,
    **flags: Any,
) -> None:
    clients: int = flags["clients"]
    if seconds is not None and total is not None:
        raise click.UsageError("--seconds and --total exclude each other")
    if processes > clients:
        raise click.UsageError(f"--processes {processes} is more than --clients {clients}")
    if total is not None and total < processes:
        raise click.UsageError(f"--total {total} is less than --processes {processes}")
    connections = processes if connections is None else connections
    if not processes <= connections <= clients:
        raise click.UsageError(
            f"--connections {connections} is not between --processes {processes} and --clients {clients}"
        )
    workload = Workload(
        operation=operation,
        connections=connections,
        seconds=10.0 if seconds is None and total is None else seconds,
        total=total,
        warmup_s=warmup,
        timeout_s=timeout,
        **flags,
    )
    failure: str | None = None
    try:
        figures = _disk_figures(disk_directory, workload.endpoints)
        result = trio.run(_measure, workload, processes, fill_keys)
    except* (NoServer, LoadFailed, DiskRefused) as failures:
        failure = first_error(failures)
    if failure is not None:
        raise click.ClickException(failure)
    document = load_document(workload, processes, result, figures)
    click.echo(summary(document), err=str(json_path) == "-")
    if json_path is not None:
        write_document(json_path, document)
    if plot_path is not None:
        plot_load(document, plot_path)


def _disk_figures(directory: Path | None, endpoints: tuple[str, ...]) -> DiskFigures | None:
    if directory is None:
        if not any(parse_endpoint(endpoint).startswith(LOOPBACK) for endpoint in endpoints):
            return None
        directory = Path(tempfile.gettempdir())
    return measure(directory)


async def _measure(workload: Workload, processes: int, fill_keys: bool) -> LoadResult[None]:
    """From the first look at the servers to the merged samples; the first Ctrl-C ends it early."""
    await check_endpoints(workload)
    if fill_keys and (written := await fill(workload)):
        click.echo(f"Wrote {written:,} keys to read.", err=True)
    stop = trio.Event()
    progress = Progress(
        f"{workload.operation}, {workload.clients} clients",
        seconds=None if workload.seconds is None else workload.seconds + workload.warmup_s,
        total=workload.total,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stop_at_signal, stop)
        try:
            result = await generate(workload, processes, look=_nothing, on_interval=progress.take, stop=stop)
        finally:
            progress.close()
        nursery.cancel_scope.cancel()
    return result


def _nothing() -> None:
    """The servers may be anywhere: there is nothing to look at."""


def summary(document: dict[str, Any]) -> str:
    """The figures of a run of load as lines for a terminal."""
    flags, latency = document["flags"], document["latency_ms"]
    loop = f"open loop at {flags['rate']:g}/s" if flags["rate"] else "closed loop"
    who = "watcher" if flags["operation"] == "watch" else "client"
    lines = [
        f"{flags['operation']} by {_counted(flags['clients'], who)} on "
        f"{_counted(flags['connections'], 'connection')} ({flags['protocol']}), {loop}, "
        f"{document['duration_s']:.2f} s" + (", ended early" if document["interrupted"] else ""),
        f"  {document['ops_per_s']:,.1f} operations/s, {document['operations']:,} in all",
        f"  latency     {_latency_line(latency, document['operations'])}",
    ]
    if flags["rate"]:
        lines.append(f"  of service  {_latency_line(document['service_latency_ms'], document['operations'])}")
    for name, part in document.get("by_operation", {}).items():
        lines.append(f"  of {name:8} {_latency_line(part['latency_ms'], part['operations'])}")
    lines.append(f"  longest time without an answer: {document['longest_gap_ms']:.1f} ms")
    lines += [f"  {count:,} × {text}" for text, count in document["errors"].items()]
    if document["unsent"]:
        lines.append(f"  {document['unsent']:,} operations were due and never sent: all clients were waiting")
    if document["in_flight_at_end"]:
        lines.append(f"  {document['in_flight_at_end']:,} operations were cut off by the early end")
    lines += _generator_lines(document["generator"])
    if document["disk"]:
        lines.append(f"  {DiskFigures(**document['disk']).line()}")
    else:
        lines.append("  disk: not measured here; run `bench disk DIRECTORY` on the servers")
    return "\n".join(lines)


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


def _latency_line(latency: dict[str, float | None], operations: int) -> str:
    names = {"p50": "p50", "p90": "p90", "p99": "p99", "p999": "p99.9", "p9999": "p99.99", "max": "max"}
    line = ", ".join(f"{shown} {number(latency[name])}" for name, shown in names.items()) + " ms"
    return line + (" (p99.99 of fewer than 10,000 is the max)" if operations < 10_000 else "")


def _generator_lines(generator: dict[str, Any]) -> list[str]:
    shares = ", ".join(f"{share:.0%}" for share in generator["cpu_shares"])
    lines = [f"  load generation used {shares} of a core"]
    if generator["limited"]:
        lines.append(
            "  LIMITED BY THE GENERATOR: these are figures of bench, not of the server; "
            "give it more --processes (and cores)"
        )
    if generator["operations_limit_reached"]:
        lines.append("  ended early: no room for more samples")
    return lines
