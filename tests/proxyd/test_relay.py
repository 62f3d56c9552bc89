"""Session streams of our own clients through a proxy: their sessions and numbers, our patience."""

from collections.abc import Callable
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from proto import errors
from proto.errors import Status
from proto.limits import REQUEST_BYTES_MAX
from proto.rpc_pb2 import RangeRequest, RangeResponse
from proto.session_pb2 import Batch, Command, Read, ReadResult, Registered, Request, Result
from proto.stream import InMemoryStream, StreamEnded, in_memory_pair
from proxyd import config
from tests.proxyd.conftest import Running, Setting


class FakeClient:
    """One client's stream through the proxy, and what came back on it."""

    def __init__(self, setting: Setting) -> None:
        self.setting = setting
        self.stream, server_end = in_memory_pair()
        self.results: list[Result] = []
        self.reads: list[ReadResult] = []
        self.handler: Running = setting.start(self._serve, server_end)
        setting.nursery.start_soon(self._receive)

    async def _serve(self, server_end: InMemoryStream) -> None:
        try:
            await self.setting.proxy.relay.stream(server_end)  # type: ignore[arg-type]
        finally:
            server_end.close()

    async def _receive(self) -> None:
        try:
            while True:
                for reply in await self.stream.receive_all():
                    self.results += reply.results
                    self.reads += reply.read_results
        except (StreamEnded, Status):
            pass

    async def register(self) -> int:
        await self.send(0, Command(sequence=9, kind=Command.REGISTER))
        await self.until(lambda: self.results)
        result = self.results.pop()
        assert (result.session, result.sequence) == (0, 9)
        return Registered.FromString(result.body).session

    async def send(self, session: int, *commands: Command, first_outstanding: int = 1) -> None:
        batch = Batch(session=session, first_outstanding=first_outstanding, commands=commands)
        await self.stream.send(Request(batches=[batch]))

    async def until(self, condition: Callable[[], Any]) -> None:
        await self.setting.until(condition)


def put(sequence: int, remaining_ms: int = 0) -> Command:
    return Command(sequence=sequence, kind=Command.PUT, request=b"put", remaining_ms=remaining_ms)


@pytest.fixture
async def client(setting: Setting) -> FakeClient:
    return FakeClient(setting)


async def test_a_clients_session_is_carried_as_it_is(autojump_clock: MockClock, client: FakeClient) -> None:
    session = await client.register()
    await client.send(session, put(1), put(2))
    await client.until(lambda: len(client.results) == 2)
    assert [(result.session, result.sequence, result.code) for result in client.results] == [
        (session, 1, 0),
        (session, 2, 0),
    ]
    assert [entry[:2] for entry in client.setting.cluster.executed] == [(session, 1), (session, 2)]


async def test_correlation_numbers_of_two_clients_do_not_collide(
    autojump_clock: MockClock, setting: Setting
) -> None:
    first, second = FakeClient(setting), FakeClient(setting)
    assert await first.register() != await second.register()


async def test_pending_commands_go_to_the_new_leader(autojump_clock: MockClock, client: FakeClient) -> None:
    """Hazard 87: the reply died with the leader; the client sees a delay, and one execution."""
    session = await client.register()
    cluster = client.setting.cluster
    cluster.nodes[1].forgets_replies = True
    await client.send(session, put(1), put(2))
    await client.until(lambda: len(cluster.executed) == 2)
    cluster.nodes[1].kill()
    await client.send(session, put(3))
    await trio.sleep(0.5)
    assert not client.results
    cluster.elect(3, term=2, told=(2, 3))
    await client.until(lambda: len(client.results) == 3)
    assert [entry[:2] for entry in cluster.executed] == [(session, 1), (session, 2), (session, 3)]
    assert all(result.outcome == Result.DECIDED for result in client.results)


