"""Wrong flags, files, directories and bytes: each gets one clear line, and nothing is lost."""

import os
import random
import signal
import socket
import sys
from pathlib import Path

import pytest
import trio

from bench import process
from clientctl.client import Client
from tests.processes.cluster import (
    BOUND_S,
    Ended,
    LocalCluster,
    run,
    run_python,
    running_cluster,
    until_dead,
    until_text,
)

pytestmark = [pytest.mark.processes, pytest.mark.xdist_group("bad input")]

FAILURE, USAGE, STORAGE_REFUSED = 1, 2, 3


def one_line(ended: Ended) -> str:
    """What a program says to the person who started it, in one line beside its log; a traceback is none."""
    assert "Traceback" not in ended.stdout + ended.stderr, ended
    lines = {line for line in ended.stderr.splitlines() if line.startswith(("raftd: ", "proxyd: "))}
    assert len(lines) == 1, ended
    return lines.pop()


def changed(argv: tuple[str, ...], **flags: str) -> list[str]:
    """A node's command line with other values for some flags."""
    result = list(argv)
    for name, value in flags.items():
        result[result.index(f"--{name.replace('_', '-')}") + 1] = value
    return result


# Flags and files


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--frobnicate", "1"], "unknown flag --frobnicate"),
        (["--nmae", "n1"], "did you mean --name"),
        (["--data-dir"], "--data-dir needs a value"),
        (["--name", "a", "--name", "b"], "--name is given twice"),
        (["--listen-client-urls", "nonsense"], "--listen-client-urls"),
        (["--listen-client-urls", "http://127.0.0.1:99999"], "--listen-client-urls"),
        (["--listen-client-urls", "https://127.0.0.1:2379"], "TLS is not supported"),
        (["--initial-cluster", "n1"], "NAME=http://HOST:PORT"),
        (["--name", "n9", "--initial-cluster", "n1=http://127.0.0.1:2380"], "n9 is not in --initial-cluster"),
        (
            ["--name", "n1", "--initial-cluster", "n1=http://127.0.0.1:1,n1=http://127.0.0.1:2"],
            "--initial-cluster names n1 twice",
        ),
        (
            ["--name", "n1", "--initial-cluster", "n1=http://127.0.0.1:1,n2=http://127.0.0.1:1"],
            "--initial-cluster has http://127.0.0.1:1 twice",
        ),
        (
            ["--listen-client-urls", "http://127.0.0.1:7", "--listen-peer-urls", "http://127.0.0.1:7"],
            "give each its own port",
        ),
        (
            ["--election-timeout", "60", "--heartbeat-interval", "50"],
            "is not well above --heartbeat-interval 50",
        ),
        (["--election-timeout", "soon"], "--election-timeout must be a whole number"),
        (["--config-file", "/does/not/exist.toml"], "cannot read --config-file /does/not/exist.toml"),
    ],
)
async def test_flags_of_raftd(arguments: list[str], text: str) -> None:
    ended = await run_python("raftd", *arguments)
    assert ended.status == USAGE
    assert text in one_line(ended)
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--frobnicate", "1"], "unknown flag --frobnicate"),
        ([], "--endpoints is missing"),
        (["--endpoints", "nonsense"], "--endpoints"),
        (["--endpoints", "127.0.0.1:1,127.0.0.1:1"], "127.0.0.1:1"),
        (["--endpoints", "127.0.0.1:1", "--listen-addr", "nowhere"], "--listen-addr"),
        (["--endpoints", "127.0.0.1:1", "--listen-addr", "127.0.0.1:1"], "127.0.0.1:1"),
    ],
)
async def test_flags_of_proxyd(arguments: list[str], text: str) -> None:
    ended = await run_python("proxyd", *arguments)
    assert ended.status == USAGE
    assert text in one_line(ended)
    assert len(ended.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"name = ", "is not valid TOML"),
        (b"\xff\xfe", "is not UTF-8 text"),
        (b"nmae = 'n1'", "unknown key nmae"),
        (b"election-timeout = 1.5", "election-timeout"),
        (b"[table]\nx = 1", "unknown key table"),
    ],
)
async def test_a_malformed_configuration_file(content: bytes, text: str, tmp_path: Path) -> None:
    file = tmp_path / "raftd.toml"
    file.write_bytes(content)
    ended = await run_python("raftd", "--config-file", str(file))
    assert ended.status == USAGE
    assert text in one_line(ended)
    assert str(file) in ended.stderr


