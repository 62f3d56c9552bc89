"""`Client` against servers in memory that run raftd's state machine, under Trio's autojump clock."""

import pytest
import trio
from trio.testing import MockClock

from clientctl.client import Client
from clientctl.errors import InvalidRequest, KeyValueError, NotDone, OutcomeUnknown
from clientctl.requests import compare, delete_request, put_request, range_request
from proto import errors
from proto.limits import REQUEST_BYTES_MAX
from proto.rpc_pb2 import TxnRequest
from tests.clientctl.servers import CLUSTER_ID, TERM, Network, Node, Store


@pytest.fixture(params=["sessions", "etcd"])
def node(request: pytest.FixtureRequest) -> Node:
    return Node(Store(), sessions=request.param == "sessions")


def client_of(*nodes: Node, **arguments: object) -> Client:
    network = Network({f"n{number}:1": node for number, node in enumerate(nodes, 1)})
    return Client(list(network.nodes), dial=network.dial, **arguments)  # type: ignore[arg-type]


# What it does


async def test_put_get_delete(autojump_clock: MockClock, node: Node) -> None:
    async with client_of(node) as client:
        put = await client.put(b"k", b"v1")
        assert (put.header.cluster_id, put.header.raft_term, put.header.revision) == (CLUSTER_ID, TERM, 2)
        assert (await client.put("k", "v2", prev_kv=True)).prev_kv.value == b"v1"
        got = await client.get(b"k")
        assert [(pair.key, pair.value, pair.version) for pair in got.kvs] == [(b"k", b"v2", 2)]
        assert (await client.get(b"k", revision=2)).kvs[0].value == b"v1"
        assert (await client.delete(b"k", prev_kv=True)).prev_kvs[0].value == b"v2"
        assert (await client.get(b"k")).count == 0
        assert (await client.delete(b"k")).deleted == 0


async def test_ranges(autojump_clock: MockClock, node: Node) -> None:
    async with client_of(node) as client:
        for key in ("a", "b1", "b2", "c"):
            await client.put(key, key.upper())
        assert [pair.key for pair in (await client.get("b", prefix=True)).kvs] == [b"b1", b"b2"]
        assert [pair.key for pair in (await client.get("b1", "c")).kvs] == [b"b1", b"b2"]
        assert [pair.key for pair in (await client.get("b2", from_key=True)).kvs] == [b"b2", b"c"]
        newest = await client.get("", prefix=True, limit=1, sort_by="mod", order="descend")
        assert (newest.kvs[0].key, newest.more, newest.count) == (b"c", True, 4)
        keys = await client.get("", prefix=True, keys_only=True, consistency="serializable")
        assert [pair.value for pair in keys.kvs] == [b""] * 4
        assert (await client.get("", prefix=True, count_only=True)).count == 4
        assert (await client.delete("b", prefix=True)).deleted == 2


async def test_transactions(autojump_clock: MockClock, node: Node) -> None:
    async with client_of(node) as client:
        absent = compare("k", "create", "=", 0)
        first = await client.txn([absent], [put_request("k", "1")], [range_request("k")])
        assert first.succeeded
        second = await client.txn([absent], [put_request("k", "2")], [range_request("k")])
        assert not second.succeeded
        assert second.responses[0].response_range.kvs[0].value == b"1"
        third = await client.txn([compare("k", "value", "=", "1")], [delete_request("k")])
        assert third.responses[0].response_delete_range.deleted == 1


async def test_reads_alone_need_no_session(autojump_clock: MockClock) -> None:
    node = Node(Store())
    async with client_of(node) as client:
        await client.get("k")
        await client.txn([], [range_request("k")])
    assert (node.reads, node.writes) == (2, 0)


async def test_many_callers_find_out_that_there_are_no_sessions(autojump_clock: MockClock) -> None:
    node = Node(Store(), sessions=False)
    async with client_of(node) as client:
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(client.put, b"k%d" % number, b"v")
                nursery.start_soon(client.get, b"k%d" % number)
        assert (await client.get("k", prefix=True, count_only=True)).count == 200
    assert trio.current_time() < 1


async def test_many_callers_share_one_stream_and_session(autojump_clock: MockClock) -> None:
    node = Node(Store())
    async with client_of(node) as client:
        async with trio.open_nursery() as nursery:
            for number in range(200):
                nursery.start_soon(client.put, b"k%d" % number, b"v")
        assert (await client.get("k", prefix=True, count_only=True)).count == 200
    assert node.dialled == 1
    assert node.writes == 200 + 2, "one registration and one close besides the puts"


async def test_asking_servers(autojump_clock: MockClock, node: Node) -> None:
    async with client_of(node) as client:
        assert (await client.status("n1:1")).version == "3.5.0"
        assert (await client.member_list()).members[0].name == "n1"
        assert await client.counters("n1:1") == {}
        await client.health("n1:1")
        node.refuses_reads = errors.PERMISSION_DENIED
        await client.health("n1:1")
        node.refuses_reads = errors.UNAVAILABLE
        with pytest.raises(NotDone):
            await client.health("n1:1")


# What is refused


