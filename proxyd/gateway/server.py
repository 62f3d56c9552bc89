"""Listening for the gateway: Hypercorn, with its Trio worker, inside proxyd's own nursery."""

import errno
import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio import serve

from proto.bridge import AddressInUse
from proto.bridge.server import CannotListen
from proxyd import config
from proxyd.gateway.application import Gateway


async def serve_gateway(
    gateway: Gateway,
    address: str,
    shutdown_requested: Callable[[], Awaitable[None]],
    grace_s: float,
    *,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Until `shutdown_requested` returns, and then what is under way has `grace_s`. `address` is
    "host:port"; `task_status` is given the port. Raises AddressInUse or CannotListen."""
    listener = await _listen(address)
    port: int = listener.getsockname()[1]
    settings = Config()
    # Bound here, so that what is wrong with the address is told as of the other one.
    settings.bind = [f"fd://{listener.detach()}"]
    settings.backlog = config.GATEWAY_BACKLOG
    settings.errorlog = None  # what may fail is logged by the application
    settings.graceful_timeout = grace_s
    settings.keep_alive_timeout = config.GATEWAY_IDLE_S
    settings.read_timeout = None
    settings.h11_max_incomplete_size = config.GATEWAY_HEADERS_BYTES
    settings.include_server_header = False
    application: Any = gateway
    async with trio.open_nursery() as nursery:
        await nursery.start(
            partial(serve, application, settings, shutdown_trigger=shutdown_requested, mode="asgi")
        )
        task_status.started(port)


async def _listen(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    try:
        found = await trio.socket.getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
        family, kind, protocol, _name, socket_address = found[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            listener.bind(socket_address)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(address) from error
        raise CannotListen(error.errno, f"cannot listen on {address}: {error.strerror}") from error
    return listener
