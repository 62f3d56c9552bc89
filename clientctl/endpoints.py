"""Addresses of servers: how a user writes them, and which one to try next."""

from collections.abc import Callable, Sequence

from clientctl.config import ClientLimits


def parse_endpoint(text: str) -> str:
    """The address to dial for `host:port`, `http://host:port`, or `[v6]:port`.

    Raises ValueError with a text for the user.
    """
    address = text.strip()
    scheme, separator, rest = address.partition("://")
    if separator:
        if scheme == "https":
            raise ValueError(f"endpoint {text!r}: https needs credentials, which this version does not read")
        if scheme not in ("http", "unix", "unixs"):
            raise ValueError(f"endpoint {text!r}: unknown scheme {scheme!r}")
        if scheme != "http":
            raise ValueError(f"endpoint {text!r}: sockets of the file system are not supported")
        address = rest.rstrip("/")
    host, separator, port = address.rpartition(":")
    if not separator or not host or "/" in address:
        raise ValueError(f"endpoint {text!r}: expected HOST:PORT")
    if not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"endpoint {text!r}: {port!r} is not a port")
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f"endpoint {text!r}: an IPv6 address is written [ADDRESS]:PORT")
    return address


def parse_endpoints(endpoints: Sequence[str]) -> list[str]:
    """The addresses to dial, at least one. Raises ValueError or TypeError."""
    if isinstance(endpoints, str):
        raise TypeError(f"endpoints are a list of str, such as [{endpoints!r}]")
    if not endpoints:
        raise ValueError("a client needs at least one endpoint")
    return [parse_endpoint(endpoint) for endpoint in endpoints]


class EndpointChoice:
    """Which address to dial next: the list in a circle, and the leader that a node named.

    Pure; `jitter` returns a factor in [0.5, 1]. After each end of a connection one of the `on_` methods is
    called; it chooses `current` anew and returns how long to wait first, in seconds.
    """

    def __init__(self, addresses: Sequence[str], limits: ClientLimits, jitter: Callable[[], float]) -> None:
        assert addresses, "a client needs at least one endpoint"
        self._addresses = tuple(addresses)
        self._limits = limits
        self._jitter = jitter
        self._position = 0
        self._failures = 0
        self._hints = 0
        self._pause_s = 0.0
        self.current = self._addresses[0]

    def on_served(self) -> None:
        """The present connection has answered something: whatever comes next starts afresh."""
        self._failures = self._hints = 0
        self._pause_s = 0.0

    def on_failure(self) -> float:
        """The connection failed, ended, or its server cannot serve: on to the next, at once within a
        round.
        """
        self._failures += 1
        self._position = (self._position + 1) % len(self._addresses)
        self.current = self._addresses[self._position]
        if self._failures % len(self._addresses):
            return 0.0
        return self._pause()

    def on_not_leader(self, client_urls: Sequence[str]) -> float:
        """A node does not lead; `client_urls` are those of the leader, if it knows one."""
        for url in client_urls:
            try:
                address = parse_endpoint(url)
            except ValueError:
                continue
            self._hints += 1
            if self._hints > self._limits.leader_hints_max:
                break
            # Hints that go in a circle: two nodes that each believe the other to lead.
            pause = 0.0 if self._hints <= 2 else self._pause()
            self.current = address
            return pause
        return self.on_failure()

    def _pause(self) -> float:
        low, high = self._limits.redial_pause_min_s, self._limits.redial_pause_max_s
        self._pause_s = min(max(self._pause_s * 2, low), high)
        return self._pause_s * self._jitter()
