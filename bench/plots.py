"""Pictures of results, with matplotlib where it is installed (`pip install raftd[plot]`).

matplotlib is imported when something is to be drawn, and never otherwise.
"""

from pathlib import Path
from typing import Any

import click

FORMATS = (".png", ".svg", ".pdf")
_WIDTH_IN, _HEIGHT_IN, _DPI = 11.0, 4.5, 120


def check_plotting(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """An option's callback: matplotlib is there, and the file can be written."""
    from bench.document import check_writable

    if path is None:
        return None
    if path.suffix not in FORMATS:
        raise click.BadParameter(f"{path} does not end in one of {', '.join(FORMATS)}", context, parameter)
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise click.BadParameter("needs matplotlib: pip install 'raftd[plot]'", context, parameter) from None
    return check_writable(context, parameter, path)


def new_figure(columns: int, *, rows: int = 1) -> tuple[Any, Any]:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    size: Any = (_WIDTH_IN, _HEIGHT_IN * rows)
    figure_and_axes: tuple[Any, Any] = pyplot.subplots(rows, columns, figsize=size, dpi=_DPI, squeeze=False)
    return figure_and_axes


def save_figure(figure: Any, path: Path) -> None:
    from matplotlib import pyplot

    figure.tight_layout()
    try:
        figure.savefig(path)
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {error.strerror}") from None
    finally:
        pyplot.close(figure)


def draw_percentiles(
    axes: Any, curves: dict[str, list[tuple[float, float]]], colours: list[str] | None = None
) -> None:
    """Latency over percentile, with the rare ones drawn apart: 90, 99, 99.9, … at equal distances."""
    for position, (name, curve) in enumerate(curves.items()):
        colour = colours[position] if colours else None
        points = [(1 / (1 - share), latency_ms) for share, latency_ms in curve if share < 1]
        axes.plot([x for x, _ in points], [y for _, y in points], label=name, color=colour)
    axes.set_xscale("log")
    logarithmic_ms(axes)
    ticks = [2, 10, 100, 1000, 10_000]
    axes.set_xticks(ticks, [f"{100 * (1 - 1 / tick):g} %" for tick in ticks], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlabel("percentile")
    axes.grid(alpha=0.3)
    if len(curves) > 1:
        axes.legend(fontsize=8)


def logarithmic_ms(axes: Any) -> None:
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_ylabel("latency in ms")


def plot_load(document: dict[str, Any], path: Path) -> None:
    """One run of load: second by second, and its latency percentiles."""
    figure, ((over_time, percentiles),) = new_figure(2)
    seconds = [point["second"] for point in document["series"]]
    over_time.bar(
        seconds, [point["operations"] for point in document["series"]], 1.0, align="edge", color="#9ecae1"
    )
    over_time.set_xlabel("second")
    over_time.set_ylabel("operations in it")
    late = over_time.twinx()
    middles = [second + 0.5 for second in seconds]
    late.plot(middles, [point["p99_ms"] for point in document["series"]], color="#d62728", label="p99")
    late.plot(middles, [point["p50_ms"] for point in document["series"]], color="#ff9896", label="p50")
    late.set_ylabel("latency in ms")
    late.set_ylim(bottom=0)
    late.legend(loc="lower right")
    draw_percentiles(percentiles, {"": document["percentile_curve"]})
    flags = document["flags"]
    figure.suptitle(f"{flags['operation']}, {flags['clients']} clients, {document['ops_per_s']:,.0f}/s")
    save_figure(figure, path)


def plot_failover(document: dict[str, Any], path: Path) -> None:
    """Every trial's acknowledged writes around the fault, one row each, and the milestones' distribution."""
    from bench.timeline import MILESTONES

    figure, ((timeline, distribution),) = new_figure(2)
    trials = document["trials"]
    colours = dict(zip(MILESTONES, ("#ff7f0e", "#d62728", "#9467bd", "#1f77b4", "#2ca02c"), strict=True))
    slowest = max((trial["first_success_ms"] or 0.0 for trial in trials), default=0.0)
    for row, trial in enumerate(trials, 1):
        acknowledged = trial["acknowledged_at_ms"]
        timeline.plot(acknowledged, [row] * len(acknowledged), "|", color="#555555", markersize=4)
        for name, colour in colours.items():
            if trial[f"{name}_ms"] is not None:
                timeline.plot([trial[f"{name}_ms"]], [row], "o", color=colour, markersize=3)
    timeline.axvline(0, color="black", linewidth=0.8)
    timeline.set_xlim(-0.4 * slowest - 20, 1.4 * slowest + 20)
    timeline.set_xlabel("ms since the fault; each stroke is an acknowledged write")
    timeline.set_ylabel("trial")
    timeline.yaxis.get_major_locator().set_params(integer=True)
    for name, colour in colours.items():
        moments = sorted(trial[f"{name}_ms"] for trial in trials if trial[f"{name}_ms"] is not None)
        shares = [rank / len(trials) for rank in range(len(moments) + 1)]
        label = name.replace("_", " ")
        distribution.step([0, *moments], shares, where="post", color=colour, label=label)
    distribution.set_xlabel("ms since the fault")
    distribution.set_ylabel("share of the trials that had got there")
    distribution.set_xlim(left=0)
    distribution.set_ylim(0, 1.02)
    distribution.grid(alpha=0.3)
    distribution.legend(loc="lower right")
    figure.suptitle(f"{document['flags']['fault']} of the leader, {len(trials)} trials")
    save_figure(figure, path)
