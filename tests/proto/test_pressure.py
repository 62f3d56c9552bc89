"""A slow reader holds back its writer, in both directions, and a crowd is served (hazards 86, 89, 93)."""

from typing import Any

import pytest
import trio
from google.protobuf.descriptor import MethodDescriptor

from proto import peer_pb2, rpc_pb2
from proto.bridge import Call, Channel, Service, StreamEnded, connect, serve
from proto.errors import Status
from proto.options import STREAM_BYTES, STREAM_MESSAGES
from tests.proto.service import BIDIRECTIONAL, BOUND_S, KV, PEER, UNARY, batch, hosting, hosting_and_calling

SMALL = batch()
LARGE = batch(b"x" * 64 * 1024)

# What waits on the way: a lane on each side, a batch that was taken from one, and HTTP/2's windows.
MESSAGES_ON_THE_WAY = 4 * STREAM_MESSAGES + 64 * 1024 // SMALL.ByteSize()
BYTES_ON_THE_WAY = 4 * STREAM_BYTES + 2 * 1024 * 1024


class Pusher:
    """Sends until it is stopped, and counts."""

    def __init__(self, message: Any) -> None:
        self.message = message
        self.sent = 0
        self.failure: BaseException | None = None

    async def push(self, stream: Any) -> None:
        try:
            while True:
                await stream.send(self.message)
                self.sent += 1
        except (Status, StreamEnded, trio.Cancelled) as failure:
            self.failure = failure
            raise

    async def blocked(self, channel: Channel) -> int:
        """Wait until nothing more is sent, while other calls come and go; how many were."""
        before, quiet_calls = -1, 0
        while quiet_calls < 50:
            await channel.unary(UNARY, rpc_pb2.PutRequest())
            quiet_calls = quiet_calls + 1 if self.sent == before else 0
            before = self.sent
        return self.sent


class Listener:
    """A service whose bidirectional handler runs `talk`."""

    def __init__(self, talk: Any) -> None:
        self.talk = talk
        self.started = trio.Event()
        self.ended = trio.Event()

    async def control(self, call: Call) -> None:
        self.started.set()
        try:
            await self.talk(call)
        finally:
            self.ended.set()

    async def put(self, request: rpc_pb2.PutRequest, call: Call) -> rpc_pb2.PutResponse:
        return rpc_pb2.PutResponse()

    async def run(self, client: Any) -> None:
        with trio.fail_after(BOUND_S):
            async with trio.open_nursery() as nursery:
                services = [Service(PEER, {"Control": self.control}), Service(KV, {"Put": self.put})]
                [port] = await nursery.start(serve, ["127.0.0.1:0"], services)
                async with connect(f"127.0.0.1:{port}", isolated=True) as channel:
                    await client(channel)
                nursery.cancel_scope.cancel()


@pytest.mark.parametrize("message", [SMALL, LARGE], ids=["messages", "bytes"])
async def test_a_client_that_does_not_read_holds_back_the_handler(message: peer_pb2.Batch) -> None:
    pusher = Pusher(message)

    async def client(channel: Channel) -> None:
        async with channel.stream(BIDIRECTIONAL) as stream:
            sent = await pusher.blocked(channel)
            assert 0 < sent <= MESSAGES_ON_THE_WAY
            assert sent * message.ByteSize() <= BYTES_ON_THE_WAY + message.ByteSize()
            # Once it reads, more comes, and nothing was lost or doubled on the way.
            got = 0
            while got <= sent:
                got += len(await stream.receive_all())
        await listener.ended.wait()
        assert isinstance(pusher.failure, StreamEnded | trio.Cancelled)

    listener = Listener(pusher.push)
    await listener.run(client)


@pytest.mark.parametrize("message", [SMALL, LARGE], ids=["messages", "bytes"])
async def test_a_handler_that_does_not_read_holds_back_the_client(message: peer_pb2.Batch) -> None:
    pusher = Pusher(message)
    may_read = trio.Event()
    got = 0

    async def count(call: Call) -> None:
        nonlocal got
        await may_read.wait()
        while True:
            got += len(await call.receive_all())

    async def client(channel: Channel) -> None:
        async with channel.stream(BIDIRECTIONAL) as stream, trio.open_nursery() as nursery:
            nursery.start_soon(pusher.push, stream)
            sent = await pusher.blocked(channel)
            assert 0 < sent <= MESSAGES_ON_THE_WAY
            assert sent * message.ByteSize() <= BYTES_ON_THE_WAY + message.ByteSize()
            may_read.set()
            while got <= sent:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    await Listener(count).run(client)


