"""Debian's etcd as a process of its own, and the tools that talk to it."""

import shutil
import socket
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from clientctl.client import Client

NEEDS_ETCD = [
    pytest.mark.processes,
    pytest.mark.skipif(
        not (shutil.which("etcd") and shutil.which("etcdctl")),
        reason="needs etcd and etcdctl: apt-get install etcd-server etcd-client",
    ),
]

START_TIMEOUT_S = 30


@dataclass
class Etcd:
    """A running etcd and a tool that talks to it."""

    endpoint: str
    tool: Sequence[str]
    environment: dict[str, str]

    def __call__(self, *arguments: str, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [*self.tool, *arguments], input=stdin, capture_output=True, env=self.environment, check=False
        )


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def start_etcd(directory: Path, ports: Sequence[int] = ()) -> tuple[subprocess.Popen[bytes], str]:
    """On `ports` (of clients and of peers) or on free ones. The directory may be one that it had before."""
    client, peer = (f"http://127.0.0.1:{port}" for port in ports or free_ports(2))
    log = open(directory / "log", "ab")  # noqa: SIM115
    process = subprocess.Popen(
        [
            "etcd",
            f"--data-dir={directory / 'data'}",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        ],
        stdout=log,
        stderr=log,
    )
    log.close()
    return process, client.removeprefix("http://")


async def until_it_serves(endpoint: str) -> None:
    async with Client([endpoint], timeout=START_TIMEOUT_S) as client:
        await client.get("health")
