"""What a port must endure: random bytes, silence, clients that vanish in mid-call (hazards 93, 94)."""

import random
import signal
import subprocess
import sys

import pytest
import trio

from proto.bridge import connect
from proto.errors import UNAVAILABLE, Status
from tests.proto.service import BIDIRECTIONAL, BOUND_S, UNARY, batch, call, hosting, hosting_and_calling

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
SETTINGS = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"


def random_bytes(seed: int) -> bytes:
    return random.Random(seed).randbytes(4096)


@pytest.mark.parametrize(
    "said",
    [
        *(random_bytes(seed) for seed in range(8)),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + random_bytes(9)[:512],
        *(PREFACE + SETTINGS + random_bytes(seed) for seed in range(8)),
        PREFACE + SETTINGS + b"\x00\x00\x05\x01\x05\x00\x00\x00\x01\xff\xff\xff\xff\xff",
        PREFACE + b"\xff\xff\xff\x00\x00\x00\x00\x00\x01",
    ],
)
async def test_nonsense_on_the_port_disturbs_nobody(said: bytes) -> None:
    """grpc hangs up on it; who speaks HTTP/2 at the same time notices nothing."""
    async with hosting_and_calling() as (host, channel), channel.stream(BIDIRECTIONAL) as stream:
        await stream.send(batch())
        await stream.receive_all()
        connection = await trio.open_tcp_stream("127.0.0.1", host.port)
        async with connection:
            try:
                await connection.send_all(said)
                # A frame cut short keeps the server waiting: say no more, so that it can tell.
                await connection.send_eof()
                while await connection.receive_some():
                    pass
            except trio.BrokenResourceError:
                # Hung up before all was said.
                pass
        await stream.send(batch())
        await stream.receive_all()
        await call(channel, UNARY, b"do")
        assert host.failures == []


async def test_half_open_and_silent_connections_do_not_keep_the_server_from_stopping() -> None:
    async with hosting() as host:
        silent = await trio.open_tcp_stream("127.0.0.1", host.port)
        greeted = await trio.open_tcp_stream("127.0.0.1", host.port)
        await greeted.send_all(PREFACE + SETTINGS)
        assert await greeted.receive_some()
        host.scope.cancel()
        for connection in (silent, greeted):
            async with connection:
                try:
                    while await connection.receive_some():
                        pass
                except trio.BrokenResourceError:
                    # Reset is an end, too.
                    pass


CLIENT = """
import sys, trio
from proto.bridge import connect
from tests.proto.service import BIDIRECTIONAL, UNARY, batch, call

async def main(address):
    async with connect(address) as channel, trio.open_nursery() as nursery:
        nursery.start_soon(call, channel, UNARY, b"hang")
        async with channel.stream(BIDIRECTIONAL) as stream:
            await stream.send(batch(b"hang"))
            await trio.sleep_forever()

trio.run(main, sys.argv[1])
"""


async def test_a_client_process_that_is_killed_in_mid_call_cancels_its_handlers() -> None:
    async with hosting() as host:
        client = await trio.lowlevel.open_process(
            [sys.executable, "-c", CLIENT, host.address], stderr=subprocess.DEVNULL
        )
        try:
            while len(host.calls) < 2:
                await trio.lowlevel.checkpoint()
        finally:
            client.send_signal(signal.SIGKILL)
            with trio.CancelScope(shield=True):
                await client.wait()
        await host.cancelled.wait()
        while any(not call._scope.cancelled_caught for call in host.calls):
            await trio.lowlevel.checkpoint()
        assert host.failures == []


SERVER = """
import trio
from tests.proto.service import Host
from proto.bridge import serve

async def main():
    async with trio.open_nursery() as nursery:
        [port] = await nursery.start(serve, ["127.0.0.1:0"], Host().services())
        print(port, flush=True)

trio.run(main)
"""


async def test_a_server_process_that_is_killed_fails_the_calls_of_its_clients() -> None:
    with trio.fail_after(BOUND_S):
        server = await trio.lowlevel.open_process([sys.executable, "-c", SERVER], stdout=subprocess.PIPE)
        assert server.stdout is not None
        try:
            port = int(await server.stdout.receive_some(16))
            async with (
                connect(f"127.0.0.1:{port}", isolated=True) as channel,
                channel.stream(BIDIRECTIONAL) as stream,
            ):
                await stream.send(batch())
                await stream.receive_all()
                server.send_signal(signal.SIGKILL)
                with pytest.raises(Status) as failure:
                    await stream.receive_all()
                assert (failure.value.code, failure.value.outcome) == (UNAVAILABLE, None)
        finally:
            server.kill()
            with trio.CancelScope(shield=True):
                await server.wait()
                await server.stdout.aclose()
