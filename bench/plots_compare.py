"""The pictures of a comparison: throughput against latency, latency percentiles, cost, and failovers."""

from pathlib import Path
from typing import Any

from bench.plots import draw_percentiles, logarithmic_ms, new_figure, save_figure
from bench.verdicts import cell, task_names

COLOURS = {"proxy": "#1f77b4", "leader": "#2ca02c", "stock": "#17becf", "etcd": "#d62728"}
PERCENTILES_OF = "put, 64 clients"


def plot_compare(document: dict[str, Any], path: Path) -> None:
    figure, ((rates, percentiles), (reads, failovers)) = new_figure(2, rows=2)
    _draw_rates(rates, document)
    _draw_percentiles(percentiles, document)
    _draw_reads(reads, document)
    _draw_failovers(failovers, document)
    save_figure(figure, path)


def _draw_rates(axes: Any, document: dict[str, Any]) -> None:
    """Each point is a number of clients; a better store is further to the right and lower."""
    runs = document["runs"]
    puts = [task for task in task_names(runs) if task.startswith("put")]
    clients = {run["task"]: run["clients"] for run in runs}
    for way, title in document["ways"].items():
        found = [(clients[task], its) for task in puts if (its := cell(runs, task, way)) is not None]
        for style, name in (("-", "p50_ms"), (":", "p99_ms")):
            points = [(its.ops_per_s, getattr(its, name)) for _, its in found if getattr(its, name)]
            label = title if style == "-" else None
            axes.plot(
                *zip(*points, strict=True), style, marker="o", markersize=3, color=COLOURS[way], label=label
            )
        for count, its in found:
            axes.annotate(
                f"{count}",
                (its.ops_per_s, its.p50_ms),
                fontsize=7,
                xytext=(3, -9),
                textcoords="offset points",
            )
    axes.set_xscale("log")
    logarithmic_ms(axes)
    axes.set_xlabel("puts per second (log)")
    axes.set_title("put: p50 (line) and p99 (dots) at so many clients", fontsize=9)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)


def _draw_percentiles(axes: Any, document: dict[str, Any]) -> None:
    """The round in the middle, by throughput, of our own generator, which keeps every sample."""
    curves = {}
    for way, title in document["ways"].items():
        mine = [
            run
            for run in document["runs"]
            if run["task"] == PERCENTILES_OF and run["way"] == way and run["generator"] == "python"
        ]
        if mine:
            mine.sort(key=lambda run: float(run["ops_per_s"]))
            curves[title] = mine[len(mine) // 2]["percentile_curve"]
    draw_percentiles(axes, curves, [COLOURS[way] for way in document["ways"]])
    axes.set_title(f"{PERCENTILES_OF}, Python generator", fontsize=9)


def _draw_reads(axes: Any, document: dict[str, Any]) -> None:
    """Reads per second, the rounds as points."""
    runs = document["runs"]
    reads = [task for task in task_names(runs) if "get" in task]
    ways = list(document["ways"])
    width = 0.8 / len(ways)
    for position, way in enumerate(ways):
        for row, task in enumerate(reads):
            its = cell(runs, task, way)
            if its is None:
                continue
            x = row + (position - (len(ways) - 1) / 2) * width
            axes.bar(
                x, its.ops_per_s, width, color=COLOURS[way], label=document["ways"][way] if row == 0 else None
            )
            rounds = list(its.best_by_round.values())
            axes.plot([x] * len(rounds), rounds, ".", color="black", markersize=3)
    axes.set_xticks(range(len(reads)), [task.replace(" get, ", "\nget, ") for task in reads], fontsize=7)
    axes.set_ylabel("gets per second")
    axes.grid(axis="y", alpha=0.3)
    if reads:
        axes.legend(fontsize=8)


def _draw_failovers(axes: Any, document: dict[str, Any]) -> None:
    """Rows are trials; each ends soon after writes go on."""
    row = 0
    last_ms = 0.0
    ticks = []
    for way, its in document["failover"].items():
        first = row
        for trial in its["trials"]:
            moments = trial["acknowledged_at_ms"]
            axes.plot(moments, [row] * len(moments), "|", color=COLOURS[way], markersize=4)
            last_ms = max(last_ms, trial["first_success_ms"] or 0.0)
            row += 1
        ticks.append(((first + row - 1) / 2, its["title"]))
        row += 1
    axes.set_title("each stroke is an acknowledged write", fontsize=9)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlim(-0.1 * last_ms - 50, 1.1 * last_ms + 50)
    axes.set_yticks([tick for tick, _ in ticks], [title for _, title in ticks], fontsize=7)
    axes.set_xlabel("ms since the leader's SIGKILL; a row for each trial")
