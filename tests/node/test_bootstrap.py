"""How a cluster forms, and who is kept out of it, over real gRPC on loopback."""

from collections.abc import Awaitable, Callable

import pytest
import trio

from proto.bridge import serve
from raftd.peers.bootstrap import FormationRefused, Introductions
from raftd.peers.service import PeerService
from raftd.store import ClusterIdentity, Member, form_cluster


class Newcomer:
    """A node that is about to form its cluster."""

    def __init__(self, name: str, member_id: int, token: str = "token") -> None:
        self.name = name
        self.member_id = member_id
        self.token = token
        self.members: dict[str, str] = {}
        """Filled once the ports are known; the introductions see it."""
        self.me = Member(member_id, name, (f"http://{name}:2380",), (f"http://{name}:2379",))
        self.introductions = Introductions(token, self.me, self.members)

    async def serve(self, task_status: trio.TaskStatus[list[int]]) -> None:
        await serve(["127.0.0.1:0"], [PeerService(self.introductions).service()], task_status=task_status)


async def among(newcomers: list[Newcomer], act: Callable[[], Awaitable[None]]) -> None:
    """Serves all of them, tells each the addresses, and acts."""
    async with trio.open_nursery() as nursery:
        addresses = {}
        for newcomer in newcomers:
            (port,) = await nursery.start(newcomer.serve)
            addresses[newcomer.name] = f"http://127.0.0.1:{port}"
        for newcomer in newcomers:
            newcomer.members.update(addresses)
        with trio.fail_after(60):
            await act()
        nursery.cancel_scope.cancel()


async def test_all_form_the_same_cluster() -> None:
    newcomers = [Newcomer("n1", 11), Newcomer("n2", 22), Newcomer("n3", 33)]
    formed: list[ClusterIdentity] = []

    async def form(newcomer: Newcomer) -> None:
        formed.append(await newcomer.introductions.form())

    async def act() -> None:
        async with trio.open_nursery() as nursery:
            for newcomer in newcomers:
                nursery.start_soon(form, newcomer)

    await among(newcomers, act)
    assert formed == [form_cluster("token", [newcomer.me for newcomer in newcomers])] * 3


async def test_nobody_forms_before_all_have_answered() -> None:
    """An empty node must know every member before its first vote."""
    one, late = Newcomer("n1", 11), Newcomer("n2", 22)
    formed = trio.Event()

    async def form() -> None:
        await one.introductions.form()
        formed.set()

    async def act() -> None:
        address = one.members["n2"]
        one.members["n2"] = "http://127.0.0.1:1"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(form)
            # While n1 asks in vain, others get their answers from it.
            late.members["n2"] = "http://127.0.0.1:1"
            await late.introductions.form()
            assert not formed.is_set()
            nursery.cancel_scope.cancel()
        one.members["n2"] = late.members["n2"] = address
        await form()

    await among([one, late], act)


async def refused(asker: Newcomer) -> str:
    with pytest.raises(ExceptionGroup) as raised:
        await asker.introductions.form()
    texts = [error.text for error in raised.value.exceptions if isinstance(error, FormationRefused)]
    assert len(texts) == len(raised.value.exceptions)
    return "; ".join(texts)


async def test_another_token_is_refused() -> None:
    one, two = Newcomer("n1", 11), Newcomer("n2", 22, token="other")

    async def act() -> None:
        assert "--initial-cluster-token 'token', not 'other'" in await refused(two)

    await among([one, two], act)


async def test_another_initial_cluster_is_refused() -> None:
    one, two = Newcomer("n1", 11), Newcomer("n2", 22)

    async def act() -> None:
        two.members["n3"] = "http://127.0.0.1:1"
        assert "n1 has --initial-cluster" in await refused(two)

    await among([one, two], act)


async def test_a_wiped_member_is_told_so() -> None:
    """Hazards 43, 77: a wiped directory has a new identity, and the cluster knows the old one."""
    one, two = Newcomer("n1", 11), Newcomer("n2", 23)
    cluster = form_cluster("token", [one.me, Newcomer("n2", 22).me])

    async def act() -> None:
        one.introductions.joined(cluster)
        text = await refused(two)
        assert "knows n2 as member 16, but its data directory is 17" in text
        assert "wiped" in text

    await among([one, two], act)


async def test_a_stranger_is_told_so() -> None:
    one, two = Newcomer("n1", 11), Newcomer("n9", 99)
    cluster = form_cluster("token", [one.me, Newcomer("n2", 22).me])

    async def act() -> None:
        one.introductions.joined(cluster)
        assert "node n9 is not a member" in await refused(two)

    await among([one, two], act)


async def test_a_wrong_address_is_named() -> None:
    one, two, three = Newcomer("n1", 11), Newcomer("n2", 22), Newcomer("n3", 33)

    async def act() -> None:
        for newcomer in (one, two, three):
            newcomer.members["n1"], newcomer.members["n2"] = newcomer.members["n2"], newcomer.members["n1"]
        text = await refused(three)
        assert "--initial-cluster names the wrong address" in text

    await among([one, two, three], act)


async def test_a_copied_directory_is_refused() -> None:
    one, two = Newcomer("n1", 11), Newcomer("n2", 11)

    async def act() -> None:
        assert "one is a copy" in await refused(two)

    await among([one, two], act)