ORDINARY_INSTALL = """
import sys
sys.path[:0] = [{fake!r}, {checkout!r}]
sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in repr(finder)]
from {program}.main import main
main()
"""


@pytest.mark.parametrize("program", ["raftd", "proxyd"])
async def test_proto_plus_in_place_of_our_proto(program: str, tmp_path: Path) -> None:
    """It installs a package of the same name; whoever has both is told so in one line."""
    (tmp_path / "proto").mkdir()
    (tmp_path / "proto" / "__init__.py").write_text("class Message: pass\n")
    checkout = Path(__file__).parents[2]
    code = ORDINARY_INSTALL.format(fake=str(tmp_path), checkout=str(checkout), program=program)
    ended = await run(sys.executable, "-c", code)
    assert ended.status == FAILURE
    assert "If that is proto-plus, give" in one_line(ended)
    assert len(ended.stderr.splitlines()) == 1


# Directories and ports. These tests leave the shared cluster as it was.


async def test_a_port_in_use(cluster: LocalCluster, tmp_path: Path) -> None:
    for flag, address in (
        ("--listen-client-urls", cluster.address("n1")),
        ("--listen-peer-urls", cluster.peer_address("n1")),
    ):
        urls = {"--listen-client-urls": "http://127.0.0.1:0", "--listen-peer-urls": "http://127.0.0.1:0"}
        urls[flag] = f"http://{address}"
        advertised = ("--advertise-client-urls", "http://127.0.0.1:1", "--initial-advertise-peer-urls")
        words = [word for pair in urls.items() for word in pair]
        ended = await run_python(
            "raftd", "--data-dir", str(tmp_path / "data"), *words, *advertised, "http://127.0.0.1:2"
        )
        assert ended.status == FAILURE
        assert address in one_line(ended)
        assert "in use" in one_line(ended)
    ended = await run_python(
        "proxyd", "--endpoints", cluster.address("n1"), "--listen-addr", cluster.address("p1")
    )
    assert ended.status == FAILURE
    assert cluster.address("p1") in one_line(ended)
    assert "in use" in one_line(ended)


async def test_two_processes_on_one_data_directory(cluster: LocalCluster) -> None:
    ended = await run(*cluster.process("n1").argv)
    assert ended.status == STORAGE_REFUSED
    assert cluster.record.node("n1").data_dir in one_line(ended)
    async with Client([cluster.address("n1")], timeout=BOUND_S) as client:
        await client.put(b"still", b"there")


async def test_a_directory_of_another_node(tmp_path: Path) -> None:
    async with running_cluster(tmp_path) as cluster:
        await cluster.kill("n1", "n2")
        record = cluster.record.node("n1")
        ended = await run(*changed(record.argv, data_dir=cluster.record.node("n2").data_dir))
        assert ended.status == STORAGE_REFUSED
        assert "n2" in one_line(ended)
        await cluster.restart("n1", "n2")


async def test_a_directory_of_another_cluster(tmp_path: Path) -> None:
    """Refused by its peers, which count it; it never votes, and its own data stay as they are."""
    async with (
        running_cluster(tmp_path / "other", proxies=0) as other,
        running_cluster(tmp_path / "one") as one,
    ):
        async with Client([other.address("n1")], timeout=BOUND_S) as client:
            await client.put(b"of", b"the other")
        await other.kill("n1")
        await one.kill("n1")
        stranger = changed(one.process("n1").argv, data_dir=other.record.node("n1").data_dir)
        ended = await run(*stranger)
        assert ended.status == STORAGE_REFUSED
        assert one_line(ended)
        await one.restart("n1")
        await other.restart("n1")
        async with Client([other.address("n1")], timeout=BOUND_S) as client:
            assert (await client.get(b"of")).kvs[0].value == b"the other"


