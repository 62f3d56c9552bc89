"""Reads through a proxy: spread over healthy followers, moved when a node fails, never back in time."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from proto import errors
from proto.errors import Status
from proto.rpc_pb2 import PutRequest, RangeRequest, RequestOp, TxnRequest, TxnResponse
from proxyd import config
from proxyd.reads import Connections, is_read_only, is_serializable
from tests.proxyd.conftest import FakeCall, Setting


def served(setting: Setting) -> list[int]:
    return [len(node.reads) for node in setting.cluster.nodes.values()]


async def test_reads_go_to_followers_in_turn(autojump_clock: MockClock, setting: Setting) -> None:
    for _ in range(100):
        await setting.get(b"k")
    assert served(setting) == [0, 50, 50]
    assert setting.proxy.counters()["reads_by_followers"] == 100


async def test_a_new_leader_is_spared_and_the_old_one_serves(
    autojump_clock: MockClock, setting: Setting
) -> None:
    await setting.get(b"k")
    setting.cluster.elect(2, term=2)
    await wait_all_tasks_blocked()
    before = served(setting)
    for _ in range(10):
        await setting.get(b"k")
    assert [after - earlier for after, earlier in zip(served(setting), before, strict=True)] == [5, 0, 5]


async def test_the_leader_serves_when_no_follower_is_healthy(
    autojump_clock: MockClock, setting: Setting
) -> None:
    setting.cluster.nodes[2].kill()
    setting.cluster.nodes[3].behind = 1_000
    setting.cluster.nodes[3].tell()
    await trio.sleep(0.01)
    reply = await setting.get(b"k")
    assert reply.header.member_id == 1
    assert setting.proxy.counters()["reads_by_leader"] == 1


async def test_a_lagging_follower_is_left_out_and_taken_back(
    autojump_clock: MockClock, setting: Setting
) -> None:
    node = setting.cluster.nodes[3]
    node.behind = 5_000
    await trio.sleep(0.2)
    for _ in range(10):
        await setting.get(b"k")
    assert served(setting) == [0, 10, 0]
    node.behind = 0
    await trio.sleep(0.2)
    for _ in range(10):
        await setting.get(b"k")
    assert served(setting) == [0, 15, 5]


async def test_a_read_on_a_node_that_dies_is_answered_by_another(
    autojump_clock: MockClock, setting: Setting
) -> None:
    setting.cluster.nodes[2].deaf = setting.cluster.nodes[3].deaf = True
    gets = [setting.start(setting.get, b"k") for _ in range(4)]
    await wait_all_tasks_blocked()
    setting.cluster.nodes[3].deaf = False
    before = trio.current_time()
    setting.cluster.nodes[2].kill()
    await setting.until(lambda: sum(get.done.is_set() for get in gets) == 2)
    assert trio.current_time() - before <= 0.001
    assert setting.proxy.counters()["reads_moved"] == 2
    setting.cluster.nodes[3].break_sessions()
    for get in gets:
        await get.wait()


async def test_a_read_on_a_node_that_falls_silent_is_answered_by_another(
    autojump_clock: MockClock, setting: Setting
) -> None:
    """A stopped process keeps its connections: one election timeout of silence is enough."""
    for node_id in (2, 3):
        setting.cluster.nodes[node_id].deaf = setting.cluster.nodes[node_id].muted = True
    get = setting.start(setting.get, b"k", 5.0)
    await get.wait()
    assert get.took_s < 0.5
    assert len(setting.cluster.nodes[1].reads) == 1


async def test_unavailable_is_tried_elsewhere_and_again_until_the_deadline(
    autojump_clock: MockClock, setting: Setting
) -> None:
    for node in setting.cluster.nodes.values():
        node.refuses_reads = True
    get = setting.start(setting.get, b"k", 2.0)
    await trio.sleep(1.0)
    setting.cluster.nodes[1].refuses_reads = False
    assert (await get.wait()).header.member_id == 1
    # Hazard 95: in rounds with a pause between them.
    assert sum(served(setting)) <= 3 * 25 + 3


async def test_reads_end_at_their_deadline(autojump_clock: MockClock, setting: Setting) -> None:
    """Hazard 92."""
    for node in setting.cluster.nodes.values():
        node.deaf = True
    get = setting.start(setting.get, b"k", 1.0)
    with pytest.raises(Status) as raised:
        await get.wait()
    assert (raised.value.code, raised.value.text) == errors.TIMEOUT
    assert get.took_s == pytest.approx(0.98, abs=0.006)


async def test_without_a_leader_linearizable_reads_wait(autojump_clock: MockClock, bare: Setting) -> None:
    get = bare.start(bare.get, b"k", 2.0)
    with pytest.raises(Status) as raised:
        await get.wait()
    assert (raised.value.code, raised.value.text) == errors.NO_LEADER
    assert get.took_s == pytest.approx(1.98, abs=0.006)
    assert sum(served(bare)) == 0
    get = bare.start(bare.get, b"k")
    await trio.sleep(1.0)
    bare.cluster.elect(1, term=1)
    await get.wait()


async def test_without_a_leader_serializable_reads_go_on(autojump_clock: MockClock, setting: Setting) -> None:
    """One node left of three."""
    setting.cluster.nodes[1].kill()
    setting.cluster.nodes[2].kill()
    setting.cluster.elect(0, term=1)
    await trio.sleep(0.01)
    assert (await setting.get(b"k", serializable=True)).header.member_id == 3


async def test_serializable_reads_of_one_connection_stay_on_one_node(
    autojump_clock: MockClock, setting: Setting
) -> None:
    for _ in range(10):
        await setting.get(b"k", serializable=True, peer="ipv4:127.0.0.1:1")
    assert sorted(served(setting)) == [0, 0, 10]


async def test_serializable_reads_never_go_back_in_time(autojump_clock: MockClock, setting: Setting) -> None:
    """Hazard 40: when they move they carry the highest revision their connection has seen."""
    first = await setting.get(b"k", serializable=True, peer="ipv4:127.0.0.1:1")
    node = setting.cluster.nodes[first.header.member_id]
    setting.cluster.revision = 77
    await setting.get(b"k", serializable=True, peer="ipv4:127.0.0.1:1")
    node.kill()
    moved = await setting.get(b"k", serializable=True, peer="ipv4:127.0.0.1:1")
    assert moved.header.member_id != node.member_id
    assert setting.cluster.nodes[moved.header.member_id].reads[-1].min_revision == 77
    other = await setting.get(b"k", serializable=True, peer="ipv4:127.0.0.1:2")
    assert setting.cluster.nodes[other.header.member_id].reads[-1].min_revision == 0


async def test_a_linearizable_read_binds_later_serializable_ones(
    autojump_clock: MockClock, setting: Setting
) -> None:
    """Hazard 40: what one node has shown, another may not take back."""
    setting.cluster.revision = 42
    await setting.get(b"k")
    reply = await setting.get(b"k", serializable=True)
    assert setting.cluster.nodes[reply.header.member_id].reads[-1].min_revision == 42


async def test_remembered_connections_are_bounded(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "MAX_CONNECTIONS_REMEMBERED", 2)
    connections = Connections()
    first, second = connections.of("1"), connections.of("2")
    assert connections.of("1") is first
    connections.of("3")
    assert connections.of("1") is first
    assert connections.of("2") is not second


async def test_read_only_transactions_are_reads(autojump_clock: MockClock, setting: Setting) -> None:
    get = RequestOp(request_range=RangeRequest(key=b"k"))
    request = TxnRequest(success=[get, RequestOp(request_txn=TxnRequest(failure=[get]))])
    call = FakeCall(trio.current_time() + 5)
    reply = await setting.proxy.kv.txn(request.SerializeToString(), call)  # type: ignore[arg-type]
    assert TxnResponse.FromString(reply).header.member_id in (2, 3)
    assert [read.txn for node in setting.cluster.nodes.values() for read in node.reads] == [True]


def test_what_a_transaction_changes() -> None:
    get = RequestOp(request_range=RangeRequest(key=b"k", serializable=True))
    put = RequestOp(request_put=PutRequest(key=b"k"))
    nested = RequestOp(request_txn=TxnRequest(failure=[put]))
    assert is_read_only(TxnRequest())
    assert is_read_only(TxnRequest(success=[get]))
    assert not is_read_only(TxnRequest(failure=[put]))
    assert not is_read_only(TxnRequest(success=[get, nested]))
    assert is_serializable(TxnRequest(success=[get]))
    assert not is_serializable(TxnRequest())
    assert not is_serializable(TxnRequest(success=[get], failure=[RequestOp(request_range=RangeRequest())]))


async def test_too_many_waiting_reads_are_refused(
    autojump_clock: MockClock, bare: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hazard 95."""
    monkeypatch.setattr(config, "MAX_WAITING_READS", 3)
    gets = [bare.start(bare.get, b"k") for _ in range(3)]
    await wait_all_tasks_blocked()
    with pytest.raises(Status) as raised:
        await bare.get(b"k")
    assert (raised.value.code, raised.value.text) == errors.TOO_MANY_REQUESTS
    bare.cluster.elect(1, term=1)
    for get in gets:
        await get.wait()


async def test_a_reader_that_leaves_is_forgotten(autojump_clock: MockClock, bare: Setting) -> None:
    """Hazard 92."""
    get = bare.start(bare.get, b"k")
    await wait_all_tasks_blocked()
    assert len(bare.proxy.reads) == 1
    get.scope.cancel()
    await get.done.wait()
    assert len(bare.proxy.reads) == 0


async def test_a_malformed_range_is_refused(autojump_clock: MockClock, setting: Setting) -> None:
    with pytest.raises(Status) as raised:
        await setting.proxy.kv.range(b"\xff\xff", FakeCall())  # type: ignore[arg-type]
    assert raised.value.code == errors.INTERNAL
