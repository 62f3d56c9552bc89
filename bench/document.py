"""The JSON of a run: what it is made of, and how it gets into a file.

`docs/benchmarks.md` describes it field by field; a change that readers notice raises SCHEMA_VERSION.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from bench import host
from bench.crew import LoadResult
from bench.disk import DiskFigures
from bench.recorder import KIND_NAMES
from bench.records import write_atomically
from bench.statistics import percentile_curve_ns, summarize_ns
from bench.workload import Workload

SCHEMA = "raftd-bench"
SCHEMA_VERSION = 1


def heading(kind: str, flags: Mapping[str, Any], disk: DiskFigures | None) -> dict[str, Any]:
    """What every document begins with."""
    return {
        "schema": SCHEMA,
        "schema_version": SCHEMA_VERSION,
        "kind": kind,
        "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": host.command_line(),
        "commit": host.commit(),
        "versions": host.versions(),
        "host": host.host(),
        "disk": asdict(disk) if disk else None,
        "flags": dict(flags),
    }


def load_document(
    workload: Workload, processes: int, result: LoadResult[Any], disk: DiskFigures | None
) -> dict[str, Any]:
    """The document of a run of load."""
    flags = {**workload.to_json(), "processes": processes}
    for internal in ("worker", "workers"):
        del flags[internal]
    return heading("load", flags, disk) | {"interrupted": result.interrupted, **load_figures(result)}


def load_figures(result: LoadResult[Any]) -> dict[str, Any]:
    """What a run of load measured."""
    recording = result.recording
    response = recording.response
    figures: dict[str, Any] = {
        "duration_s": round(recording.window_s, 6),
        "operations": len(recording),
        "ops_per_s": round(recording.completed_in_window / recording.window_s, 3)
        if recording.window_s
        else 0.0,
        "latency_ms": summarize_ns(response),
        "service_latency_ms": summarize_ns(recording.service),
        "errors": dict(recording.errors.most_common()),
        "unsent": recording.unsent,
        "in_flight_at_end": recording.in_flight,
        "longest_gap_ms": round(recording.longest_gap_s() * 1000, 3),
        "generator": {
            "processes": len(result.cpu_shares),
            "cpu_shares": [round(share, 3) for share in result.cpu_shares],
            "limited": result.limited_by_generator,
            "operations_limit_reached": result.operations_limit_reached,
        },
    }
    kinds = set(recording.kinds)
    if len(kinds) > 1:
        figures["by_operation"] = {
            KIND_NAMES[kind]: {
                "operations": recording.kinds.count(kind),
                "latency_ms": summarize_ns(recording.response_of(kind)),
            }
            for kind in sorted(kinds)
        }
    return figures | {"percentile_curve": percentile_curve_ns(response), "series": recording.series()}


def check_writable(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """An option's callback: the file can be written, as far as can be known before the run."""
    if path is None or str(path) == "-":
        return path
    existed = path.exists()
    try:
        with path.open("ab"):
            pass
    except OSError as error:
        raise click.BadParameter(f"cannot write {path}: {error.strerror}", context, parameter) from None
    if not existed:
        path.unlink()
    return path


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """To a file, whole or not at all; to standard output for `-`. Raises ClickException."""
    if str(path) == "-":
        json.dump(document, sys.stdout, indent=2)
        sys.stdout.write("\n")
        return
    try:
        if path.exists() and not path.is_file():
            path.write_text(json.dumps(document, indent=2) + "\n")
        else:
            write_atomically(path, document)
    except OSError as error:
        raise click.ClickException(f"cannot write {path}: {os.strerror(error.errno or 0)}") from None


def read_document(path: Path) -> dict[str, Any]:
    """A document that this program wrote. Raises ClickException."""
    try:
        document = json.loads(path.read_text())
    except OSError as error:
        raise click.ClickException(f"cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise click.ClickException(f"{path} is not JSON: {error}") from None
    if not isinstance(document, dict) or document.get("schema") != SCHEMA:
        raise click.ClickException(f"{path} was not written by bench")
    if document.get("schema_version") != SCHEMA_VERSION:
        raise click.ClickException(
            f"{path} has schema version {document.get('schema_version')}; this bench reads {SCHEMA_VERSION}"
        )
    return document
