"""Connections that come, go and come back; servers that stop while somebody is in the way; quiet exits."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio

from proto import rpc_pb2
from proto.bridge import Service, connect, serve
from proto.errors import UNAVAILABLE, Status
from proto.options import LINK_OPTIONS
from tests.proto.service import BIDIRECTIONAL, BOUND_S, UNARY, Host, batch, call, hosting

ROOT = Path(__file__).parent.parent.parent


async def serve_on(address: str, nursery: trio.Nursery) -> None:
    async def run(task_status: Any) -> None:
        await serve([address], Host().services(), task_status=task_status)

    await nursery.start(run)


async def test_a_channel_connects_again_by_itself() -> None:
    async with hosting() as host, connect(host.address, options=LINK_OPTIONS, isolated=True) as channel:
        await call(channel, UNARY, b"do")
        host.scope.cancel()
        await host.stopped.wait()
        with pytest.raises(Status) as failure:
            await call(channel, UNARY, b"do")
        assert failure.value.code == UNAVAILABLE
        async with trio.open_nursery() as nursery:
            await serve_on(host.address, nursery)
            await channel.unary(UNARY, rpc_pb2.PutRequest(key=b"do"), wait_for_ready=True)
            await channel.ready()
            nursery.cancel_scope.cancel()


async def test_a_call_may_wait_for_its_server() -> None:
    async with hosting() as host:
        pass
    async with connect(host.address, isolated=True) as channel, trio.open_nursery() as nursery:
        with trio.fail_after(BOUND_S):

            async def run() -> None:
                await channel.unary(UNARY, rpc_pb2.PutRequest(key=b"do"), wait_for_ready=True)
                async with channel.stream(BIDIRECTIONAL, wait_for_ready=True) as stream:
                    await stream.send(batch())
                    await stream.receive_all()
                nursery.cancel_scope.cancel()

            nursery.start_soon(run)
            with pytest.raises(Status):
                await channel.unary(UNARY, rpc_pb2.PutRequest(key=b"do"))
            await serve_on(host.address, nursery)


@pytest.mark.parametrize("isolated", [True, False])
async def test_an_isolated_channel_has_a_connection_of_its_own(isolated: bool) -> None:
    async with (
        hosting() as host,
        connect(host.address, isolated=isolated) as one,
        connect(host.address, isolated=isolated) as other,
    ):
        await call(one, UNARY, b"do")
        await call(other, UNARY, b"do")
        assert len({it.peer for it in host.calls}) == (2 if isolated else 1)


async def test_a_client_that_does_not_read_cannot_keep_a_server_from_stopping() -> None:
    async with hosting(grace_s=0.1) as host, connect(host.address, isolated=True) as channel:
        large = batch(b"x" * 64 * 1024)
        async with channel.stream(BIDIRECTIONAL) as stream:
            while stream.offer(large) or not host.calls:
                await trio.lowlevel.checkpoint()
            host.scope.cancel()
            await host.stopped.wait()


async def test_a_cancelled_start_leaves_no_server_behind() -> None:
    async with hosting() as host:
        pass
    for passes in range(20):
        with trio.fail_after(BOUND_S):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve, [host.address], list[Service]())
                for _ in range(passes):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
    with trio.fail_after(BOUND_S):
        async with trio.open_nursery() as nursery:
            await serve_on(host.address, nursery)
            nursery.cancel_scope.cancel()


LEAVING = """
import sys, trio
from proto.bridge import connect, serve
from tests.proto.service import BIDIRECTIONAL, Host, batch

async def main(how):
    host = Host()
    async with trio.open_nursery() as nursery:
        [port] = await nursery.start(serve, ["127.0.0.1:0"], host.services())
        async with connect(f"127.0.0.1:{port}") as channel, channel.stream(BIDIRECTIONAL) as stream:
            await stream.send(batch(b"hang"))
            await host.started.wait()
            print("open", flush=True)
            if how == "exit":
                sys.exit(5)
            if how == "wait":
                await trio.sleep_forever()
        nursery.cancel_scope.cancel()

status = 0
try:
    trio.run(main, sys.argv[1])
except* KeyboardInterrupt:
    status = 6
except* SystemExit:
    status = 5
sys.exit(status)
"""


@pytest.mark.parametrize(("how", "status"), [("end", 0), ("exit", 5), ("wait", 6)])
def test_a_process_leaves_quietly_whatever_is_open(how: str, status: int) -> None:
    process = subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", "-c", LEAVING, how],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "open\n"
        if how == "wait":
            process.send_signal(signal.SIGINT)
        _, complaints = process.communicate(timeout=BOUND_S)
        assert (process.returncode, complaints) == (status, "")
    finally:
        process.kill()
        process.communicate()
