"""The commands as a user runs them: what they refuse, what they write, and servers that go away."""

import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from bench import netns
from bench.document import SCHEMA_VERSION
from bench.main import main
from bench.subject import ClusterFailed
from proto import errors, rpc_pb2
from proto.bridge import Call, Service, serve
from proto.errors import Status
from proto.rpc_pb2 import PutRequest, PutResponse, RangeRequest, RangeResponse

BOUND_S = 60.0
"""Far above what it takes; that it ends at all is what counts."""


needs_etcd = pytest.mark.skipif(
    shutil.which("etcd") is None, reason="etcd is missing; this brings it: sudo apt-get install etcd-server"
)


def refused(*arguments: str) -> str:
    """The complaint of a command that does not start."""
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code != 0
    return result.output


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("put", "--clients", "0"), "0 is not in the range"),
        (("put", "--clients", "99999999"), "is not in the range"),
        (("put", "--seconds", "0"), "0.0 is not in the range"),
        (("put", "--seconds", "nan"), "nan is not a finite number"),
        (("put", "--total", "-3"), "-3 is not in the range"),
        (("put", "--seconds", "1", "--total", "1"), "--seconds and --total exclude each other"),
        (("put", "--processes", "3", "--clients", "2"), "--processes 3 is more than --clients 2"),
        (("put", "--processes", "3", "--clients", "3", "--total", "2"), "--total 2 is less than"),
        (("put", "--connections", "3"), "--connections 3 is not between"),
        (("put", "--rate", "0"), "0.0 is not in the range"),
        (("put", "--value-size", "2000000"), "is not in the range"),
        (("put", "--endpoints", "nowhere"), "expected HOST:PORT"),
        (("put", "--endpoints", ""), "names no endpoint"),
        (("mixed", "--read-ratio", "1.5"), "1.5 is not in the range"),
        (("watch", "--value-size", "10"), "--value-size must be at least 24"),
        (("get", "--distribution", "odd"), "'odd' is not one of"),
        (("put", "--json", "/nonexistent/x.json"), "cannot write /nonexistent/x.json"),
        (("put", "--plot", "x.txt"), "does not end in one of .png"),
        (("failover", "--fault", "partition", "--cluster", "."), "only works on a cluster of its own"),
        (("failover", "--trials", "0"), "0 is not in the range"),
        (("failover", "--cluster", "."), "no bench cluster serves in "),
        pytest.param(
            ("compare", "--peer-load", "/nowhere/load"), "no program /nowhere/load", marks=needs_etcd
        ),
        (("disk", "/nonexistent"), "does not exist"),
    ],
)
def test_bad_input_is_refused_before_anything_runs(arguments: tuple[str, ...], complaint: str) -> None:
    assert complaint in refused(*arguments)


def test_a_missing_etcd_comes_with_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "sudo apt-get install etcd-server" in refused("compare")


def test_a_partition_without_root_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(ClusterFailed, match="needs root"):
        netns.check_possible()
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClusterFailed, match="iproute2"):
        netns.check_possible()


def test_an_output_file_that_is_not_written_is_not_left_behind(tmp_path: Path) -> None:
    path = tmp_path / "out.json"
    refused("put", "--json", str(path), "--clients", "0")
    assert not path.exists()


def test_the_disk_is_measured(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["disk", str(tmp_path), "--writes", "3", "--json"])
    figures = json.loads(result.output)
    assert figures["writes"] == 3
    assert 0 < figures["fdatasync_p50_ms"] <= figures["fdatasync_p99_ms"]
    assert 0 < figures["lmdb_commit_p50_ms"] <= figures["lmdb_commit_p99_ms"]
    assert list(tmp_path.iterdir()) == []


class FakeEtcd:
    """etcd's KV as far as a load needs it, and no session stream. From put number `fails_from` on it is out
    of order."""

    def __init__(self, fails_from: float = float("inf")) -> None:
        self.fails_from = fails_from
        self.puts = 0
        self.first_put = trio.Event()

    async def put(self, request: PutRequest, call: Call) -> PutResponse:
        self.puts += 1
        self.first_put.set()
        if self.puts >= self.fails_from:
            raise Status(errors.UNAVAILABLE, "etcdserver: no leader")
        return PutResponse()

    async def range(self, request: RangeRequest, call: Call) -> RangeResponse:
        return RangeResponse()

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[str]:
        service = Service(rpc_pb2.DESCRIPTOR.services_by_name["KV"], {"Put": self.put, "Range": self.range})
        async with trio.open_nursery() as nursery:
            (port,) = await nursery.start(partial(serve, ["127.0.0.1:0"], [service], grace_s=0.0))
            yield f"127.0.0.1:{port}"
            nursery.cancel_scope.cancel()


async def bench(*arguments: str) -> tuple[int, str, str]:
    """Exit status, output and complaints of `bench`."""
    with trio.fail_after(BOUND_S):
        done = await trio.run_process(
            [sys.executable, "-m", "bench", *arguments], capture_stdout=True, capture_stderr=True, check=False
        )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


SUMMARY = {"p50", "p90", "p99", "p999", "p9999", "mean", "max"}