async def test_what_is_too_large_is_refused_at_once(autojump_clock: MockClock) -> None:
    """Not done, and never in a message with others (hazard 90)."""
    node = Node(Store())
    large = bytes(REQUEST_BYTES_MAX)
    async with client_of(node) as client:
        with pytest.raises(InvalidRequest, match="etcdserver: request is too large"):
            await client.put("k", large)
        with pytest.raises(InvalidRequest, match="etcdserver: request is too large"):
            await client.get(large)
        with pytest.raises(InvalidRequest, match="etcdserver: request is too large"):
            client.watch(large)
    assert (trio.current_time(), node.writes, node.reads) == (0, 0, 0)


async def test_refusals_are_certain(autojump_clock: MockClock, node: Node) -> None:
    async with client_of(node) as client:
        with pytest.raises(InvalidRequest, match="key is not provided"):
            await client.put("", "v")
        with pytest.raises(InvalidRequest, match="key not found"):
            await client.put("absent", ignore_value=True)
        with pytest.raises(InvalidRequest, match="future revision"):
            await client.get("k", revision=99)
        with pytest.raises(InvalidRequest, match="duplicate key"):
            await client.txn([], [put_request("a"), put_request("a")])
        assert (await client.get("", prefix=True)).count == 0


async def test_not_an_endpoint() -> None:
    with pytest.raises(ValueError, match="HOST:PORT"):
        Client(["nonsense"])


# What goes wrong


async def test_nobody_there_is_not_done_and_says_why(autojump_clock: MockClock) -> None:
    async with Client(["n9:1"], dial=Network({}).dial, timeout=2) as client:
        with pytest.raises(NotDone, match="n9:1 refused"):
            await client.put("k", "v")
        with pytest.raises(NotDone, match="n9:1 refused"):
            await client.get("k")
    assert trio.current_time() == pytest.approx(4.0, abs=0.02)


async def test_dial_timeout_ends_it_sooner(autojump_clock: MockClock) -> None:
    async with Client(["n9:1"], dial=Network({}).dial, timeout=60, dial_timeout=2) as client:
        with pytest.raises(NotDone, match="no connection"):
            await client.put("k", "v")
    assert 2 <= trio.current_time() < 3


async def test_the_next_endpoint_is_tried_at_once(autojump_clock: MockClock, node: Node) -> None:
    async with client_of(Node(Store(), up=False), node) as client:
        await client.put("k", "v")
        assert (await client.get("k")).count == 1
    assert trio.current_time() < 0.1


async def test_a_write_survives_the_death_of_its_server(autojump_clock: MockClock) -> None:
    """Hazard 87: executed, unanswered, sent again elsewhere under its number: one effect, one right
    answer."""
    store = Store()
    first, second = Node(store), Node(store)
    async with client_of(first, second) as client:
        await client.put("warm", "up")
        first.silent = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.put, "k", "v")
            await trio.testing.wait_all_tasks_blocked()
            assert first.writes == 3
            first.kill()
        got = await client.get("k")
        assert (got.kvs[0].version, got.header.revision) == (1, 3)
    assert second.writes >= 1


async def test_a_read_survives_the_death_of_its_server(autojump_clock: MockClock, node: Node) -> None:
    first = Node(node.store, silent=True, sessions=node.sessions)
    async with client_of(first, node, timeout=10) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.get, "k")
            await trio.sleep(1)
            if node.sessions:
                first.kill()
            else:
                nursery.cancel_scope.cancel()


async def test_an_unanswered_write_is_unknown(autojump_clock: MockClock) -> None:
    node = Node(Store())
    async with client_of(node) as client:
        await client.put("warm", "up")
        node.silent = True
        with pytest.raises(OutcomeUnknown, match="may or may not"):
            await client.put("k", "v", timeout=1)
        node.silent = False
        assert (await client.get("k")).count == 1, "as it happens, it was done"


async def test_a_write_that_never_got_a_session_is_not_done(autojump_clock: MockClock) -> None:
    node = Node(Store(), silent=True)
    async with client_of(node) as client:
        with pytest.raises(NotDone):
            await client.put("k", "v", timeout=1)
        node.silent = False
        assert (await client.get("k")).count == 0


async def test_follows_the_leader(autojump_clock: MockClock) -> None:
    store = Store()
    follower, leader = Node(store, leads=False, leader_urls=("http://n2:1",)), Node(store)
    async with client_of(follower, leader) as client:
        await client.put("k", "v")
        await client.put("k", "w")
        assert follower.writes == 0
        leader.leads, leader.leader_urls = False, ("http://n1:1",)
        follower.leads = True
        await client.put("k", "x")
        assert (await client.get("k")).kvs[0].version == 3
    assert trio.current_time() < 0.1


async def test_waits_for_a_leader(autojump_clock: MockClock) -> None:
    store = Store()
    nodes = [Node(store, leads=False) for _ in range(3)]
    async with client_of(*nodes) as client:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.put, "k", "v")
            await trio.sleep(2)
            dialled = sum(node.dialled for node in nodes)
            assert dialled < 50, "hazard 95: redials are spaced"
            nodes[1].leads = True
        assert (await client.get("k")).count == 1