async def test_offer_says_when_there_is_no_room_and_never_waits() -> None:
    async def silent(call: Call) -> None:
        await trio.sleep_forever()

    async def client(channel: Channel) -> None:
        async with channel.stream(BIDIRECTIONAL) as stream:
            offered = 0
            while stream.offer(SMALL):
                offered += 1
                assert offered <= MESSAGES_ON_THE_WAY
            assert offered >= STREAM_MESSAGES

    await Listener(silent).run(client)


async def test_a_client_that_leaves_frees_a_handler_that_waits_for_room() -> None:
    """The write that waits for flow control fails in grpc with an error of its own."""
    pusher = Pusher(LARGE)

    async def client(channel: Channel) -> None:
        async with channel.stream(BIDIRECTIONAL):
            await pusher.blocked(channel)
        await listener.ended.wait()

    listener = Listener(pusher.push)
    await listener.run(client)


async def test_a_handler_that_ends_frees_a_client_that_waits_for_room() -> None:
    pusher = Pusher(LARGE)
    may_end = trio.Event()

    async def end(call: Call) -> None:
        await may_end.wait()
        raise Status(9, "enough")

    async def client(channel: Channel) -> None:
        async with channel.stream(BIDIRECTIONAL) as stream, trio.open_nursery() as nursery:

            async def push() -> None:
                with pytest.raises(Status, match="enough"):
                    await pusher.push(stream)

            nursery.start_soon(push)
            await pusher.blocked(channel)
            may_end.set()

    await Listener(end).run(client)


async def test_a_refusal_keeps_its_status_while_the_client_writes() -> None:
    """grpc.aio's own write() replaces it by INTERNAL, in one of ten such calls."""

    async def refuse(call: Call) -> None:
        raise Status(9, "no")

    async def client(channel: Channel) -> None:
        for _ in range(300):
            async with channel.stream(BIDIRECTIONAL) as stream:
                with pytest.raises(Status, match="FAILED_PRECONDITION: no"):
                    await Pusher(SMALL).push(stream)

    await Listener(refuse).run(client)


async def test_several_tasks_may_send_on_one_stream() -> None:
    senders, each = 8, 500
    async with hosting_and_calling() as (_, channel), channel.stream(BIDIRECTIONAL) as stream:

        async def send(first: int) -> None:
            for term in range(first, first + each):
                await stream.send(batch(b"", term))

        async with trio.open_nursery() as nursery:
            for sender in range(senders):
                nursery.start_soon(send, 1000 * sender)
            got: list[int] = []
            while len(got) < senders * each:
                got += [it.messages[0].term for it in await stream.receive_all()]
    for sender in range(senders):
        mine = [term for term in got if term // 1000 == sender]
        assert mine == list(range(1000 * sender, 1000 * sender + each))


async def test_a_burst_of_calls_is_served_and_none_refused() -> None:
    """Left alone, grpc refuses at random beyond about 1,000 new calls."""
    calls = 1500
    async with hosting() as host, connect(host.address, isolated=True) as channel:
        replies: list[bytes] = []

        async def run(number: int) -> None:
            value = str(number).encode()
            reply = await channel.unary(UNARY, rpc_pb2.PutRequest(key=b"wait", value=value))
            replies.append(reply.prev_kv.value)

        async with trio.open_nursery() as nursery:
            for number in range(calls):
                nursery.start_soon(run, number)
            while len(host.calls) < calls:
                await trio.lowlevel.checkpoint()
            host.release.set()
        assert sorted(map(int, replies)) == list(range(calls))


@pytest.mark.parametrize("method", [UNARY, BIDIRECTIONAL], ids=["unary", "bidirectional"])
async def test_calls_cancelled_at_random_moments_leave_nothing_behind(method: MethodDescriptor) -> None:
    """Cancelled after 0, 1, 2, … passes of the scheduler: before, while and after each crosses the
    threads."""
    async with hosting_and_calling() as (host, channel):

        async def run() -> None:
            if method is UNARY:
                await channel.unary(method, rpc_pb2.PutRequest(key=b"do"))
                return
            async with channel.stream(method) as stream:
                for _ in range(3):
                    await stream.send(SMALL)
                    await stream.receive_all()

        for passes in range(200):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(run)
                nursery.start_soon(run)
                for _ in range(passes):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
        await run()
        assert host.failures == []
