"""Watches over servers that come, go, lag and repeat themselves (hazards 40, 41)."""

import random

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from clientctl.client import Client
from clientctl.config import WatchLimits
from clientctl.errors import Compacted, InvalidRequest, NotDone, WatchCanceled
from clientctl.watch import Watch
from proto import errors
from proto.errors import Status
from tests.clientctl.watch_servers import History, WatchNetwork, WatchServer


def client_of(*servers: WatchServer, **arguments: object) -> Client:
    network = WatchNetwork(*servers)
    return Client(list(network.servers), dial=network.dial, **arguments)  # type: ignore[arg-type]


async def read(watch: Watch, count: int) -> list[tuple[int, bytes]]:
    """The next events as revision and key."""
    events = [await watch.__anext__() for _ in range(count)]
    return [(event.kv.mod_revision, event.kv.key) for event in events]


@pytest.fixture
def server() -> WatchServer:
    return WatchServer(History())


async def test_events_from_now_on(autojump_clock: MockClock, server: WatchServer) -> None:
    server.history.add("a")
    async with client_of(server) as client, client.watch("a", prefix=True) as watch:
        server.history.add("a", "b", "a1")
        server.history.add("a2")
        assert await read(watch, 3) == [(3, b"a"), (3, b"a1"), (4, b"a2")]
    assert server.metadata["hasleader"] == "true"


async def test_events_of_the_past(autojump_clock: MockClock, server: WatchServer) -> None:
    for _ in range(5):
        server.history.add("a")
    async with client_of(server) as client:
        watch = client.watch("a", start_revision=4)
        assert await read(watch, 3) == [(4, b"a"), (5, b"a"), (6, b"a")]
        watch.close()
        with pytest.raises(trio.ClosedResourceError):
            await watch.__anext__()


async def test_a_loss_before_the_first_event_loses_nothing(
    autojump_clock: MockClock, server: WatchServer
) -> None:
    """ "From now on" is when the first server said so, not when the second one is asked (hazard 41)."""
    async with client_of(server) as client, client.watch("a") as watch:
        server.kill()
        server.history.add("a")
        server.up = True
        server.history.add("a")
        assert await read(watch, 2) == [(2, b"a"), (3, b"a")]
    assert [request.start_revision for request in server.created] == [0, 2]


async def test_many_watches_share_one_stream(autojump_clock: MockClock, server: WatchServer) -> None:
    async with client_of(server) as client, trio.open_nursery() as nursery:
        done: list[int] = []

        async def follow(number: int) -> None:
            async with client.watch(f"k{number}") as watch:
                assert (await read(watch, 1))[0][1] == b"k%d" % number
                done.append(number)

        for number in range(600):
            nursery.start_soon(follow, number)
        await wait_all_tasks_blocked()
        for number in range(600):
            server.history.add(f"k{number}")
    assert sorted(done) == list(range(600))
    assert server.opened == 1


@pytest.mark.parametrize("seed", range(30))
async def test_whatever_servers_do_the_events_equal_the_history(autojump_clock: MockClock, seed: int) -> None:
    """Streams end in the middle of revisions, servers lag, die and repeat themselves (hazards 40, 41)."""
    chance = random.Random(seed)
    history = History()
    servers = [
        WatchServer(
            history, random.Random(chance.random()), patience=chance.choice((3, 10, 30)), repeats=True
        )
        for _ in range(3)
    ]
    limits = WatchLimits(waiting_events_max=chance.choice((4, 4096)), creations_max=2)
    keys = ("a", "b", "ba", "c")
    written = 120

    async def write() -> None:
        for _ in range(written):
            await trio.sleep(chance.random() / 10)
            history.add(*chance.sample(keys, chance.randint(1, 4)))
            for one in servers:
                one.lag = chance.randint(0, 3)
            victim = chance.choice(servers)
            if chance.random() < 0.2:
                victim.kill()
            else:
                victim.up = True
        history.add("end", "bend")
        for one in servers:
            one.lag, one.up, one.patience = 0, True, 0
            one.break_streams()

    async def follow(client: Client, key: str, prefix: bool, fragment: bool) -> None:
        last, seen = b"end" if key == "end" else b"bend", []
        async with client.watch(
            key, prefix=prefix, start_revision=2, fragment=fragment, progress_notify=True
        ) as watch:
            async for event in watch:
                seen.append(event)
                if event.kv.key == last:
                    break
                await trio.sleep(chance.random() / 20)
        start = key.encode()
        assert seen == [event for event in history.events if event.kv.key.startswith(start)]

    async with client_of(*servers, watch_limits=limits) as client, trio.open_nursery() as nursery:
        nursery.start_soon(follow, client, "b", True, False)
        nursery.start_soon(follow, client, "b", True, True)
        nursery.start_soon(follow, client, "", True, True)
        nursery.start_soon(follow, client, "end", False, False)
        nursery.start_soon(write)


async def test_a_slow_reader_holds_up_nobody_and_misses_nothing(
    autojump_clock: MockClock, server: WatchServer
) -> None:
    limits = WatchLimits(waiting_events_max=10)
    async with (
        client_of(server, watch_limits=limits) as client,
        client.watch("slow") as slow,
        client.watch("fast") as fast,
    ):
        for revision in range(2, 102):
            server.history.add("slow", "fast")
            assert await read(fast, 1) == [(revision, b"fast")]
        await wait_all_tasks_blocked()
        assert len(server.cancelled) == 1, "the slow one has left"
        assert await read(slow, 100) == [(revision, b"slow") for revision in range(2, 102)]
        server.history.add("slow")
        assert await read(slow, 1) == [(102, b"slow")]


