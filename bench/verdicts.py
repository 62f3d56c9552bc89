"""From the runs of a comparison to its tables: medians, ratios and what limits their worth. Pure."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.statistics import median
from bench.tables import number

LIMITED_MARK = "*"
LIMITED_NOTE = (
    f"{LIMITED_MARK} etcd's side was driven by a Python generator that was as fast as it could be: etcd can "
    "do more, and the ratio is too good for us. Give --peer-load."
)
OURS_LIMITED_MARK = "†"
OURS_LIMITED_NOTE = f"{OURS_LIMITED_MARK} our side was limited by the Python generator: raftd can do more."

Run = dict[str, Any]
Table = Callable[[Sequence[str], Sequence[Sequence[str]]], str]


@dataclass(frozen=True, slots=True)
class Cell:
    """One way in one row: medians over the rounds of the better generator."""

    generator: str
    limited: bool
    ops_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    cpu_s_per_1000: float | None
    errors: int
    best_by_round: dict[int, float]


@dataclass(frozen=True, slots=True)
class Ratio:
    """Of our operations per second to the peer's, round by round: median, least and greatest."""

    middle: float
    least: float
    greatest: float
    mark: str

    def text(self) -> str:
        return f"{self.middle:.2f}{self.mark} ({self.least:.2f}–{self.greatest:.2f})"


def cell(runs: Sequence[Run], task: str, way: str) -> Cell | None:
    """None when that was never run."""
    mine = [run for run in runs if run["task"] == task and run["way"] == way]
    if not mine:
        return None
    generators = {run["generator"] for run in mine}

    def rate(generator: str) -> float:
        return median([run["ops_per_s"] for run in mine if run["generator"] == generator])

    better = max(sorted(generators), key=rate)
    its = [run for run in mine if run["generator"] == better]
    best: dict[int, float] = {}
    for run in mine:
        best[run["round"]] = max(best.get(run["round"], 0.0), run["ops_per_s"])
    return Cell(
        generator=better,
        limited=2 * sum(run["limited"] for run in its) > len(its),
        ops_per_s=rate(better),
        p50_ms=_median_of(its, lambda run: run["latency_ms"]["p50"]),
        p99_ms=_median_of(its, lambda run: run["latency_ms"]["p99"]),
        cpu_s_per_1000=_median_of(its, lambda run: run["cpu_s_per_1000"]),
        errors=sum(sum(run["errors"].values()) for run in its),
        best_by_round=best,
    )


def _median_of(runs: Sequence[Run], take: Callable[[Run], float | None]) -> float | None:
    known = [value for value in map(take, runs) if value is not None]
    return median(known) if known else None


def ratio(ours: Cell | None, peer: Cell | None) -> Ratio | None:
    if ours is None or peer is None:
        return None
    both = ours.best_by_round.keys() & peer.best_by_round.keys()
    ratios = [ours.best_by_round[r] / peer.best_by_round[r] for r in both if peer.best_by_round[r]]
    if not ratios:
        return None
    mark = LIMITED_MARK * peer.limited + OURS_LIMITED_MARK * ours.limited
    return Ratio(median(ratios), min(ratios), max(ratios), mark)


def task_names(runs: Sequence[Run]) -> list[str]:
    return list(dict.fromkeys(run["task"] for run in runs))


def throughput_rows(runs: Sequence[Run], ways: Sequence[str]) -> list[list[str]]:
    """Operations per second, and our ratios to etcd: through the proxy, and with a stock client."""
    rows = []
    for task in task_names(runs):
        cells = {way: cell(runs, task, way) for way in ways}
        peer = cells["etcd"]
        through_proxy, stock = ratio(cells["proxy"], peer), ratio(cells["stock"], peer)
        rows.append(
            [
                task,
                *(_rate(cells[way]) for way in ways),
                through_proxy.text() if through_proxy else "–",
                stock.text() if stock else "–",
            ]
        )
    return rows


def _rate(its: Cell | None) -> str:
    if its is None:
        return "–"
    return number(its.ops_per_s) + (" c" if its.generator == "compiled" else "")


