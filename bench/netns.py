"""A cluster whose nodes live in network namespaces of their own, so that one can be cut off for real.

Each node has a cable (a veth pair) to a bridge in a hub namespace, where this process and the proxies are. To
cut a node off, its port of the bridge is disabled: packets vanish in both directions, no connection is reset.
Only namespaces that this process has made are touched, and nothing in the one that it came from.
"""

import ctypes
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.records import ClusterRecord, NodeRecord, ProxyRecord
from bench.subject import ClusterFailed, Subject

CLONE_NEWNET = 0x40000000
CLIENT_PORT, PEER_PORT, PROXY_PORT = 2379, 2380, 5379
PORT_DISABLED, PORT_FORWARDING = "0", "3"
COMMAND_TIMEOUT_S = 10.0


@dataclass(frozen=True, slots=True)
class Network:
    """The namespaces of one run. Node i, counted from 1, is at 10.77.0.i."""

    run: str
    nodes: int

    @property
    def hub(self) -> str:
        return f"bench-{self.run}-hub"

    def namespace(self, number: int) -> str:
        return f"bench-{self.run}-n{number}"

    @staticmethod
    def address(number: int) -> str:
        return f"10.77.0.{number}"

    @property
    def prefixes(self) -> dict[str, Sequence[str]]:
        """By what each node is started; `ip netns exec` keeps the pid."""
        ip = shutil.which("ip")
        assert ip is not None
        return {f"n{number}": (ip, "netns", "exec", self.namespace(number)) for number in self._numbers}

    @property
    def _numbers(self) -> range:
        return range(1, self.nodes + 1)

    def make(self) -> None:
        """Raises ClusterFailed."""
        _run("ip", "netns", "add", self.hub)
        _in(self.hub, "link", "set", "lo", "up")
        _in(self.hub, "link", "add", "br0", "type", "bridge")
        _in(self.hub, "addr", "add", "10.77.0.254/24", "dev", "br0")
        _in(self.hub, "link", "set", "br0", "up")
        for number in self._numbers:
            inner = self.namespace(number)
            _run("ip", "netns", "add", inner)
            _in(inner, "link", "set", "lo", "up")
            _in(
                inner,
                "link",
                "add",
                "eth0",
                "type",
                "veth",
                "peer",
                "name",
                f"port{number}",
                "netns",
                self.hub,
            )
            _in(inner, "addr", "add", f"{self.address(number)}/24", "dev", "eth0")
            _in(inner, "link", "set", "eth0", "up")
            _in(self.hub, "link", "set", f"port{number}", "master", "br0")
            _in(self.hub, "link", "set", f"port{number}", "up")

    def remove(self) -> None:
        """As far as it was made."""
        for name in (self.hub, *map(self.namespace, self._numbers)):
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)

    def set_port(self, node: str, state: str) -> None:
        _run("bridge", "-n", self.hub, "link", "set", "dev", f"port{node.removeprefix('n')}", "state", state)

    def plan(self, directory: Path, proxies: int) -> ClusterRecord:
        """A cluster on these addresses; pids are 0 until it is started."""
        peers = ",".join(f"n{i}=http://{self.address(i)}:{PEER_PORT}" for i in self._numbers)
        endpoints = ",".join(f"{self.address(i)}:{CLIENT_PORT}" for i in self._numbers)
        return ClusterRecord(
            nodes=tuple(self._node(directory, number, peers) for number in self._numbers),
            proxies=tuple(
                ProxyRecord(
                    name=f"p{i + 1}",
                    pid=0,
                    client_url=f"http://127.0.0.1:{PROXY_PORT + i}",
                    log=str(directory / f"p{i + 1}.log"),
                    argv=_python(
                        *("proxyd", "--endpoints", endpoints),
                        *("--listen-addr", f"127.0.0.1:{PROXY_PORT + i}"),
                    ),
                )
                for i in range(proxies)
            ),
        )

    def _node(self, directory: Path, number: int, peers: str) -> NodeRecord:
        name = f"n{number}"
        client_url = f"http://{self.address(number)}:{CLIENT_PORT}"
        peer_url = f"http://{self.address(number)}:{PEER_PORT}"
        return NodeRecord(
            name=name,
            pid=0,
            client_url=client_url,
            peer_url=peer_url,
            data_dir=str(directory / name),
            log=str(directory / f"{name}.log"),
            argv=_python(
                *("raftd", "--name", name, "--data-dir", str(directory / name)),
                *("--listen-client-urls", client_url, "--advertise-client-urls", client_url),
                *("--listen-peer-urls", peer_url, "--initial-advertise-peer-urls", peer_url),
                *("--initial-cluster", peers, "--initial-cluster-token", f"bench-{self.run}"),
            ),
        )


class Partition:
    """The leader is cut off from its peers, the proxies and us."""

    def __init__(self, network: Network) -> None:
        self._network = network

    def inject(self, subject: Subject, leader: str) -> None:
        self._network.set_port(leader, PORT_DISABLED)

    async def heal(self, subject: Subject, leader: str) -> None:
        self._network.set_port(leader, PORT_FORWARDING)


def check_possible() -> None:
    """Raises ClusterFailed with what is missing."""
    if os.geteuid() != 0:
        raise ClusterFailed("--fault partition makes network namespaces, and that needs root")
    for tool in ("ip", "bridge"):
        if shutil.which(tool) is None:
            raise ClusterFailed(f"--fault partition needs `{tool}`: sudo apt-get install iproute2")


@contextmanager
def network(nodes: int) -> Iterator[Network]:
    """Make the namespaces and move this process into the hub. Raises ClusterFailed.

    To be entered before any thread is started: the others would stay behind.
    """
    check_possible()
    made = Network(secrets.token_hex(3), nodes)
    try:
        made.make()
        _enter(made.hub)
        yield made
    finally:
        made.remove()


def _enter(namespace: str) -> None:
    descriptor = os.open(f"/run/netns/{namespace}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(descriptor, CLONE_NEWNET) != 0:
            raise ClusterFailed(f"cannot enter {namespace}: {os.strerror(ctypes.get_errno())}")
    finally:
        os.close(descriptor)


def _in(namespace: str, *arguments: str) -> None:
    _run("ip", "-n", namespace, *arguments)


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=COMMAND_TIMEOUT_S)
    if done.returncode != 0:
        raise ClusterFailed(f"`{' '.join(argv)}` failed: {done.stderr.strip()}")


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *arguments)
