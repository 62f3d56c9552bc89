"""The bridge over real sockets, on the real clock: every stream kind, each way a call can end (hazards 81,
82, 92).

Nothing sleeps and nothing measures time: each test waits for a condition, and `hosting` bounds the whole.
"""

from typing import Any

import pytest
import structlog.testing
import trio
from google.protobuf.descriptor import MethodDescriptor
from grpc_health.v1 import health_pb2

from proto import kv_pb2, peer_pb2, rpc_pb2
from proto.bridge import AddressInUse, Call, Service, Stream, StreamEnded, connect, serve
from proto.bridge.server import CannotListen
from proto.errors import (
    CANCELLED,
    DEADLINE_EXCEEDED,
    INTERNAL,
    UNAVAILABLE,
    UNIMPLEMENTED,
    UNKNOWN,
    Status,
)
from tests.proto.service import (
    BIDIRECTIONAL,
    BOUND_S,
    CLIENT_STREAM,
    KINDS,
    KV,
    REFUSAL,
    SERVER_STREAM,
    UNARY,
    Bug,
    batch,
    call,
    counted,
    hosting,
    hosting_and_calling,
    received,
)

every_kind = pytest.mark.parametrize("method", KINDS.values(), ids=KINDS)


@every_kind
async def test_a_call_returns_what_the_handler_says(method: MethodDescriptor) -> None:
    expected: dict[MethodDescriptor, list[Any]] = {
        UNARY: [rpc_pb2.PutResponse(prev_kv=kv_pb2.KeyValue(value=b""))],
        SERVER_STREAM: [counted(n) for n in range(3)],
        CLIENT_STREAM: [peer_pb2.InstallSnapshotReply(term=1)],
        BIDIRECTIONAL: [batch(b"do")],
    }
    async with hosting_and_calling() as (host, channel):
        assert await call(channel, method, b"do") == expected[method]
        assert host.failures == []


@every_kind
async def test_a_cancelled_caller_cancels_the_handler(method: MethodDescriptor) -> None:
    async with hosting_and_calling() as (host, channel):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(call, channel, method, b"hang")
            await host.started.wait()
            nursery.cancel_scope.cancel()
        await host.cancelled.wait()
        assert host.failures == []


@every_kind
async def test_the_deadline_ends_the_call_on_both_sides(method: MethodDescriptor) -> None:
    async with hosting_and_calling() as (host, channel):
        with pytest.raises(Status) as failure:
            await call(channel, method, b"hang", timeout=0.1)
        assert failure.value.code == DEADLINE_EXCEEDED
        # A slow machine may use it up before the handler runs; if it ran, it was cancelled.
        if host.calls:
            await host.cancelled.wait()
            assert host.calls[0].deadline <= trio.current_time() + 0.1
        assert host.failures == []


@every_kind
async def test_the_handler_knows_its_deadline(method: MethodDescriptor) -> None:
    async with hosting_and_calling() as (host, channel):
        before = trio.current_time()
        await call(channel, method, b"do", timeout=20)
        # grpc rounds the remaining time up by some milliseconds.
        assert before < host.calls[0].deadline < trio.current_time() + 21
        await call(channel, method, b"do")
        assert host.calls[1].deadline == float("inf")


@every_kind
@pytest.mark.parametrize("wish", [b"refuse", b"refuse in a nursery"])
async def test_a_status_travels_with_text_and_outcome(method: MethodDescriptor, wish: bytes) -> None:
    async with hosting_and_calling() as (host, channel):
        with pytest.raises(Status) as failure:
            await call(channel, method, wish)
        assert (failure.value.code, failure.value.text, failure.value.outcome) == (*REFUSAL, "not-done")
        assert host.failures == []


@every_kind
async def test_a_bug_in_a_handler_ends_its_call_alone(method: MethodDescriptor) -> None:
    """UNKNOWN to the client, the exception with its traceback to the log, and the server goes on (hazard
    85)."""
    async with hosting_and_calling() as (host, channel):
        with pytest.raises(Status) as failure:
            await call(channel, method, b"bug")
        assert failure.value.code == UNKNOWN
        assert "on purpose" not in failure.value.text
        [(path, error)] = host.failures
        assert path == f"/{method.containing_service.full_name}/{method.name}"
        assert isinstance(error, Bug)
        assert error.__traceback__ is not None
        await call(channel, method, b"do")


