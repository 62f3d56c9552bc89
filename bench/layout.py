"""What a local cluster consists of, and the command lines that start it.

Names and ports are chosen once per directory and kept in `layout.json`, because a node's addresses are part
of its identity. The launcher calls it; it starts nothing.
"""

import json
import secrets
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from bench.ports import PortGuard
from bench.records import ClusterRecord, NodeRecord, ProxyRecord, write_atomically


class LayoutRefused(Exception):
    """The directory holds something else than was asked for."""


@dataclass(frozen=True, slots=True)
class NodePlace:
    name: str
    client_port: int
    peer_port: int


@dataclass(frozen=True, slots=True)
class ProxyPlace:
    name: str
    port: int


@dataclass(frozen=True, slots=True)
class Layout:
    token: str
    nodes: tuple[NodePlace, ...]
    proxies: tuple[ProxyPlace, ...]


def open_layout(directory: Path, nodes: int | None, proxies: int | None, guard: PortGuard) -> Layout:
    """The layout of `directory`, made now when it has none; its ports are guarded from now on.

    `nodes` and `proxies` are None where the caller has no wish: then what is there counts, or 3 and 1.
    Raises LayoutRefused, PortBusy.
    """
    path = directory / "layout.json"
    if not path.exists():
        layout = _choose(nodes or 3, 1 if proxies is None else proxies, guard)
        write_atomically(path, asdict(layout))
        return layout
    layout = _read(path)
    for wish, there, what in ((nodes, layout.nodes, "nodes"), (proxies, layout.proxies, "proxies")):
        if wish is not None and wish != len(there):
            raise LayoutRefused(f"{directory} holds a cluster with {len(there)} {what}, not {wish}")
    for node in layout.nodes:
        guard.take(node.client_port)
        guard.take(node.peer_port)
    for proxy in layout.proxies:
        guard.take(proxy.port)
    return layout


def _choose(nodes: int, proxies: int, guard: PortGuard) -> Layout:
    return Layout(
        token=f"local-{secrets.token_hex(8)}",
        nodes=tuple(NodePlace(f"n{i}", guard.take_free(), guard.take_free()) for i in range(1, nodes + 1)),
        proxies=tuple(ProxyPlace(f"p{i}", guard.take_free()) for i in range(1, proxies + 1)),
    )


def _read(path: Path) -> Layout:
    try:
        document = json.loads(path.read_text())
        return Layout(
            token=document["token"],
            nodes=tuple(NodePlace(**node) for node in document["nodes"]),
            proxies=tuple(ProxyPlace(**proxy) for proxy in document["proxies"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise LayoutRefused(f"{path} is not a layout that this program wrote: {error}") from None


def plan(directory: Path, layout: Layout) -> ClusterRecord:
    """Every process of the cluster with its command line; pids are 0 until it is started."""
    initial_cluster = ",".join(f"{node.name}={_url(node.peer_port)}" for node in layout.nodes)
    endpoints = ",".join(f"127.0.0.1:{node.client_port}" for node in layout.nodes)
    return ClusterRecord(
        nodes=tuple(
            NodeRecord(
                name=node.name,
                pid=0,
                client_url=_url(node.client_port),
                peer_url=_url(node.peer_port),
                data_dir=str(directory / node.name),
                log=str(directory / f"{node.name}.log"),
                argv=_node_argv(directory, node, initial_cluster, layout.token),
            )
            for node in layout.nodes
        ),
        proxies=tuple(
            ProxyRecord(
                name=proxy.name,
                pid=0,
                client_url=_url(proxy.port),
                log=str(directory / f"{proxy.name}.log"),
                argv=_python("proxyd", "--endpoints", endpoints, "--listen-addr", f"127.0.0.1:{proxy.port}"),
            )
            for proxy in layout.proxies
        ),
    )


def _node_argv(directory: Path, node: NodePlace, initial_cluster: str, token: str) -> tuple[str, ...]:
    client_url, peer_url = _url(node.client_port), _url(node.peer_port)
    return _python(
        "raftd",
        *("--name", node.name),
        *("--data-dir", str(directory / node.name)),
        *("--listen-client-urls", client_url),
        *("--advertise-client-urls", client_url),
        *("--listen-peer-urls", peer_url),
        *("--initial-advertise-peer-urls", peer_url),
        *("--initial-cluster", initial_cluster),
        *("--initial-cluster-token", token),
    )


def _python(module: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", module, *arguments)


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}"
