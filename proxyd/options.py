"""proxyd's flags. Each also comes from the environment (`PROXYD_…`) and from the TOML file."""

from dataclasses import dataclass, field

from proto.configuration import Configuration, ConfigurationError, host_port, listing, option
from proxyd.config import MAX_ENDPOINTS
from proxyd.dial import address_of_url


def node_address(value: str) -> str:
    """HOST:PORT, with or without http:// in front, as etcdctl takes it."""
    if value.startswith("https://"):
        raise ValueError("HOST:PORT or http://HOST:PORT (https is not supported yet)")
    return host_port(address_of_url(value))


@dataclass(frozen=True, kw_only=True)
class ProxyConfiguration(Configuration):
    """What one proxyd is told."""

    endpoints: tuple[str, ...] = field(
        metadata=option(
            "endpoints",
            listing(node_address),
            "Client addresses of the nodes, separated by commas; those of a few are enough.",
            "HOST:PORT,…",
        )
    )
    listen_addr: str = field(
        default="127.0.0.1:2379",
        metadata=option(
            "listen-addr", host_port, "Address to serve clients on; port 0 takes a free one.", "HOST:PORT"
        ),
    )
    listen_http_addr: str = field(
        default="",
        metadata=option(
            "listen-http-addr",
            host_port,
            "Address to serve etcd's JSON gateway on, by HTTP; port 0 takes a free one. By default none.",
            "HOST:PORT",
        ),
    )

    def check(self) -> None:
        for address in self.endpoints:
            if self.endpoints.count(address) > 1:
                raise ConfigurationError(f"--endpoints names {address} twice; name each node once")
            if address == self.listen_addr:
                raise ConfigurationError(
                    f"--endpoints and --listen-addr are both {address}; a proxyd cannot be its own endpoint"
                )
        if self.listen_http_addr == self.listen_addr and not self.listen_addr.endswith(":0"):
            raise ConfigurationError(
                f"--listen-http-addr and --listen-addr are both {self.listen_addr}; each needs its own port"
            )
        if len(self.endpoints) > MAX_ENDPOINTS:
            raise ConfigurationError(
                f"--endpoints names {len(self.endpoints)} addresses; at most {MAX_ENDPOINTS} are watched"
            )