async def test_by_default_a_bug_goes_to_the_log_with_its_traceback() -> None:
    async def put(request: Any, call: Call) -> None:
        raise Bug("on purpose")

    with trio.fail_after(BOUND_S), structlog.testing.capture_logs() as lines:
        async with trio.open_nursery() as nursery:
            [port] = await nursery.start(serve, ["127.0.0.1:0"], [Service(KV, {"Put": put})])
            async with connect(f"127.0.0.1:{port}", isolated=True) as channel:
                with pytest.raises(Status):
                    await call(channel, UNARY, b"do")
            nursery.cancel_scope.cancel()
    [line] = lines
    assert (line["log_level"], line["method"]) == ("error", "/etcdserverpb.KV/Put")
    assert isinstance(line["exc_info"], Bug)


@every_kind
async def test_a_stopping_server_ends_its_calls(method: MethodDescriptor) -> None:
    async with hosting(grace_s=0) as host, connect(host.address, isolated=True) as channel:
        failures: list[Status] = []

        async def run() -> None:
            try:
                await call(channel, method, b"hang")
            except Status as status:
                failures.append(status)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            await host.started.wait()
            host.scope.cancel()
        assert [status.code for status in failures] == [UNAVAILABLE]
        assert host.cancelled.is_set()


async def test_a_stopping_server_lets_unary_calls_finish_though_a_stream_is_open() -> None:
    async with hosting(grace_s=BOUND_S) as host, connect(host.address, isolated=True) as channel:
        replies: list[Any] = []
        stream_ended = trio.Event()

        async def wait_for_reply() -> None:
            replies.append(await channel.unary(UNARY, rpc_pb2.PutRequest(key=b"wait", value=b"v")))

        async def stream() -> None:
            with pytest.raises(Status, match="stopping"):
                await call(channel, SERVER_STREAM, b"hang")
            stream_ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_for_reply)
            nursery.start_soon(stream)
            while len(host.calls) < 2:
                await trio.lowlevel.checkpoint()
            host.scope.cancel()
            await stream_ended.wait()
            assert replies == []
            host.release.set()
        assert [reply.prev_kv.value for reply in replies] == [b"v"]


async def test_a_call_to_a_stopped_server_is_unavailable_and_surely_not_done() -> None:
    async with hosting() as host:
        pass
    async with connect(host.address, isolated=True) as channel:
        with pytest.raises(Status) as failure:
            await call(channel, UNARY, b"do")
    assert (failure.value.code, failure.value.outcome) == (UNAVAILABLE, "not-done")


async def test_anothers_failed_connect_passed_on_says_nothing_of_the_outcome() -> None:
    """A proxy that relays the text of its own failure must not make the client think that nothing was
    sent."""

    async def put(request: Any, call: Call) -> None:
        raise Status(UNAVAILABLE, "failed to connect to all addresses; last error: ...")

    with trio.fail_after(BOUND_S):
        async with trio.open_nursery() as nursery:
            [port] = await nursery.start(serve, ["127.0.0.1:0"], [Service(KV, {"Put": put})])
            async with connect(f"127.0.0.1:{port}", isolated=True) as channel:
                with pytest.raises(Status) as failure:
                    await call(channel, UNARY, b"do")
                assert (failure.value.code, failure.value.outcome) == (UNAVAILABLE, "unknown")
            nursery.cancel_scope.cancel()


async def test_cancelled_by_the_server_is_unavailable() -> None:
    """So a stopping server refuses; a CANCELLED that the caller did not cause is no reason to give up."""

    async def put(request: Any, call: Call) -> None:
        raise Status(CANCELLED, "not your doing")

    with trio.fail_after(BOUND_S):
        async with trio.open_nursery() as nursery:
            [port] = await nursery.start(serve, ["127.0.0.1:0"], [Service(KV, {"Put": put})])
            async with connect(f"127.0.0.1:{port}", isolated=True) as channel:
                with pytest.raises(Status, match="not your doing") as failure:
                    await call(channel, UNARY, b"do")
                assert (failure.value.code, failure.value.outcome) == (UNAVAILABLE, None)
            nursery.cancel_scope.cancel()


