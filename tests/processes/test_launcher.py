"""`bench cluster` runs a cluster in the foreground and leaves nothing behind."""

import json
import os
import signal
import socket
from pathlib import Path

import pytest
import trio

from bench import process
from bench.records import read_record
from clientctl.client import Client
from tests.processes.cluster import (
    LocalCluster,
    run_python,
    running_cluster,
    start_cluster,
    until_dead,
    until_text,
)

pytestmark = pytest.mark.processes


async def put(cluster: LocalCluster, key: bytes, value: bytes) -> None:
    async with Client([cluster.address("p1")], timeout=30.0) as client:
        await client.put(key, value)


async def get(cluster: LocalCluster, key: bytes) -> list[bytes]:
    async with Client([cluster.address("p1")], timeout=30.0) as client:
        return [pair.value for pair in (await client.get(key)).kvs]


async def test_a_directory_resumes_the_same_cluster_on_the_same_ports(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, nodes=3, proxies=1) as cluster:
        first = cluster.record
        document = json.loads((tmp_path / "cluster.json").read_text())
        await put(cluster, b"kept", b"yes")
        for entry in first.processes:
            os.kill(entry.pid, 0)
        assert set(document["nodes"][0]) == {
            "name",
            "pid",
            "client_url",
            "peer_url",
            "data_dir",
            "log",
            "argv",
        }
        assert await cluster.stop() == 0
    for entry in first.processes:
        with pytest.raises(ProcessLookupError):
            os.kill(entry.pid, 0)
    async with running_cluster(tmp_path) as cluster:
        assert [node.client_url for node in cluster.record.nodes] == [node.client_url for node in first.nodes]
        assert [node.peer_url for node in cluster.record.nodes] == [node.peer_url for node in first.nodes]
        assert [proxy.client_url for proxy in cluster.record.proxies] == [p.client_url for p in first.proxies]
        assert await get(cluster, b"kept") == [b"yes"]


async def test_a_node_that_dies_is_reported_and_left_alone(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        victim = cluster.process("n2")
        await cluster.kill("n2")
        await until_text(cluster.launcher_log, f"n2 (pid {victim.pid}) was killed by SIGKILL")
        assert cluster.process("n2").pid == victim.pid
        await cluster.restart("n2")
        restarted = cluster.process("n2").pid
        await put(cluster, b"k", b"v")
        await process.stop(cluster.launcher, 30.0)
        await until_dead(restarted)


async def test_nothing_survives_a_killed_launcher(tmp_path: Path) -> None:
    cluster = await start_cluster(tmp_path)
    processes = cluster.record.processes
    cluster.launcher.kill()
    await process.wait(cluster.launcher)
    for entry in processes:
        await until_dead(entry.pid)
    async with running_cluster(tmp_path) as again:
        await put(again, b"after", b"the kill")
    assert not (tmp_path / "cluster.json").exists()


async def test_ctrl_c_stops_all(tmp_path: Path) -> None:
    cluster = await start_cluster(tmp_path, nodes=1, proxies=0)
    processes = cluster.record.processes
    cluster.launcher.send_signal(signal.SIGINT)
    assert await process.wait(cluster.launcher) == 0
    for entry in processes:
        await until_dead(entry.pid)


async def test_a_directory_in_use_is_refused(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, nodes=1, proxies=0):
        record = read_record(tmp_path)
        ended = await run_python("bench", "cluster", "--data-dir", str(tmp_path))
        assert (ended.status, ended.stdout) == (1, "")
        assert ended.stderr == f"bench cluster: {tmp_path} is in use by another bench cluster\n"
        assert read_record(tmp_path) == record


async def test_a_port_that_became_busy_is_named(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, nodes=1, proxies=0) as cluster:
        port = int(cluster.address("n1").rpartition(":")[2])
    with socket.socket() as stranger:
        stranger.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        stranger.bind(("127.0.0.1", port))
        stranger.listen()
        ended = await run_python("bench", "cluster", "--data-dir", str(tmp_path))
        assert ended.status == 1
        assert ended.stderr == f"bench cluster: port {port} of 127.0.0.1 is in use by another program\n"


async def test_a_node_that_does_not_start_ends_the_launch_with_its_reason(tmp_path: Path) -> None:
    async with running_cluster(tmp_path, nodes=3, proxies=1):
        pass
    (tmp_path / "n2").rename(tmp_path / "elsewhere")
    (tmp_path / "n2").write_text("a file in the place of the data directory")
    with trio.fail_after(60.0):
        ended = await run_python("bench", "cluster", "--data-dir", str(tmp_path))
    assert ended.status == 1
    [line] = ended.stderr.splitlines()
    assert line.startswith("bench cluster: n2 (pid ")
    assert f"its log is {tmp_path}/n2.log: raftd: " in line
    assert '"event"' not in line
    assert not (tmp_path / "cluster.json").exists()


async def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ended = await run_python("bench", "cluster", "--data-dir", str(tmp_path / "file" / "below"))
    assert ended.status == 1
    assert ended.stderr.startswith(f"bench cluster: cannot use {tmp_path}/file/below: ")


@pytest.mark.parametrize("arguments", [["--nodes", "0"], ["--nodes", "three"], ["--frobnicate"], []])
async def test_wrong_usage_is_status_2(arguments: list[str], tmp_path: Path) -> None:
    ended = await run_python("bench", "cluster", *arguments)
    assert ended.status == 2
    assert "Error: " in ended.stderr
