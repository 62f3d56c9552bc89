"""A three-node etcd on this machine, as the cluster to compare with. `bench.subject` starts it."""

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench.ports import PortGuard
from bench.records import ClusterRecord, NodeRecord
from bench.subject import ClusterFailed

NODES = 3
VERSION_TIMEOUT_S = 10.0


def find() -> str:
    """The path of the binary. Raises ClusterFailed with how to get it."""
    path = shutil.which("etcd")
    if path is None:
        raise ClusterFailed(
            "no etcd on the PATH; Debian and Ubuntu have it: sudo apt-get install etcd-server"
        )
    return path


def version(binary: str) -> str:
    """As it names itself. Raises ClusterFailed."""
    try:
        done = subprocess.run(
            [binary, "--version"], capture_output=True, text=True, check=True, timeout=VERSION_TIMEOUT_S
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise ClusterFailed(f"{binary} does not run: {error}") from None
    return done.stdout.splitlines()[0].removeprefix("etcd Version: ")


def plan(binary: str, directory: Path, flags: Sequence[str], guard: PortGuard) -> ClusterRecord:
    """Its processes, with etcd's defaults but for `flags`; pids are 0 until it is started."""
    ports = [(guard.take_free(), guard.take_free()) for _ in range(NODES)]
    peers = ",".join(f"e{i}=http://127.0.0.1:{peer}" for i, (_, peer) in enumerate(ports, 1))
    return ClusterRecord(
        nodes=tuple(_node(binary, directory, f"e{i}", pair, peers, flags) for i, pair in enumerate(ports, 1)),
        proxies=(),
    )


def _node(
    binary: str, directory: Path, name: str, ports: tuple[int, int], peers: str, flags: Sequence[str]
) -> NodeRecord:
    client_url, peer_url = (f"http://127.0.0.1:{port}" for port in ports)
    return NodeRecord(
        name=name,
        pid=0,
        client_url=client_url,
        peer_url=peer_url,
        data_dir=str(directory / name),
        log=str(directory / f"{name}.log"),
        argv=(
            *(binary, "--name", name, "--data-dir", str(directory / name)),
            *("--listen-client-urls", client_url, "--advertise-client-urls", client_url),
            *("--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url),
            *("--initial-cluster", peers, "--initial-cluster-state", "new"),
            *flags,
        ),
    )