async def test_a_slow_reader_loses_nothing_with_its_server(
    autojump_clock: MockClock, server: WatchServer
) -> None:
    limits = WatchLimits(waiting_events_max=10)
    async with client_of(server, watch_limits=limits) as client, client.watch("k") as watch:
        for _ in range(50):
            server.history.add("k")
            await wait_all_tasks_blocked()
        server.break_streams()
        assert await read(watch, 50) == [(revision, b"k") for revision in range(2, 52)]


async def test_history_that_is_gone(autojump_clock: MockClock, server: WatchServer) -> None:
    for _ in range(9):
        server.history.add("k")
    server.history.compacted = 7
    async with client_of(server) as client:
        async with client.watch("k", start_revision=3) as watch:
            with pytest.raises(Compacted, match="compact revision 7") as caught:
                await watch.__anext__()
        assert caught.value.compact_revision == 7
        async with client.watch("k", start_revision=7) as watch:
            assert (await read(watch, 1))[0] == (7, b"k")


async def test_history_that_goes_while_the_connection_is_lost(
    autojump_clock: MockClock, server: WatchServer
) -> None:
    """What came is returned first; then the gap is named, not passed over (hazard 41)."""
    async with client_of(server) as client, client.watch("k") as watch:
        server.history.add("k")
        await wait_all_tasks_blocked()
        server.kill()
        for _ in range(5):
            server.history.add("k")
        server.history.compacted = 6
        server.up = True
        await trio.sleep(1)
        assert await read(watch, 1) == [(2, b"k")]
        with pytest.raises(Compacted):
            await watch.__anext__()


async def test_an_idle_watch_survives_compaction_by_progress(
    autojump_clock: MockClock, server: WatchServer
) -> None:
    async with client_of(server) as client, client.watch("k", progress_notify=True) as watch:
        for _ in range(9):
            server.history.add("other")
            await wait_all_tasks_blocked()
        server.history.compacted = 8
        server.break_streams()
        server.history.add("k")
        while not (response := await watch.receive()).events:
            assert response.header.revision <= 11
        assert response.events[0].kv.mod_revision == 11


async def test_a_refused_watch(autojump_clock: MockClock, server: WatchServer) -> None:
    async with client_of(server) as client, client.watch("a") as good:
        with pytest.raises(WatchCanceled, match="watcher range is empty"):
            async with client.watch("z", "a"):
                pass
        server.history.add("a")
        assert await read(good, 1) == [(2, b"a")]


async def test_servers_without_watches(autojump_clock: MockClock, server: WatchServer) -> None:
    server.refusal = Status(errors.UNIMPLEMENTED, "unknown service etcdserverpb.Watch")
    async with client_of(server) as client:
        with pytest.raises(InvalidRequest, match="unknown service"):
            async with client.watch("k"):
                pass


async def test_no_leader_is_elsewhere(autojump_clock: MockClock) -> None:
    history = History()
    history.add("k")
    lost = WatchServer(history, refusal=Status(*errors.NO_LEADER))
    async with client_of(lost, WatchServer(history)) as client:
        async with client.watch("k", start_revision=2) as watch:
            assert await read(watch, 1) == [(2, b"k")]


async def test_a_first_connection_that_never_comes(autojump_clock: MockClock, server: WatchServer) -> None:
    server.up = False
    async with client_of(server, dial_timeout=2) as client:
        with pytest.raises(NotDone, match="refused"):
            async with client.watch("k"):
                pass


async def test_a_watch_that_has_begun_waits_for_its_servers(
    autojump_clock: MockClock, server: WatchServer
) -> None:
    async with client_of(server, dial_timeout=2) as client, client.watch("k") as watch:
        server.kill()
        await trio.sleep(60)
        server.up = True
        server.history.add("k")
        assert await read(watch, 1) == [(2, b"k")]


async def test_progress_on_request_comes_after_the_watch(
    autojump_clock: MockClock, server: WatchServer
) -> None:
    server.history.add("k")
    async with client_of(server) as client:
        watch = client.watch("k")
        watch.request_progress()
        response = await watch.receive()
        assert (response.watch_id, response.header.revision) == (-1, 2)


async def test_leaving_ends_the_watch_at_the_server(autojump_clock: MockClock, server: WatchServer) -> None:
    async with client_of(server) as client:
        async with client.watch("k"):
            pass
        with trio.move_on_after(0):
            async with client.watch("k"):
                raise AssertionError("cancelled before it has begun")
        async with client.watch("k"):
            pass
        await wait_all_tasks_blocked()
    assert len(server.cancelled) == len(server.created)


async def test_the_end_of_the_client_ends_its_watches(autojump_clock: MockClock, server: WatchServer) -> None:
    async with client_of(server) as client:
        watch = client.watch("k")
        async with watch:
            pass
        open_one = client.watch("k")
        await open_one.__aenter__()
    with pytest.raises(trio.ClosedResourceError):
        await open_one.receive()


async def test_too_many_watches(autojump_clock: MockClock, server: WatchServer) -> None:
    async with client_of(server, watch_limits=WatchLimits(watches_max=1)) as client, client.watch("a"):
        with pytest.raises(NotDone, match="too many watches"):
            async with client.watch("b"):
                pass