def check_schema(document: dict[str, Any]) -> None:
    """What readers of the JSON rely on."""
    assert (document["schema"], document["schema_version"], document["kind"]) == (
        "raftd-bench",
        SCHEMA_VERSION,
        "load",
    )
    assert isinstance(document["ops_per_s"], float)
    assert set(document["latency_ms"]) == set(document["service_latency_ms"]) == SUMMARY
    assert all(isinstance(text, str) and count > 0 for text, count in document["errors"].items())
    assert {"cores", "memory_bytes", "kernel"} <= set(document["host"])
    assert {"python", "grpcio", "raftd"} <= set(document["versions"])
    assert {"fdatasync_p50_ms", "lmdb_commit_p99_ms"} <= set(document["disk"])
    assert {"operation", "clients", "rate", "processes", "endpoints"} <= set(document["flags"])
    assert "commit" in document
    assert document["interrupted"] in (True, False)
    for second, point in enumerate(document["series"]):
        assert set(point) == {"second", "operations", "errors", "p50_ms", "p99_ms"}
        assert point["second"] == second


@pytest.mark.processes
async def test_a_run_by_two_processes_is_one_document(tmp_path: Path) -> None:
    path, etcd = tmp_path / "run.json", FakeEtcd()
    async with etcd.serving() as endpoint:
        status, output, _ = await bench(
            *("put", "--endpoints", endpoint, "--protocol", "etcd", "--total", "200", "--warmup", "0"),
            *("--clients", "4", "--processes", "2", "--json", str(path), "--disk", str(tmp_path)),
        )
    assert status == 0
    document = json.loads(path.read_text())
    check_schema(document)
    assert document["operations"] == etcd.puts == 200
    assert len(document["generator"]["cpu_shares"]) == 2
    assert sum(point["operations"] for point in document["series"]) == 200
    assert "200 in all" in output
    status, output, _ = await bench("report", str(path), str(path))
    assert status == 0
    assert "Same flags, machine, versions and commit." in output


@pytest.mark.processes
async def test_an_etcd_is_told_from_ours(tmp_path: Path) -> None:
    async with FakeEtcd().serving() as endpoint:
        status, _, complaint = await bench("put", "--endpoints", endpoint, "--seconds", "1")
    assert status == 1
    assert f"{endpoint} does not speak the session protocol (an etcd?); use --protocol etcd" in complaint


@pytest.mark.processes
@pytest.mark.parametrize("protocol", ["session", "etcd"])
async def test_no_server_is_said_in_one_line(protocol: str) -> None:
    status, output, complaint = await bench("put", "--endpoints", "127.0.0.1:1", "--protocol", protocol)
    assert (status, output) == (1, "")
    assert len(complaint.splitlines()) == 1
    assert "no server of ours or etcd's at 127.0.0.1:1" in complaint


@pytest.mark.processes
async def test_a_server_that_fails_in_mid_run_shows_as_errors(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    async with FakeEtcd(fails_from=50).serving() as endpoint:
        status, output, _ = await bench(
            *("put", "--endpoints", endpoint, "--protocol", "etcd", "--seconds", "1", "--warmup", "0"),
            *("--json", str(path)),
        )
    assert status == 0
    document = json.loads(path.read_text())
    check_schema(document)
    assert document["operations"] == 49
    assert set(document["errors"]) == {"UNAVAILABLE: etcdserver: no leader"}
    assert "× UNAVAILABLE: etcdserver: no leader" in output


@pytest.mark.processes
async def test_a_run_cut_short_by_ctrl_c_still_reports(tmp_path: Path) -> None:
    path, etcd = tmp_path / "run.json", FakeEtcd()
    async with etcd.serving() as endpoint:
        process = await trio.lowlevel.open_process(
            [
                *(sys.executable, "-m", "bench", "put", "--endpoints", endpoint, "--protocol", "etcd"),
                *("--seconds", "3600", "--warmup", "0", "--json", str(path)),
            ]
        )
        with trio.fail_after(BOUND_S):
            await etcd.first_put.wait()
            os.kill(process.pid, signal.SIGINT)
            assert await process.wait() == 0
    document = json.loads(path.read_text())
    check_schema(document)
    assert document["interrupted"]
    assert document["duration_s"] < 3600


@pytest.mark.processes
async def test_a_generator_process_that_dies_ends_the_run_with_its_end() -> None:
    etcd = FakeEtcd()
    async with etcd.serving() as endpoint:
        process = await trio.lowlevel.open_process(
            [
                *(sys.executable, "-m", "bench", "put", "--endpoints", endpoint, "--protocol", "etcd"),
                *("--seconds", "3600", "--warmup", "0"),
            ],
            stderr=-1,
        )
        assert process.stderr is not None
        with trio.fail_after(BOUND_S):
            await etcd.first_put.wait()
            tasks = Path(f"/proc/{process.pid}/task").glob("*/children")
            (generator,) = [int(pid) for task in tasks for pid in task.read_text().split()]
            os.kill(generator, signal.SIGKILL)
            complaint = b""
            while chunk := await process.stderr.receive_some():
                complaint += chunk
            assert await process.wait() == 1
        await process.stderr.aclose()
    assert b"a generator process was killed by SIGKILL" in complaint