async def test_metadata_go_both_ways() -> None:
    async with hosting_and_calling() as (host, channel):
        reply, trailers = await channel.unary_with_trailers(
            UNARY,
            rpc_pb2.PutRequest(key=b"do"),
            metadata={"say": "hello", "blob-bin": b"x"},  # type: ignore[dict-item]
        )
        assert isinstance(reply, rpc_pb2.PutResponse)
        assert trailers["echo"] == "hello"
        assert host.calls[0].metadata["say"] == "hello"
        assert "blob-bin" not in host.calls[0].metadata
        assert host.calls[0].peer.startswith("ipv4:127.0.0.1:")
        assert host.calls[0].identity == {}
        async with channel.stream(BIDIRECTIONAL, metadata={"say": "hi"}) as stream:
            await stream.send(batch(b"refuse"))
            with pytest.raises(Status):
                await stream.receive_all()
            assert host.calls[1].metadata["say"] == "hi"
            assert stream.trailing_metadata["reason"] == "test"
            assert stream.trailing_metadata["outcome"] == "not-done"


async def test_trailing_metadata_that_cannot_be_sent_are_the_handlers_bug() -> None:
    async with hosting_and_calling() as (host, channel):
        await call(channel, UNARY, b"do")
        for bad in ({"Upper": "x"}, {"key-bin": "x"}, {"key": "new\nline"}, {"key": "ü"}, {"": "x"}):
            with pytest.raises(AssertionError):
                host.calls[0].set_trailing_metadata(bad)


async def test_methods_without_a_handler_are_unimplemented() -> None:
    async with hosting_and_calling() as (_, channel):
        with pytest.raises(Status, match=r"/etcdserverpb\.KV/Range is not implemented") as failure:
            await channel.unary(KV.methods_by_name["Range"], rpc_pb2.RangeRequest())
        assert failure.value.code == UNIMPLEMENTED
        data = peer_pb2.DESCRIPTOR.services_by_name["Peer"].methods_by_name["Data"]
        async with channel.stream(data) as stream:
            with pytest.raises(Status, match=r"/raftd\.peer\.Peer/Data is not implemented"):
                await stream.receive_all()


async def test_raw_methods_pass_bytes() -> None:
    request = rpc_pb2.PutRequest(key=b"k", value=b"v")

    async def put(request: bytes, call: Call) -> bytes:
        return rpc_pb2.PutResponse(prev_kv=kv_pb2.KeyValue(value=request)).SerializeToString()

    with trio.fail_after(BOUND_S):
        async with trio.open_nursery() as nursery:
            services = [Service(KV, {"Put": put}, raw=["Put"])]
            [port] = await nursery.start(serve, ["127.0.0.1:0"], services)
            async with connect(f"127.0.0.1:{port}", isolated=True) as channel:
                reply = await channel.unary(UNARY, request)
                assert reply.prev_kv.value == request.SerializeToString()
                for raw in (
                    await channel.unary(UNARY, request.SerializeToString(), raw=True),
                    await channel.unary("/etcdserverpb.KV/Put", request.SerializeToString()),
                ):
                    assert raw == reply.SerializeToString()
            nursery.cancel_scope.cancel()


async def test_a_malformed_message_fails_its_call() -> None:
    async with hosting_and_calling() as (host, channel):
        with pytest.raises(Status) as failure:
            await channel.unary(UNARY, b"\xff\xff\xff", raw=True)
        assert failure.value.code == INTERNAL
        async with channel.stream(BIDIRECTIONAL, raw=True) as stream:
            await stream.send(b"\xff\xff\xff")
            with pytest.raises(Status) as failure:
                await stream.receive_all()
            assert failure.value.code == INTERNAL
        assert host.calls == []
        assert host.failures == []


async def test_a_message_of_another_type_is_the_senders_bug() -> None:
    async with hosting_and_calling() as (_, channel):
        with pytest.raises(TypeError):
            await channel.unary(UNARY, rpc_pb2.RangeRequest())
        async with channel.stream(BIDIRECTIONAL) as stream:
            with pytest.raises(TypeError):
                await stream.send(rpc_pb2.RangeRequest())