async def test_a_wiped_member_is_refused(tmp_path: Path) -> None:
    """It might have voted or acknowledged something that it no longer knows (hazards 43, 77)."""
    async with running_cluster(tmp_path) as cluster:
        await cluster.kill("n1")
        record = cluster.record.node("n1")
        kept = Path(record.data_dir).rename(tmp_path / "kept")
        ended = await run(*record.argv)
        assert ended.status in (FAILURE, STORAGE_REFUSED)
        assert "wiped or replaced" in one_line(ended)
        async with Client([cluster.address("p1")], timeout=BOUND_S) as client:
            await client.put(b"k", b"v")
        for path in sorted(Path(record.data_dir).iterdir()):
            path.unlink()
        Path(record.data_dir).rmdir()
        kept.rename(record.data_dir)
        await cluster.restart("n1")


# Bytes


async def test_random_bytes_on_every_port(cluster: LocalCluster) -> None:
    """Every process survives them and serves on (hazards 93, 94)."""
    generator = random.Random(1)
    ports = [cluster.address(entry.name) for entry in cluster.record.processes]
    ports += [cluster.peer_address(name) for name in cluster.names]
    pids = {entry.name: entry.pid for entry in cluster.record.processes}
    for address in ports:
        host, _, port = address.partition(":")
        for start in (b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01"):
            stream = await trio.open_tcp_stream(host, int(port))
            try:
                await stream.send_all(start + generator.randbytes(64 * 1024))
            except trio.BrokenResourceError:
                continue  # It hung up on us, as it may.
            finally:
                await trio.aclose_forcefully(stream)
    for name in (*cluster.names, "p1"):
        async with Client([cluster.address(name)], timeout=BOUND_S) as client:
            await client.put(b"after random bytes", name.encode())
            assert (await client.get(b"after random bytes")).kvs[0].value == name.encode()
    for name, pid in pids.items():
        assert cluster.process(name).pid == pid
        os.kill(pid, 0)
    assert "was killed" not in cluster.launcher_log.read_text()
    assert "ended with" not in cluster.launcher_log.read_text()


async def test_clients_that_vanish_in_mid_call(cluster: LocalCluster, tmp_path: Path) -> None:
    program = (
        "import sys, trio\n"
        "from clientctl.client import Client\n"
        "async def main():\n"
        "    async with Client([sys.argv[1]]) as client, trio.open_nursery() as nursery:\n"
        "        for i in range(200):\n"
        "            nursery.start_soon(client.put, f'vanishing/{i}'.encode(), b'x' * 10000)\n"
        "        await client.put(b'vanishing', b'soon')\n"
        "        print('up', flush=True)\n"
        "        await trio.sleep_forever()\n"
        "trio.run(main)\n"
    )
    for number, name in enumerate((*cluster.names, "p1")):
        log = tmp_path / f"log{number}"
        child = process.start([sys.executable, "-c", program, cluster.address(name)], log)
        await until_text(log, "up")
        child.send_signal(signal.SIGKILL)
        await until_dead(child.pid)
        await process.wait(child)
        async with Client([cluster.address(name)], timeout=BOUND_S) as client:
            await client.put(b"after", b"the end")
    assert "ended with" not in cluster.launcher_log.read_text()


async def test_a_proxy_that_is_its_own_endpoint(tmp_path: Path) -> None:
    """A loop would multiply every call for ever (hazard 88): the proxy notices, says so, and serves
    nobody."""
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        log = tmp_path / "log"
        # Under another name of the same address, which the flags alone do not give away.
        argv = [sys.executable, "-m", "proxyd", "--endpoints", f"localhost:{port}", "--listen-addr"]
        child = process.start([*argv, f"127.0.0.1:{port}"], log)
        try:
            await until_text(log, "a proxyd cannot be its own endpoint")
        finally:
            await process.stop(child, BOUND_S)
