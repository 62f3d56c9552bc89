"""raftd's flags, under etcd's names. Each also comes from the environment (`RAFTD_…`) or the TOML file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from proto.configuration import (
    Configuration,
    ConfigurationError,
    boolean,
    choice,
    integer,
    listing,
    option,
    path,
    text,
    url,
)
from raftd import config
from raftd.retention import Retention, retention


def http_url(value: str) -> str:
    """http://HOST:PORT; TLS is refused by name, so that nobody believes to have it."""
    parsed = url(value)
    if parsed.startswith("https://"):
        raise ValueError("http://HOST:PORT (TLS is not supported)")
    return parsed


def member_urls(value: str) -> tuple[tuple[str, str], ...]:
    """n1=http://HOST:PORT,n2=…: (name, URL) of every member."""
    members = []
    for part in text(value).split(","):
        name, equals, address = part.strip().partition("=")
        if not name or not equals:
            raise ValueError("NAME=http://HOST:PORT for each member, separated by commas")
        members.append((name, http_url(address)))
    return tuple(members)


@dataclass(frozen=True, kw_only=True)
class NodeConfiguration(Configuration):
    """What one node is told. URLs are http://HOST:PORT, times milliseconds."""

    name: str = field(
        default="default", metadata=option("name", text, "This member's name in --initial-cluster.")
    )
    data_dir: Path | None = field(
        default=None,
        metadata=option(
            "data-dir", path, "Where term, vote, log and data are kept; NAME.raftd if not given."
        ),
    )
    listen_client_urls: tuple[str, ...] = field(
        default=("http://127.0.0.1:2379",),
        metadata=option(
            "listen-client-urls", listing(http_url), "Addresses to serve clients and proxies on."
        ),
    )
    advertise_client_urls: tuple[str, ...] = field(
        default=(),
        metadata=option(
            "advertise-client-urls",
            listing(http_url),
            "Addresses under which clients and proxies reach this member; those it listens on if not given.",
        ),
    )
    listen_peer_urls: tuple[str, ...] = field(
        default=("http://127.0.0.1:2380",),
        metadata=option("listen-peer-urls", listing(http_url), "Addresses to serve the other members on."),
    )
    initial_advertise_peer_urls: tuple[str, ...] = field(
        default=(),
        metadata=option(
            "initial-advertise-peer-urls",
            listing(http_url),
            "Address under which the other members reach this one; the one it listens on if not given.",
        ),
    )
    initial_cluster: tuple[tuple[str, str], ...] = field(
        default=(),
        metadata=option(
            "initial-cluster",
            member_urls,
            "Every member's name and peer address, NAME=URL separated by commas; this member alone if not "
            "given. Used once, when the cluster forms.",
            "NAME=URL,…",
        ),
    )
    initial_cluster_token: str = field(
        default="raftd-cluster",
        metadata=option(
            "initial-cluster-token",
            text,
            "A name for the cluster; members of clusters with different ones refuse each other.",
        ),
    )
    initial_cluster_state: str = field(
        default="new",
        metadata=option(
            "initial-cluster-state",
            choice("new", "existing"),
            "new: form a cluster, or return to it; existing: an empty directory must not form one.",
        ),
    )
    verify_data: bool = field(
        default=False,
        metadata=option(
            "verify-data",
            boolean,
            "Before serving, read and check all of the data directory; status 3 when it is damaged.",
        ),
    )
    heartbeat_interval_ms: int = field(
        default=50,
        metadata=option(
            "heartbeat-interval",
            integer(config.TICK_MS, 10_000),
            "Milliseconds between a leader's heartbeats.",
            "MS",
        ),
    )
    election_timeout_ms: int = field(
        default=300,
        metadata=option(
            "election-timeout",
            integer(10 * config.TICK_MS, 50_000),
            "Milliseconds without a heartbeat until an election, up to twice that.",
            "MS",
        ),
    )
    auto_compaction_mode: str = field(
        default="periodic",
        metadata=option(
            "auto-compaction-mode",
            choice("periodic", "revision"),
            "What --auto-compaction-retention counts: time, or revisions.",
        ),
    )
    auto_compaction_retention: str = field(
        default="0",
        metadata=option(
            "auto-compaction-retention",
            text,
            "How much history the leader keeps: hours or a duration such as 90m, or with mode revision a "
            "number of revisions; 0 keeps all.",
        ),
    )

    # What follows from the options.

    @property
    def directory(self) -> Path:
        return self.data_dir or Path(f"{self.name}.raftd")

    @property
    def client_urls(self) -> tuple[str, ...]:
        return self.advertise_client_urls or self.listen_client_urls

    @property
    def peer_urls(self) -> tuple[str, ...]:
        return self.initial_advertise_peer_urls or self.listen_peer_urls

    @property
    def members(self) -> Mapping[str, str]:
        """Name and peer URL of every member of the cluster to be formed."""
        return dict(self.initial_cluster) if self.initial_cluster else {self.name: self.peer_urls[0]}

    @property
    def retention(self) -> Retention | None:
        return retention(self.auto_compaction_mode, self.auto_compaction_retention)

    def check(self) -> None:
        self._check_times()
        try:
            _ = self.retention
        except ValueError as error:
            raise ConfigurationError(
                f"--auto-compaction-retention {self.auto_compaction_retention}: give {error}"
            ) from error
        self._check_addresses()
        self._check_members()

    def _check_times(self) -> None:
        least = config.HEARTBEATS_PER_ELECTION_TIMEOUT * self.heartbeat_interval_ms
        if self.election_timeout_ms < least:
            raise ConfigurationError(
                f"--election-timeout {self.election_timeout_ms} is not well above --heartbeat-interval "
                f"{self.heartbeat_interval_ms}; give at least {least}"
            )

    def _check_addresses(self) -> None:
        for flag, urls in (
            ("--listen-client-urls", self.listen_client_urls),
            ("--listen-peer-urls", self.listen_peer_urls),
            ("--advertise-client-urls", self.client_urls),
            ("--initial-advertise-peer-urls", self.peer_urls),
        ):
            for address in urls:
                if urls.count(address) > 1:
                    raise ConfigurationError(f"{flag} names {address} twice; name it once")
        for for_clients, for_peers, client_urls, peer_urls in (
            ("--listen-client-urls", "--listen-peer-urls", self.listen_client_urls, self.listen_peer_urls),
            (
                "--advertise-client-urls",
                "--initial-advertise-peer-urls",
                self.advertise_client_urls,
                self.peer_urls,
            ),
        ):
            for address in client_urls:
                if address in peer_urls and urlsplit(address).port:
                    raise ConfigurationError(
                        f"{for_clients} and {for_peers} are both {address}; give each its own port"
                    )
        for flag, urls in (
            ("--advertise-client-urls", self.client_urls),
            ("--initial-advertise-peer-urls", self.peer_urls),
        ):
            for address in urls:
                if urlsplit(address).hostname in ("0.0.0.0", "::") or not urlsplit(address).port:
                    raise ConfigurationError(f"{flag}: nobody can reach {address}; give a host and a port")

    def _check_members(self) -> None:
        names = [name for name, _ in self.initial_cluster]
        urls = [address for _, address in self.initial_cluster]
        for name, address in self.initial_cluster:
            if names.count(name) > 1:
                raise ConfigurationError(
                    f"--initial-cluster names {name} twice; give each member one address"
                )
            if urls.count(address) > 1:
                raise ConfigurationError(f"--initial-cluster has {address} twice; no two members share one")
        if self.name not in self.members:
            raise ConfigurationError(
                f"--name {self.name} is not in --initial-cluster ({', '.join(names)}); correct one of them"
            )
        if self.members[self.name] not in self.peer_urls:
            raise ConfigurationError(
                f"--initial-cluster has {self.name} at {self.members[self.name]}, but "
                f"--initial-advertise-peer-urls is {','.join(self.peer_urls)}; correct one of them"
            )