def latency_rows(runs: Sequence[Run], ways: Sequence[str]) -> list[list[str]]:
    """p50 / p99 in milliseconds."""
    rows = []
    for task in task_names(runs):
        cells = [cell(runs, task, way) for way in ways]
        shown = [f"{number(its.p50_ms)} / {number(its.p99_ms)}" if its else "–" for its in cells]
        rows.append([task, *shown])
    return rows


def cost_rows(runs: Sequence[Run], ways: Sequence[str]) -> list[list[str]]:
    """CPU seconds of all server processes for a thousand operations."""
    return [
        [task, *(number(its.cpu_s_per_1000) if (its := cell(runs, task, way)) else "–" for way in ways)]
        for task in task_names(runs)
    ]


def memory_row(runs: Sequence[Run], ways: Sequence[str], name: str) -> list[str]:
    """The greatest that was seen, in MiB."""
    row = []
    for way in ways:
        seen = [run[name] for run in runs if run["way"] == way]
        row.append(f"{max(seen) / (1 << 20):,.0f}" if seen else "–")
    return row


def error_lines(runs: Sequence[Run], titles: dict[str, str]) -> list[str]:
    """Operations that failed, way by way."""
    counts: dict[tuple[str, str, str], int] = {}
    for run in runs:
        for text, count in run["errors"].items():
            key = (run["task"], titles[run["way"]], text)
            counts[key] = counts.get(key, 0) + count
    return [f"{task}, {title}: {count:,} × {text}" for (task, title, text), count in counts.items()]


def tables(document: dict[str, Any], draw: Table) -> list[tuple[str, str]]:
    """Heading and table, one pair after the other; `draw` makes them aligned text or Markdown."""
    runs, titles = document["runs"], document["ways"]
    ways = list(titles)
    header = ["", *titles.values()]
    found = [
        (
            "Operations per second (median of the rounds; c: by the compiled client)",
            draw([*header, "proxyd : etcd", "stock : etcd"], throughput_rows(runs, ways)),
        ),
        ("Latency in ms, p50 / p99", draw(header, latency_rows(runs, ways))),
        (
            "CPU seconds per 1,000 operations, all server processes together",
            draw(header, cost_rows(runs, ways)),
        ),
        (
            "Memory in MiB, all server processes together, at the most",
            draw(
                header,
                [
                    ["anonymous", *memory_row(runs, ways, "anonymous_bytes")],
                    ["resident, mapped files included", *memory_row(runs, ways, "resident_bytes")],
                ],
            ),
        ),
    ]
    if document["failover"]:
        found.append(("The leader killed by SIGKILL, ms", draw(*_failover_table(document["failover"]))))
    return found


def _failover_table(failover: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    header = ["", "first success p50", "p95", "max", "without a write p50", "p95", "max", "errors", "trials"]
    rows = []
    for its in failover.values():
        first, gap = its["summary_ms"]["first_success"], its["summary_ms"]["unavailable"]
        columns = ("p50", "p95", "max")
        rows.append(
            [
                its["title"],
                *(number(first[name]) for name in columns),
                *(number(gap[name]) for name in columns),
                f"{sum(its['errors'].values()):,}",
                str(len(its["trials"])),
            ]
        )
    return header, rows


def _idle_line(shares: dict[str, float]) -> str:
    ours, peer = shares["proxy"], shares["etcd"]
    return (
        f"With nothing to do, all processes of raftd and proxyd used {ours:.1%} of a core, etcd's {peer:.1%}."
    )


def notes(document: dict[str, Any]) -> list[str]:
    """What a reader of the tables has to know."""
    runs = document["runs"]
    shown = "".join(text for row in throughput_rows(runs, list(document["ways"])) for text in row[-2:])
    lines = [
        note
        for mark, note in ((LIMITED_MARK, LIMITED_NOTE), (OURS_LIMITED_MARK, OURS_LIMITED_NOTE))
        if mark in shown
    ]
    if document["idle_cpu_share"]:
        lines.append(_idle_line(document["idle_cpu_share"]))
    lines += error_lines(runs, document["ways"])
    for its in document["failover"].values():
        for problem in its["problems"]:
            lines.append(f"{its['title']}: {problem}")
    return lines
