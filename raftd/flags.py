"""raftd's flags, under etcd's names, and what they must be. Bad ones get one line that says what to do."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """One node's configuration, checked. URLs are http://host:port; durations are milliseconds."""

    name: str
    data_dir: Path
    listen_client_urls: tuple[str, ...]
    advertise_client_urls: tuple[str, ...]
    listen_peer_urls: tuple[str, ...]
    initial_advertise_peer_urls: tuple[str, ...]
    initial_cluster: Mapping[str, tuple[str, ...]]
    initial_cluster_token: str
    initial_cluster_state: str
    heartbeat_interval_ms: int
    election_timeout_ms: int
    log_level: str


class FlagError(Exception):
    """One line: which flag, what is wrong, what to do."""


def parse_urls(flag: str, text: str) -> tuple[str, ...]:
    """http://host:port, separated by commas. Raises FlagError."""
    urls = tuple(url.strip().rstrip("/") for url in text.split(",") if url.strip())
    if not urls:
        raise FlagError(f"{flag} is empty: give http://host:port")
    for url in urls:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise FlagError(f"{flag}: {url!r}: {error}") from error
        if parts.scheme == "https":
            raise FlagError(f"{flag}: {url!r}: TLS is not supported yet, use http on a loopback address")
        if parts.scheme != "http" or not parts.hostname or port is None or parts.path:
            raise FlagError(f"{flag}: {url!r} is not of the form http://host:port")
    if len(set(urls)) != len(urls):
        raise FlagError(f"{flag} names an address twice: {text}")
    return urls


def parse_initial_cluster(text: str) -> dict[str, tuple[str, ...]]:
    """n1=http://host:port,n2=http://host:port. A name may stand once per URL of its node, as in etcd.
    Raises FlagError.
    """
    cluster: dict[str, tuple[str, ...]] = {}
    owner: dict[str, str] = {}
    for part in text.split(","):
        name, equals, url = part.strip().partition("=")
        if not name or not equals:
            raise FlagError(f"--initial-cluster: {part.strip()!r} is not of the form name=http://host:port")
        (url,) = parse_urls("--initial-cluster", url)
        if url in owner:
            raise FlagError(f"--initial-cluster: {owner[url]} and {name} have the same address {url}")
        if name in cluster:
            raise FlagError(f"--initial-cluster names {name} twice: give each node one name and one address")
        owner[url] = name
        cluster[name] = (url,)
    return cluster
