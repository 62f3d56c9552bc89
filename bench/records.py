"""`cluster.json`: what runs in a local cluster, for programs that use it.

The launcher writes it once everything serves; whoever restarts a process rewrites its pid; launcher,
demonstration and tests read it. It knows nothing of how processes are started.
"""

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path


@dataclass(frozen=True, slots=True)
class NodeRecord:
    name: str
    pid: int
    client_url: str
    peer_url: str
    data_dir: str
    log: str
    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ProxyRecord:
    name: str
    pid: int
    client_url: str
    log: str
    argv: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClusterRecord:
    nodes: tuple[NodeRecord, ...]
    proxies: tuple[ProxyRecord, ...]

    @property
    def processes(self) -> tuple[NodeRecord | ProxyRecord, ...]:
        return (*self.nodes, *self.proxies)

    def node(self, name: str) -> NodeRecord:
        """Raises KeyError."""
        for node in self.nodes:
            if node.name == name:
                return node
        raise KeyError(name)


def record_path(directory: Path) -> Path:
    return directory / "cluster.json"


def read_record(directory: Path) -> ClusterRecord:
    """Raises FileNotFoundError while the cluster does not serve."""
    document = json.loads(record_path(directory).read_text())
    for process in (*document["nodes"], *document["proxies"]):
        process["argv"] = tuple(process["argv"])
    return ClusterRecord(
        nodes=tuple(NodeRecord(**node) for node in document["nodes"]),
        proxies=tuple(ProxyRecord(**proxy) for proxy in document["proxies"]),
    )


def write_record(directory: Path, record: ClusterRecord) -> None:
    write_atomically(record_path(directory), asdict(record))


def replace_pid(directory: Path, name: str, pid: int) -> None:
    """Note that the process called `name` now is `pid`. Raises FileNotFoundError, KeyError."""
    with _exclusive(directory):
        record = read_record(directory)
        if name not in {process.name for process in record.processes}:
            raise KeyError(name)
        write_record(
            directory,
            ClusterRecord(
                nodes=tuple(replace(node, pid=pid) if node.name == name else node for node in record.nodes),
                proxies=tuple(
                    replace(proxy, pid=pid) if proxy.name == name else proxy for proxy in record.proxies
                ),
            ),
        )


def write_atomically(path: Path, document: object) -> None:
    """A reader sees the old file or the new one, never a part."""
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(document, indent=2) + "\n")
    unfinished.replace(path)


@contextmanager
def _exclusive(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)
