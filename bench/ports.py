"""Loopback ports that nobody else takes, while our processes are up and while they are down.

The launcher calls it.
"""

import random
import socket
from pathlib import Path

ATTEMPTS_MAX = 200
PORT_MIN = 10_000
"""Below are the ports of well-known services."""


class PortBusy(OSError):
    """A program that is not ours listens on a port that we need."""

    def __init__(self, port: int) -> None:
        super().__init__(f"port {port} of 127.0.0.1 is in use by another program")


def _first_ephemeral_port() -> int:
    return int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])


class PortGuard:
    """Sockets bound to our ports, which never listen.

    A gRPC server sets SO_REUSEADDR and so may listen beside its guard; whoever looks for a free port finds
    this one taken, even while its node is down. New ports lie below the range from which the kernel serves
    outgoing connections: a client that redials a dead node from that very port would connect to itself and
    keep it busy.
    """

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def take_free(self) -> int:
        """A free port, guarded from now on. Raises OSError when none is found."""
        limit = _first_ephemeral_port()
        if limit <= PORT_MIN:
            return self._bind(0, reuse=False)
        for _ in range(ATTEMPTS_MAX):
            try:
                return self._bind(random.randrange(PORT_MIN, limit), reuse=False)
            except OSError:
                continue
        raise OSError(f"no free port between {PORT_MIN} and {limit}")

    def take(self, port: int) -> None:
        """Guard a port of an earlier run. Raises PortBusy."""
        try:
            # SO_REUSEADDR at once: connections of the earlier run may linger in TIME_WAIT.
            self._bind(port, reuse=True)
        except OSError:
            raise PortBusy(port) from None

    def close(self) -> None:
        for guard in self._sockets:
            guard.close()

    def _bind(self, port: int, *, reuse: bool) -> int:
        guard = socket.socket()
        try:
            if reuse:
                guard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            guard.bind(("127.0.0.1", port))
            guard.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        except OSError:
            guard.close()
            raise
        self._sockets.append(guard)
        return int(guard.getsockname()[1])
