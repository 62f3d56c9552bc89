"""The entry of the program `proxyd`: configuration in, services out, an orderly end."""

import sys
from contextlib import AbstractAsyncContextManager
from functools import partial

import structlog
import trio

try:
    from proto import shell
except ImportError as error:
    sys.exit(f"proxyd: {error}. If that is proto-plus, give proxyd a virtual environment of its own.")
from proto.bridge import connect, grpc_caught_up, serve
from proto.options import LINK_OPTIONS
from proxyd import config
from proxyd.dial import Channel
from proxyd.gateway.server import serve_gateway
from proxyd.options import ProxyConfiguration
from proxyd.proxy import Proxy

ABOUT = (
    "The one address that clients of a raftd cluster need: carries writes to the leader, reads to followers, "
    "and every request over a change of leader."
)


def main() -> int:
    """Returns the exit status: 0 after a stop, 1 for a failure such as an address in use, 2 for bad
    options."""
    return shell.run(ProxyConfiguration, "proxyd", ABOUT, run)


def dial(address: str) -> AbstractAsyncContextManager[Channel]:
    """A fresh connection: grpc redials a known one late, and bulk must not delay another's heartbeats."""
    return connect(address, options=LINK_OPTIONS, isolated=True)


async def run(
    configuration: ProxyConfiguration,
    process: shell.Shell,
    *,
    task_status: trio.TaskStatus[int] = trio.TASK_STATUS_IGNORED,
) -> int:
    """Serves until asked to stop; `task_status` is given the port. Raises OSError when it cannot listen."""
    log = structlog.get_logger()
    proxy = Proxy(configuration.endpoints, dial, log, grpc_caught_up)
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as serving:
            bind = partial(serve, grace_s=config.SHUTDOWN_DRAIN_S)
            (port,) = await serving.start(bind, [configuration.listen_addr], proxy.services())
            host, _, _ = configuration.listen_addr.rpartition(":")
            log.info("serving", clients=f"{host}:{port}", endpoints=",".join(configuration.endpoints))
            if configuration.listen_http_addr:
                http_port = await serving.start(
                    serve_gateway,
                    proxy.gateway(),
                    configuration.listen_http_addr,
                    process.shutdown_requested.wait,
                    config.SHUTDOWN_STREAMS_S,
                )
                host, _, _ = configuration.listen_http_addr.rpartition(":")
                log.info("serving JSON", clients=f"http://{host}:{http_port}")
            nursery.start_soon(proxy.run)
            nursery.start_soon(_report_status, proxy, process)
            process.ready()
            task_status.started(port)
            await process.shutdown_requested.wait()
            with trio.move_on_after(config.SHUTDOWN_STREAMS_S):
                await proxy.relay.drain()
            serving.cancel_scope.cancel()  # lets unary calls finish
        await proxy.close()
        nursery.cancel_scope.cancel()
    return shell.EXIT_OK


async def _report_status(proxy: Proxy, process: shell.Shell) -> None:
    """For `systemctl status`."""
    while True:
        leader = proxy.table.leader
        leads = "no leader" if leader is None else f"leader {proxy.table.name_of(leader.member_id)}"
        process.status(f"{leads}, {len(proxy.endpoints.links)} nodes")
        await proxy.table.wait_change()


if __name__ == "__main__":
    sys.exit(main())
