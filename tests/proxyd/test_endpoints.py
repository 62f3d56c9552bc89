"""The watches on the nodes: kept, redialled, extended to members, refused where they would go in circles."""

from functools import partial

import pytest
import structlog
import trio
from trio.testing import MockClock

from proto import errors
from proto.errors import Status
from proxyd.proxy import Proxy
from proxyd.table import Leader
from tests.proxyd.conftest import FakeCall, Setting


async def test_it_starts_before_the_nodes(autojump_clock: MockClock, bare: Setting) -> None:
    for node in bare.cluster.nodes.values():
        node.kill()
    put = bare.start(bare.put, b"k", 30.0)
    await trio.sleep(10)
    for node in bare.cluster.nodes.values():
        node.up = True
    bare.cluster.elect(2, term=1)
    await put.wait()
    assert len(bare.cluster.executed) == 1


async def test_a_lost_node_is_redialled_with_bounded_pauses(
    autojump_clock: MockClock, setting: Setting
) -> None:
    """Hazard 95: 100 ms ± jitter, neither faster nor ever slower."""
    node = setting.cluster.nodes[3]
    dials = node.dials
    node.kill()
    await trio.sleep(10)
    assert 80 <= node.dials - dials <= 126
    node.up = True
    began = trio.current_time()
    await setting.until(lambda: node.address in setting.proxy.endpoints.links)
    assert trio.current_time() - began <= 0.13
    assert [entry["address"] for entry in setting.logged("node down")] == [node.address]


async def test_a_quiet_minute_is_quiet(autojump_clock: MockClock, setting: Setting) -> None:
    """No polling: no call, no message from the proxy; only heartbeats come in."""
    dialled = len(setting.cluster.dialled)
    logged = len(setting.log)
    await trio.sleep(60)
    assert len(setting.cluster.dialled) == dialled
    assert len(setting.log) == logged
    for node in setting.cluster.nodes.values():
        assert not node.unary_calls
        assert not node.reads
        assert not node.batches


async def test_members_that_are_no_endpoints_are_watched_as_well(
    autojump_clock: MockClock, setting: Setting
) -> None:
    proxy = Proxy([setting.cluster.nodes[2].address], setting.cluster.dial, structlog.get_logger())
    setting.nursery.start_soon(proxy.run)
    await setting.until(lambda: len(proxy.endpoints.links) == 3)
    assert len(proxy.table.live_nodes()) == 3


async def test_a_silent_node_is_unhealthy_and_then_dialled_anew(
    autojump_clock: MockClock, setting: Setting
) -> None:
    """SIGSTOP and dead links: the stream stands, but nothing comes."""
    node = setting.cluster.nodes[3]
    dials = node.dials
    node.muted = True
    await trio.sleep(0.5)
    view = next(view for view in setting.proxy.table.live_nodes() if view.member_id == 3)
    assert not setting.proxy.table.healthy(view, trio.current_time())
    assert node.dials == dials
    await trio.sleep(1.0)
    assert node.dials > dials
    node.muted = False
    await setting.until(lambda: node.address in setting.proxy.endpoints.links)


async def test_a_change_of_leader_is_logged_once(autojump_clock: MockClock, setting: Setting) -> None:
    setting.cluster.elect(2, term=2)
    await trio.sleep(1)
    changes = [(entry["leader"], entry["term"]) for entry in setting.logged("leader changed")]
    assert changes == [("n1", 1), ("n2", 2)]


async def test_requests_are_not_logged(autojump_clock: MockClock, setting: Setting) -> None:
    logged = len(setting.log)
    for _ in range(10):
        await setting.put(b"k")
        await setting.get(b"k")
    assert len(setting.log) == logged


async def test_the_watch_says_that_it_is_a_proxys(autojump_clock: MockClock, setting: Setting) -> None:
    for node in setting.cluster.nodes.values():
        assert node.watch_metadata == [{"raftd-proxy": setting.proxy.id}]


@pytest.mark.parametrize("code", [errors.FAILED_PRECONDITION, errors.UNIMPLEMENTED])
async def test_an_endpoint_that_is_no_node_is_named_and_not_used(
    autojump_clock: MockClock, setting: Setting, code: int
) -> None:
    """Hazard 88: a proxyd among the endpoints refuses the watch, and then gets no request."""
    node = setting.cluster.nodes[3]
    node.kill()
    node.watch_error = Status(code, "a proxyd cannot be an endpoint of a proxyd")
    node.up = True
    await trio.sleep(30)
    (entry,) = setting.logged("endpoint refused")
    assert entry["address"] == node.address
    assert entry["reason"] == "a proxyd cannot be an endpoint of a proxyd"
    assert len(node.watch_metadata) <= 8
    for _ in range(10):
        await setting.get(b"k")
    assert not node.reads


async def test_when_all_endpoints_are_refused_requests_fail_at_once(
    autojump_clock: MockClock, bare: Setting
) -> None:
    """Hazard 88: a proxyd that has nothing but proxies says so, and recovers when one becomes a node."""
    for node in bare.cluster.nodes.values():
        node.kill()
        node.watch_error = Status(errors.FAILED_PRECONDITION, "a proxyd cannot be its own endpoint")
        node.up = True
    await bare.until(lambda: len(bare.logged("endpoint refused")) == 3)
    status = bare.proxy.cluster.by_the_leader("Status")
    calls = [
        bare.start(bare.put, b"k"),
        bare.start(bare.get, b"k"),
        bare.start(partial(bare.get, b"k", serializable=True)),
        bare.start(partial(bare.get, b"k", metadata={"hasleader": "true"})),
        bare.start(status, b"", FakeCall()),
    ]
    for running in calls:
        with pytest.raises(Status, match=r"127\.0\.0\.1:2371: a proxyd cannot be its own endpoint") as raised:
            await running.wait()
        assert raised.value.code == errors.FAILED_PRECONDITION
        assert running.took_s < 0.2
    bare.cluster.nodes[2].watch_error = None
    bare.cluster.elect(2, term=1)
    await bare.until(lambda: bare.proxy.table.leader)
    await bare.put(b"k")


async def test_a_refused_endpoint_beside_one_that_is_down_does_not_end_the_wait(
    autojump_clock: MockClock, bare: Setting
) -> None:
    for node in bare.cluster.nodes.values():
        node.kill()
    refusing = bare.cluster.nodes[3]
    refusing.watch_error = Status(errors.FAILED_PRECONDITION, "a proxyd cannot be an endpoint of a proxyd")
    refusing.up = True
    await bare.until(lambda: bare.logged("endpoint refused"))
    put = bare.start(bare.put, b"k")
    await trio.sleep(1.0)
    bare.cluster.nodes[1].up = bare.cluster.nodes[2].up = True
    bare.cluster.elect(1, term=1)
    await put.wait()


async def test_a_node_of_another_cluster_is_not_used(autojump_clock: MockClock, setting: Setting) -> None:
    stranger = setting.cluster.nodes[3]
    stranger.kill()
    await trio.sleep(0.01)
    own_cluster, setting.cluster.cluster_id = setting.cluster.cluster_id, 0xC2
    setting.cluster.nodes[1].muted = setting.cluster.nodes[2].muted = True
    stranger.up = True
    await setting.until(lambda: setting.logged("endpoint refused"))
    setting.cluster.cluster_id = own_cluster
    assert setting.logged("endpoint refused")[0]["reason"] == "cluster c2, but this proxyd serves cluster c1"
    assert setting.proxy.table.leader == Leader(1, 1)
