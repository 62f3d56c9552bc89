"""Links between nodes over real gRPC on loopback: what arrives where, and who is refused."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio

from proto import errors, peer_pb2
from proto.bridge import connect, serve
from proto.errors import Status
from proto.stream import StreamEnded
from raftd.core.messages import (
    AppendEntries,
    Entry,
    EntryKind,
    Envelope,
    Heartbeat,
    HeartbeatReply,
    Message,
    RequestVote,
)
from raftd.peers.bootstrap import Introductions
from raftd.peers.links import Identity, PeerLinks
from raftd.peers.service import PeerService
from raftd.services.writes import Writes
from raftd.store import Member

CLUSTER = 77
PEER = peer_pb2.DESCRIPTOR.services_by_name["Peer"].methods_by_name


class Ears:
    """Stands in for the node: keeps what the links deliver."""

    def __init__(self) -> None:
        self.heard: list[tuple[int, Message]] = []
        self.broken: list[int] = []
        self.restored: list[int] = []
        self.news = trio.Event()

    def receive(self, sender: int, messages: Sequence[Message]) -> None:
        self.heard.extend((sender, message) for message in messages)
        self.tell()

    def lose(self, peer: int) -> None:
        self.broken.append(peer)
        self.tell()

    def tell(self) -> None:
        news, self.news = self.news, trio.Event()
        news.set()

    async def until(self, count: int) -> None:
        with trio.fail_after(60):
            while len(self.heard) < count:
                await self.news.wait()


class Peer:
    """One node's links, served on a free port."""

    def __init__(self, node_id: int, cluster_id: int = CLUSTER) -> None:
        self.node_id = node_id
        self.ears = Ears()
        self.identity = Identity(node_id, cluster_id)
        self.links: PeerLinks
        me = Member(node_id, f"n{node_id}", ("http://p:1",), ("http://c:1",))
        self.service = PeerService(Introductions("token", me, {me.name: "http://p:1"}))

    def join(self, addresses: dict[int, str]) -> None:
        self.links = PeerLinks(
            self.identity, addresses, self.ears.receive, self.ears.lose, self.ears.restored.append
        )
        writes = Writes(None, self.links, 300)  # type: ignore[arg-type]
        self.service.join(self.links, writes, None)  # type: ignore[arg-type]

    async def say_until_heard(self, to: "Peer", message: Message) -> None:
        """Raft repeats what is lost while streams come up; so does this."""
        with trio.fail_after(60):
            while (self.node_id, message) not in to.ears.heard:
                self.links.send([Envelope(to.node_id, message)])
                with trio.move_on_after(0.05):
                    await to.ears.news.wait()


@asynccontextmanager
async def linked(*peers: Peer) -> AsyncIterator[dict[int, str]]:
    """All of them serving and dialling each other; yields their addresses."""
    async with trio.open_nursery() as nursery:
        addresses = {}
        for peer in peers:
            (port,) = await nursery.start(serve, ["127.0.0.1:0"], [peer.service.service()])
            addresses[peer.node_id] = f"127.0.0.1:{port}"
        for peer in peers:
            peer.join({node_id: address for node_id, address in addresses.items() if node_id != peer.node_id})
            nursery.start_soon(peer.links.run)
        yield addresses
        nursery.cancel_scope.cancel()


async def test_questions_and_answers_arrive() -> None:
    one, two = Peer(1), Peer(2)
    async with linked(one, two):
        await one.say_until_heard(two, Heartbeat(3, 9, 1))
        two.links.send([Envelope(1, HeartbeatReply(3, 1))])
        await one.ears.until(1)
        assert one.ears.heard == [(2, HeartbeatReply(3, 1))]


async def test_entries_arrive_in_order() -> None:
    one, two = Peer(1), Peer(2)
    async with linked(one, two):
        first = AppendEntries(3, 0, 0, 0, (Entry(1, 3, EntryKind.NOOP, b""),))
        await one.say_until_heard(two, first)
        heard = len(two.ears.heard)
        sent = [
            AppendEntries(3, index, 3, 0, (Entry(index + 1, 3, EntryKind.COMMANDS, b"x" * 50_000),))
            for index in range(1, 20)
        ]
        one.links.send([Envelope(2, message) for message in sent])
        await two.ears.until(heard + len(sent))
        assert [message for _, message in two.ears.heard[heard:]] == sent