async def test_a_command_that_another_proxy_had_sent_is_not_executed_again(
    autojump_clock: MockClock, setting: Setting
) -> None:
    """Hazard 87: a client that goes on elsewhere repeats its pending commands under their numbers."""
    client = FakeClient(setting)
    session = await client.register()
    setting.cluster.nodes[1].forgets_replies = True
    await client.send(session, put(1))
    await setting.until(lambda: setting.cluster.executed)
    client.handler.scope.cancel()
    setting.cluster.nodes[1].forgets_replies = False
    again = FakeClient(setting)
    await again.send(session, put(1))
    await setting.until(lambda: again.results)
    assert len(setting.cluster.executed) == 1


async def test_what_a_client_left_behind_is_dropped(autojump_clock: MockClock, setting: Setting) -> None:
    client = FakeClient(setting)
    session = await client.register()
    for node in setting.cluster.nodes.values():
        node.deaf = True
    read = Read(id=1, request=RangeRequest(key=b"k").SerializeToString())
    await client.send(session, put(1), put(2))
    await client.stream.send(Request(reads=[read]))
    await wait_all_tasks_blocked()
    pipeline = setting.proxy.leader_link.pipeline
    assert len(pipeline) == 2
    client.stream.close()
    await client.handler.done.wait()
    assert len(pipeline) == 0


async def test_an_expired_session_is_said_so(autojump_clock: MockClock, client: FakeClient) -> None:
    """It is the client's session, and the client's decision: never registered anew under a pending
    command."""
    await client.send(12345, put(1))
    await client.until(lambda: client.results)
    assert client.results[0].outcome == Result.SESSION_EXPIRED


async def test_the_deadline_ends_a_command_and_says_what_is_known(
    autojump_clock: MockClock, client: FakeClient
) -> None:
    """Hazards 87, 92: never sent is not done; sent and unanswered is unknown."""
    session = await client.register()
    cluster = client.setting.cluster
    cluster.nodes[1].forgets_replies = True
    await client.send(session, put(1, remaining_ms=500))
    await client.until(lambda: client.results)
    assert client.results[0].outcome == Result.UNKNOWN
    cluster.nodes[1].kill()
    cluster.elect(0, term=1, told=(2, 3))
    await wait_all_tasks_blocked()
    await client.send(session, put(2, remaining_ms=500))
    await client.until(lambda: len(client.results) == 2)
    assert client.results[1].outcome == Result.NOT_DONE
    assert (client.results[1].code, client.results[1].text) == errors.NO_LEADER


async def test_reads_of_a_stream_go_to_followers_and_keep_their_ids(
    autojump_clock: MockClock, client: FakeClient
) -> None:
    request = RangeRequest(key=b"k").SerializeToString()
    reads = [Read(id=100 + number, request=request, min_revision=3) for number in range(10)]
    await client.stream.send(Request(reads=reads))
    await client.until(lambda: len(client.reads) == 10)
    assert sorted(result.id for result in client.reads) == [100 + number for number in range(10)]
    nodes = {RangeResponse.FromString(result.body).header.member_id for result in client.reads}
    assert nodes == {2, 3}


async def test_serializable_reads_of_a_stream_stay_and_never_go_back(
    autojump_clock: MockClock, client: FakeClient
) -> None:
    """Hazard 40."""
    request = RangeRequest(key=b"k", serializable=True).SerializeToString()
    client.setting.cluster.revision = 33
    for number in range(5):
        await client.stream.send(Request(reads=[Read(id=number, request=request)]))
        await client.until(lambda: len(client.reads) == number + 1)  # noqa: B023
    nodes = {RangeResponse.FromString(result.body).header.member_id for result in client.reads}
    assert len(nodes) == 1
    client.setting.cluster.nodes[nodes.pop()].kill()
    await client.stream.send(Request(reads=[Read(id=9, request=request)]))
    await client.until(lambda: len(client.reads) == 6)
    member_id = RangeResponse.FromString(client.reads[-1].body).header.member_id
    assert client.setting.cluster.nodes[member_id].reads[-1].min_revision == 33


