"""Leases that are kept alive over servers that fail, under Trio's autojump clock."""

import pytest
import trio
from trio.testing import MockClock

from clientctl.client import Client
from clientctl.errors import LeaseLost
from proto import errors
from proto.errors import Status
from tests.clientctl.watch_servers import History, WatchNetwork, WatchServer


def client_of(*servers: WatchServer) -> Client:
    network = WatchNetwork(*servers)
    return Client(list(network.servers), dial=network.dial)


@pytest.fixture
def server() -> WatchServer:
    return WatchServer(History())


async def test_a_lease_is_renewed_three_times_in_its_time(
    autojump_clock: MockClock, server: WatchServer
) -> None:
    async with client_of(server) as client, client.keep_lease(7, 9) as lease:
        await trio.sleep(60.5)
        assert not lease.lost
    assert server.renewals == 20
    assert server.opened == 1


async def test_many_leases_share_one_stream(autojump_clock: MockClock, server: WatchServer) -> None:
    async with client_of(server) as client, trio.open_nursery() as nursery:

        async def keep(lease_id: int) -> None:
            async with client.keep_lease(lease_id, 9):
                await trio.sleep(30.5)

        for lease_id in range(1, 1001):
            nursery.start_soon(keep, lease_id)
    assert server.renewals == 10 * 1000
    assert server.opened == 1


async def test_a_lease_that_the_server_has_ended(autojump_clock: MockClock, server: WatchServer) -> None:
    server.renew = lambda lease: 0
    with trio.fail_after(3.5):
        async with client_of(server) as client:
            with pytest.raises(LeaseLost, match="0000000000000007 expired or revoked"):
                async with client.keep_lease(7, 9):
                    await trio.sleep_forever()


async def test_a_lease_that_nobody_renews_is_lost_when_its_time_is_over(
    autojump_clock: MockClock, server: WatchServer
) -> None:
    """Counted from before the last renewal that was answered: the server may have ended it from then on."""

    async def outlive(client: Client) -> None:
        async with client.keep_lease(7, 9):
            await trio.sleep(10)
            server.kill()
            await trio.sleep_forever()

    started_at = trio.current_time()
    async with client_of(server) as client:
        with pytest.raises(LeaseLost):
            await outlive(client)
        assert trio.current_time() - started_at == pytest.approx(9 + 9, abs=0.1)


async def test_another_server_renews(autojump_clock: MockClock) -> None:
    first, second = WatchServer(History()), WatchServer(History())
    async with client_of(first, second) as client, client.keep_lease(7, 9) as lease:
        await trio.sleep(10)
        first.kill()
        await trio.sleep(60)
        assert not lease.lost
    assert second.renewals >= 20


async def test_a_server_that_is_silent_is_left(autojump_clock: MockClock) -> None:
    silent, other = WatchServer(History(), renew=lambda lease: None), WatchServer(History())
    async with client_of(silent, other) as client, client.keep_lease(7, 9) as lease:
        await trio.sleep(60)
        assert not lease.lost
    assert silent.renewals == 1
    assert other.renewals >= 18


async def test_a_server_that_refuses_leases_loses_them(
    autojump_clock: MockClock, server: WatchServer
) -> None:
    server.refusal = Status(errors.UNIMPLEMENTED, "unknown service etcdserverpb.Lease")
    async with client_of(server) as client:
        with pytest.raises(LeaseLost):
            async with client.keep_lease(7, 900):
                await trio.sleep_forever()


async def test_the_blocks_own_error_leaves_as_it_is(autojump_clock: MockClock, server: WatchServer) -> None:
    async with client_of(server) as client:
        with pytest.raises(ZeroDivisionError):
            async with client.keep_lease(7, 9):
                raise ZeroDivisionError


async def test_one_lease_is_kept_once(autojump_clock: MockClock, server: WatchServer) -> None:
    async with client_of(server) as client, client.keep_lease(7, 9):
        with pytest.raises(ValueError, match="kept already"):
            async with client.keep_lease(7, 9):
                pass


async def test_renewing_once(autojump_clock: MockClock) -> None:
    gone, there = WatchServer(History(), up=False), WatchServer(History())
    async with client_of(gone, there) as client:
        assert (await client.lease_keep_alive(7)).TTL == 9
        there.renew = lambda lease: 0
        assert (await client.lease_keep_alive(7)).TTL == 0