async def test_a_broken_stream_is_told() -> None:
    """The end of the control stream from a peer: fast failover begins here."""
    one, two = Peer(1), Peer(2)
    async with trio.open_nursery() as nursery:
        (port,) = await nursery.start(serve, ["127.0.0.1:0"], [one.service.service()])
        one.join({2: "127.0.0.1:1"})
        two.join({1: f"127.0.0.1:{port}"})
        async with trio.open_nursery() as second:
            second.start_soon(two.links.run)
            await two.say_until_heard(one, Heartbeat(1, 0, 0))
            second.cancel_scope.cancel()
        with trio.fail_after(60):
            while one.ears.broken != [2]:
                await one.ears.news.wait()
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ({}, "without the metadata"),
        ({"cluster": "78"}, "cluster ID mismatch"),
        ({"receiver": "3"}, "this is node 1, not 3"),
        ({"sender": "9"}, "node 9 is not a member"),
        ({"format": "2"}, "the versions do not fit"),
    ],
)
async def test_strangers_are_refused_and_counted(metadata: dict[str, str], reason: str) -> None:
    """Messages from a node of another cluster reach no core (hazard 43)."""
    one, two = Peer(1), Peer(2)
    named = (
        {"cluster": str(CLUSTER), "sender": "2", "receiver": "1", "format": "1"} | metadata
        if metadata
        else {}
    )
    async with linked(one, two) as addresses, connect(addresses[1], isolated=True) as channel:
        for plane in ("Control", "Data"):
            before = one.links.counters["peer_streams_refused"]
            sent = {f"raftd-{key}": value for key, value in named.items()}
            async with channel.stream(PEER[plane], metadata=sent) as stream:
                await stream.send(peer_pb2.Batch(messages=[peer_pb2.Message(term=99)]))
                with pytest.raises(Status, match=reason) as refused, trio.fail_after(60):
                    await stream.receive_all()
            assert refused.value.code == errors.FAILED_PRECONDITION
            assert one.links.counters["peer_streams_refused"] == before + 1
        assert not [message for _, message in one.ears.heard if message.term == 99]


async def test_a_malformed_message_is_dropped_and_counted() -> None:
    """Hazard 28. The stream goes on."""
    one, two = Peer(1), Peer(2)
    named = {"raftd-cluster": str(CLUSTER), "raftd-sender": "2", "raftd-receiver": "1", "raftd-format": "1"}
    async with linked(one, two) as addresses, connect(addresses[1], isolated=True) as channel:
        async with channel.stream(PEER["Control"], metadata=named) as stream:
            await stream.send(peer_pb2.Batch(messages=[peer_pb2.Message(term=99)]))
            good = peer_pb2.Message(term=5, request_vote=peer_pb2.RequestVote(last_log_index=1))
            await stream.send(peer_pb2.Batch(messages=[good]))
            await one.ears.until(1)
    assert one.ears.heard == [(2, RequestVote(5, 1, 0, False, False))]
    assert one.links.counters["peer_messages_malformed"] == 1


async def test_a_peer_that_has_not_formed_its_cluster_is_not_there_yet() -> None:
    one = Peer(1)
    async with trio.open_nursery() as nursery:
        (port,) = await nursery.start(serve, ["127.0.0.1:0"], [one.service.service()])
        async with connect(f"127.0.0.1:{port}") as channel:
            async with channel.stream(PEER["Control"]) as stream:
                with pytest.raises((Status, StreamEnded), match="not formed") as refused, trio.fail_after(60):
                    await stream.receive_all()
        assert isinstance(refused.value, Status)
        assert refused.value.code == errors.UNAVAILABLE
        nursery.cancel_scope.cancel()