async def test_one_clients_excess_holds_up_that_client_alone(
    autojump_clock: MockClock, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Back-pressure, hazard 95: a stream with too much under way is not read until some of it is answered."""
    monkeypatch.setattr(config, "MAX_STREAM_PENDING", 2)
    greedy, modest = FakeClient(setting), FakeClient(setting)
    session, other_session = await greedy.register(), await modest.register()
    cluster = setting.cluster
    cluster.refusal = lambda session, command: None
    cluster.nodes[1].deaf = True
    for sequence in range(1, 7):
        await greedy.send(session, put(sequence))
    await wait_all_tasks_blocked()
    assert len(setting.proxy.leader_link.pipeline) == 2
    await modest.send(other_session, put(1))
    await wait_all_tasks_blocked()
    assert len(setting.proxy.leader_link.pipeline) == 3
    cluster.nodes[1].deaf = False
    cluster.nodes[1].break_sessions()
    await setting.until(lambda: len(greedy.results) == 6 and len(modest.results) == 1)


async def test_a_full_pipeline_refuses(autojump_clock: MockClock, client: FakeClient) -> None:
    """Hazard 95: surely not done."""
    session = await client.register()
    client.setting.cluster.nodes[1].deaf = True
    pipeline = client.setting.proxy.leader_link.pipeline
    count = config.WRITE_LIMITS.bytes_max // REQUEST_BYTES_MAX
    for sequence in range(1, count + 2):
        big = Command(sequence=sequence, kind=Command.PUT, request=bytes(REQUEST_BYTES_MAX))
        await client.send(session, big)
    await client.until(lambda: client.results)
    assert len(pipeline) == count
    (refused,) = client.results
    assert (refused.sequence, refused.code, refused.text) == (count + 1, *errors.TOO_MANY_REQUESTS)
    assert refused.outcome == Result.NOT_DONE


async def test_what_is_too_large_is_refused_and_holds_up_nothing(
    autojump_clock: MockClock, client: FakeClient
) -> None:
    """Hazard 90: in one message with others it would end the stream to the node, and each one after that."""
    session = await client.register()
    large = bytes(REQUEST_BYTES_MAX + 1)
    batch = Batch(session=session, first_outstanding=1)
    batch.commands.add(sequence=1, kind=Command.PUT, request=large)
    batch.commands.append(put(2))
    reads = [Read(id=1, request=large), Read(id=2, request=RangeRequest(key=b"k").SerializeToString())]
    await client.stream.send(Request(batches=[batch], reads=reads))
    await client.until(lambda: len(client.results) == 2 and len(client.reads) == 2)
    refused, done = sorted(client.results, key=lambda result: result.sequence)
    assert (refused.sequence, refused.code, refused.text) == (1, *errors.REQUEST_TOO_LARGE)
    assert refused.outcome == Result.NOT_DONE
    assert (done.sequence, done.code) == (2, errors.OK)
    not_read, read = sorted(client.reads, key=lambda result: result.id)
    assert (not_read.code, not_read.text) == errors.REQUEST_TOO_LARGE
    assert read.code == errors.OK


async def test_draining_answers_what_was_taken_and_ends_the_stream(
    autojump_clock: MockClock, client: FakeClient
) -> None:
    session = await client.register()
    client.setting.cluster.nodes[1].deaf = True
    await client.send(session, put(1))
    await wait_all_tasks_blocked()
    drained = client.setting.start(client.setting.proxy.relay.drain)
    await wait_all_tasks_blocked()
    assert not drained.done.is_set()
    client.setting.cluster.nodes[1].deaf = False
    client.setting.cluster.nodes[1].break_sessions()
    await drained.wait()
    await client.handler.wait()
    assert [result.sequence for result in client.results] == [1]
    late = FakeClient(client.setting)
    with pytest.raises(Status) as raised:
        await late.handler.wait()
    assert (raised.value.code, raised.value.text) == errors.STOPPED
