"""`bench report A.json B.json`: two runs side by side, and what else was different about them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from bench.document import read_document
from bench.tables import aligned, number
from bench.verdicts import cell, task_names

LATENCIES = ("p50", "p90", "p99", "p999", "max")


@click.command()
@click.argument("first", type=click.Path(dir_okay=False, path_type=Path))
@click.argument("second", type=click.Path(dir_okay=False, path_type=Path))
def report(first: Path, second: Path) -> None:
    """Compare two runs that were written with --json."""
    before, after = read_document(first), read_document(second)
    if before["kind"] != after["kind"]:
        raise click.ClickException(f"{first} is a run of {before['kind']}, {second} one of {after['kind']}")
    rows = {"load": _load_rows, "failover": _failover_rows, "compare": _compare_rows}.get(before["kind"])
    if rows is None:
        raise click.ClickException(f"a run of {before['kind']} cannot be compared")
    click.echo(aligned(("", first.name, second.name, "second : first"), rows(before, after)))
    differences = differing(before, after)
    click.echo("\nAlso different:" if differences else "\nSame flags, machine, versions and commit.")
    for name, (one, other) in differences.items():
        click.echo(f"  {name}: {one} | {other}")
    for path, document in ((first, before), (second, after)):
        for warning in warnings(document):
            click.echo(f"{path.name}: {warning}")


def _row(name: str, one: float | None, other: float | None) -> tuple[str, str, str, str]:
    ratio = f"{other / one:.2f}" if one and other is not None else "–"
    return name, number(one), number(other), ratio


def _load_rows(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    rows = [_row("operations/s", before["ops_per_s"], after["ops_per_s"])]
    rows += [
        _row(f"latency {name}, ms", before["latency_ms"][name], after["latency_ms"][name])
        for name in LATENCIES
    ]
    rows.append(_row("longest gap, ms", before["longest_gap_ms"], after["longest_gap_ms"]))
    rows.append(_row("errors", sum(before["errors"].values()), sum(after["errors"].values())))
    return rows


def _failover_rows(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    rows = []
    for figure, spread in before["summary_ms"].items():
        for column in ("p50", "p95", "max"):
            other = after["summary_ms"][figure][column]
            rows.append(_row(f"{figure.replace('_', ' ')} {column}, ms", spread[column], other))
    rows.append(_row("errors", sum(before["errors"].values()), sum(after["errors"].values())))
    rows.append(_row("problems", len(before["problems"]), len(after["problems"])))
    return rows


def _compare_rows(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    rows = []
    for task in task_names(before["runs"]):
        for way, title in before["ways"].items():
            one, other = cell(before["runs"], task, way), cell(after["runs"], task, way)
            if one is not None and other is not None:
                rows.append(_row(f"{task}: {title}, ops/s", one.ops_per_s, other.ops_per_s))
                rows.append(_row(f"{task}: {title}, p99 ms", one.p99_ms, other.p99_ms))
    for way, its in before["failover"].items():
        if way in after["failover"]:
            one_ms, other_ms = (
                document["failover"][way]["summary_ms"]["first_success"]["p50"]
                for document in (before, after)
            )
            rows.append(_row(f"failover: {its['title']}, first success p50 ms", one_ms, other_ms))
    return rows


def differing(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Flags, versions and properties of the machine that are not the same; its load is left out."""
    different: dict[str, tuple[Any, Any]] = {}
    for section in ("flags", "versions", "host"):
        one, other = before[section], after[section]
        for name in [*one, *(name for name in other if name not in one)]:
            if name != "load_average" and one.get(name) != other.get(name):
                different[name] = (one.get(name), other.get(name))
    if before["commit"] != after["commit"]:
        different["commit"] = (before["commit"], after["commit"])
    return different


def warnings(document: Mapping[str, Any]) -> list[str]:
    """What makes a run's figures worth less."""
    found = []
    if document.get("interrupted"):
        found.append("ended early")
    if document.get("generator", {}).get("limited"):
        found.append("limited by the generator")
    if document["host"]["load_average"][0] > document["host"]["cores"]:
        found.append(f"the machine was busy before: load average {document['host']['load_average'][0]:.1f}")
    return found