async def test_the_health_service_of_grpc_can_be_served() -> None:
    health = health_pb2.DESCRIPTOR.services_by_name["Health"]

    async def check(request: health_pb2.HealthCheckRequest, call: Call) -> health_pb2.HealthCheckResponse:
        return health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING)

    with trio.fail_after(BOUND_S):
        async with trio.open_nursery() as nursery:
            [port] = await nursery.start(serve, ["127.0.0.1:0"], [Service(health, {"Check": check})])
            async with connect(f"127.0.0.1:{port}", isolated=True) as channel:
                reply = await channel.unary(
                    health.methods_by_name["Check"], health_pb2.HealthCheckRequest(service="")
                )
                assert reply.status == health_pb2.HealthCheckResponse.SERVING
            nursery.cancel_scope.cancel()


async def test_a_port_in_use_is_an_error_of_its_own() -> None:
    async with hosting() as host:
        with pytest.raises(AddressInUse, match=f"^127.0.0.1:{host.port} is in use by another process$"):
            await serve([host.address], host.services())


async def test_a_server_that_cannot_have_all_its_addresses_gives_back_the_others() -> None:
    async with hosting() as other:
        pass
    async with hosting() as host:
        with pytest.raises(AddressInUse):
            await serve([other.address, host.address], host.services())
        with trio.fail_after(BOUND_S):
            async with trio.open_nursery() as nursery:
                await nursery.start(serve, [other.address], other.services())
                nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.0.0.1:http", "localhost:70000", ":1", "198.51.100.1:1"]
)
async def test_an_address_that_is_not_ours_cannot_be_listened_on(address: str) -> None:
    with trio.fail_after(BOUND_S), pytest.raises(CannotListen, match="cannot listen on"):
        await serve([address], [])


async def test_several_addresses_ipv6_among_them() -> None:
    with trio.fail_after(BOUND_S):
        async with trio.open_nursery() as nursery:
            ports = await nursery.start(serve, ["127.0.0.1:0", "[::1]:0"], [])
            assert len(set(ports)) == 2
            for address in (f"127.0.0.1:{ports[0]}", f"[::1]:{ports[1]}"):
                async with connect(address, isolated=True) as channel:
                    await channel.ready()
            nursery.cancel_scope.cancel()


async def test_leaving_the_channel_ends_its_calls() -> None:
    async with hosting() as host, trio.open_nursery() as nursery:
        ended: list[Status] = []

        async def run(method: MethodDescriptor) -> None:
            try:
                await call(channel, method, b"hang")
            except Status as status:
                ended.append(status)

        async with connect(host.address, isolated=True) as channel:
            for method in KINDS.values():
                nursery.start_soon(run, method)
            while len(host.calls) < len(KINDS):
                await trio.lowlevel.checkpoint()
        while len(ended) < len(KINDS):
            await trio.lowlevel.checkpoint()
        assert {status.code for status in ended} == {UNAVAILABLE}


async def test_after_the_end_sending_fails_as_receiving_does() -> None:
    async with hosting_and_calling() as (_, channel):
        async with channel.stream(BIDIRECTIONAL) as stream:
            await stream.send(batch(b"refuse"))
            with pytest.raises(Status):
                await stream.receive_all()
            for _ in range(2):
                with pytest.raises(Status, match="lease not found"):
                    await stream.send(batch())
                with pytest.raises(Status, match="lease not found"):
                    stream.offer(batch())
        async with channel.stream(SERVER_STREAM, rpc_pb2.RangeRequest(limit=1)) as stream:
            assert len(await received(stream)) == 1
            with pytest.raises(StreamEnded):
                await stream.receive_all()


async def receive_into(got: list[Any], stream: Stream) -> None:
    while True:
        got += await stream.receive_all()


async def test_what_was_sent_before_a_failure_arrives_before_it() -> None:
    async with hosting_and_calling() as (_, channel), channel.stream(BIDIRECTIONAL) as stream:
        for term in range(10):
            await stream.send(batch(b"", term))
        await stream.send(batch(b"refuse"))
        got: list[Any] = []
        with pytest.raises(Status):
            await receive_into(got, stream)
        assert [it.messages[0].term for it in got] == list(range(10))