async def test_nodes_that_name_each_other_are_not_asked_in_a_circle(autojump_clock: MockClock) -> None:
    store = Store()
    one = Node(store, leads=False, leader_urls=("http://n2:1",))
    two = Node(store, leads=False, leader_urls=("http://n1:1",))
    async with client_of(one, two) as client:
        with pytest.raises(KeyValueError):
            await client.put("k", "v", timeout=5)
    assert one.dialled + two.dialled < 100


async def test_unavailable_reads_move_to_another_endpoint(autojump_clock: MockClock, node: Node) -> None:
    cut_off = Node(Store(), refuses_reads=errors.UNAVAILABLE, sessions=node.sessions)
    async with client_of(cut_off, node) as client:
        assert (await client.get("k")).count == 0
    assert node.reads == 1


async def test_an_idle_client_does_not_redial(autojump_clock: MockClock) -> None:
    node = Node(Store())
    async with client_of(node) as client:
        await client.get("k")
        node.kill()
        await trio.sleep(600)
        assert node.dialled <= 3
        node.up = True
        await client.get("k")


async def test_etcd_writes_are_sent_once(autojump_clock: MockClock) -> None:
    """Without sessions a second sending could be a second write: the outcome is unknown instead."""
    store = Store()
    first, second = Node(store, sessions=False), Node(store, sessions=False)
    async with client_of(first, second) as client:
        await client.get("k")
        first.silent = True
        with pytest.raises(OutcomeUnknown):
            await client.put("k", "v", timeout=1)
        assert second.writes == 0
        first.up = False
        await client.put("k", "v")
        assert second.writes == 1


# Being left


async def test_the_callers_own_exception_comes_out_as_it_is(autojump_clock: MockClock, node: Node) -> None:
    with pytest.raises(KeyError, match="mine"):  # noqa: PT012
        async with client_of(node) as client:
            await client.put("k", "v")
            raise KeyError("mine")


async def test_can_be_cancelled(autojump_clock: MockClock, node: Node) -> None:
    """Hazard 82."""
    with trio.move_on_after(1) as scope:
        async with client_of(node) as client:
            await client.put("k", "v")
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_leaving_ends_the_session(autojump_clock: MockClock) -> None:
    node = Node(Store())
    async with client_of(node) as client:
        await client.put("k", "v")
    assert node.writes == 3


@pytest.mark.parametrize("state", ["never entered", "closed"])
async def test_a_client_that_is_not_open_says_so_at_once(
    autojump_clock: MockClock, node: Node, state: str
) -> None:
    client = client_of(node)
    error: type[Exception] = RuntimeError
    if state == "closed":
        async with client:
            await client.put("k", "v")
            watch = client.watch("k")
        error = trio.ClosedResourceError
        with pytest.raises(error, match="closed"):
            await watch.receive()
        with pytest.raises(RuntimeError, match="once"):
            await client.__aenter__()
    for operate in (
        lambda: client.put("k", "v"),
        lambda: client.get("k"),
        lambda: client.txn([], [put_request("k")]),
        lambda: client.lease_grant(5),
        lambda: client.leases(),
        lambda: client.lease_keep_alive(1),
        lambda: client.lock("l").__aenter__(),
    ):
        with pytest.raises(error, match=r"closed|not entered"):
            await operate()
    for begin in (lambda: client.watch("k"), lambda: client.keep_lease(1, 5)):
        with pytest.raises(error, match=r"closed|not entered"):
            begin()
    assert trio.current_time() < 1


async def test_closing_ends_what_waits_in_other_tasks(autojump_clock: MockClock) -> None:
    node = Node(Store())
    errors_seen: list[KeyValueError] = []

    async def write(client: Client) -> None:
        with pytest.raises(KeyValueError) as raised:
            await client.put("k", "v", timeout=600)
        errors_seen.append(raised.value)

    async with trio.open_nursery() as nursery:
        async with client_of(node) as client:
            await client.put("k", "v")
            node.silent = True
            nursery.start_soon(write, client)
            await trio.sleep(0.01)
    assert trio.current_time() < 1
    (error,) = errors_seen
    assert isinstance(error, OutcomeUnknown)
    assert "the client is closed" in str(error)


async def test_arguments_that_make_no_sense(autojump_clock: MockClock) -> None:
    with pytest.raises(ValueError, match="at least one endpoint"):
        Client([])
    with pytest.raises(TypeError, match="list of str"):
        Client("127.0.0.1:2379")
    deep = TxnRequest()
    innermost = deep
    for _ in range(50):
        innermost = innermost.success.add().request_txn
    async with client_of(Node(Store())) as client:
        with pytest.raises(ValueError, match="exclude"):
            await client.get("k", "m", prefix=True)
        with pytest.raises(ValueError, match="exclude"):
            await client.put("k", "v", lease=1, ttl=1)
        with pytest.raises(ValueError, match="order"):
            await client.get("k", order="foo")  # type: ignore[arg-type]
        with pytest.raises(TypeError, match="not NoneType"):
            await client.put(None, "v")  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="within one another"):
            await client.execute_txn(deep)
