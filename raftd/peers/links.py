"""The streams between this node and its peers, and which of them a message takes.

Each node dials each peer twice, on connections of their own, so that bulk never delays a heartbeat: a
control stream and a data stream. What starts an exchange leaves on a stream this node dialled; a reply
returns on the stream that brought the question. A message that finds no stream, or a full one, is dropped:
Raft repeats what matters.
"""

import contextlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import structlog
import trio

from proto import errors, peer_pb2
from proto.bridge import Channel, connect
from proto.call import Call
from proto.errors import Status
from proto.options import LINK_OPTIONS
from proto.stream import MessageStream, StreamEnded
from raftd import config
from raftd.core.messages import BULK, REPLIES, Envelope, Message
from raftd.peers.codec import MalformedMessage, decode, encode

log = structlog.get_logger()

_PEER = peer_pb2.DESCRIPTOR.services_by_name["Peer"].methods_by_name


class Plane(Enum):
    CONTROL = "Control"
    DATA = "Data"


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this node is to its peers."""

    node_id: int
    cluster_id: int


@dataclass(slots=True)
class _Peer:
    """What this node holds of one peer. A stream is None while it is down."""

    node_id: int
    address: str
    dialled: dict[Plane, MessageStream] = field(default_factory=dict)
    accepted: dict[Plane, MessageStream] = field(default_factory=dict)
    channel: Channel | None = None
    """For forwarded commands: that of the data stream, because they are bulk."""
    appeared: trio.Event = field(default_factory=trio.Event)
    refusal: str | None = None
    """What it last refused this node for: said once, though tried again and again."""


class PeerLinks:
    """`receive(sender, messages)` gets what arrives; `broken(peer)` tells that a peer's control stream
    ended.
    """

    def __init__(
        self,
        identity: Identity,
        addresses: Mapping[int, str],
        receive: Callable[[int, Sequence[Message]], None],
        broken: Callable[[int], None],
        restored: Callable[[int], None],
    ) -> None:
        self.counters: Counter[str] = Counter()
        self._identity = identity
        self._last_refused: str | None = None
        self._peers = {node_id: _Peer(node_id, address) for node_id, address in sorted(addresses.items())}
        self._receive = receive
        self._broken = broken
        self._restored = restored

    def send(self, envelopes: Sequence[Envelope]) -> None:
        """Sends or drops each; never waits."""
        small: dict[tuple[int, Plane, bool], list[Message]] = defaultdict(list)
        for envelope in envelopes:
            message = envelope.message
            plane = Plane.DATA if isinstance(message, BULK) else Plane.CONTROL
            reply = isinstance(message, REPLIES)
            if plane is Plane.DATA and not reply:
                self._offer(envelope.to, plane, reply, [message])
            else:
                small[envelope.to, plane, reply].append(message)
        for (to, plane, reply), messages in small.items():
            self._offer(to, plane, reply, messages)

    def _offer(self, to: int, plane: Plane, reply: bool, messages: Sequence[Message]) -> None:
        peer = self._peers[to]
        stream = (peer.accepted if reply else peer.dialled).get(plane)
        sent = False
        if stream is not None:
            with contextlib.suppress(StreamEnded, Status):  # the task that keeps it will notice too
                sent = stream.offer(encode(messages))
        if not sent:
            self.counters["peer_messages_dropped"] += len(messages)

    async def run(self) -> None:
        """Keeps both streams to every peer, until cancelled."""
        async with trio.open_nursery() as nursery:
            for peer in self._peers.values():
                for plane in Plane:
                    nursery.start_soon(self._keep_dialled, peer, plane)

    async def _keep_dialled(self, peer: _Peer, plane: Plane) -> None:
        delay_s = config.REDIAL_MIN_S
        while True:
            received = False
            try:
                async with connect(peer.address, options=LINK_OPTIONS, isolated=True) as channel:
                    async with channel.stream(_PEER[plane.value], metadata=self._metadata(peer)) as stream:
                        peer.dialled[plane] = stream
                        if plane is Plane.DATA:
                            peer.channel = channel
                            self._restored(peer.node_id)
                        while True:
                            self._deliver(peer, await stream.receive_all())
                            received = True
                            peer.refusal = None
            except (Status, StreamEnded) as ended:
                self._note_refusal(peer, ended)
            finally:
                peer.dialled.pop(plane, None)
                if plane is Plane.DATA:
                    peer.channel = None
            delay_s = config.REDIAL_MIN_S if received else min(2 * delay_s, config.REDIAL_MAX_S)
            with trio.move_on_after(delay_s):
                await peer.appeared.wait()  # it dialled us, so it is there

    def _note_refusal(self, peer: _Peer, ended: Status | StreamEnded) -> None:
        if isinstance(ended, Status) and ended.code == errors.FAILED_PRECONDITION:
            self.counters["peer_refusals_received"] += 1
            if ended.text != peer.refusal:
                peer.refusal = ended.text
                log.warning("a peer refuses this node", peer=f"{peer.node_id:x}", reason=ended.text)

    def _metadata(self, peer: _Peer) -> dict[str, str]:
        return {
            "raftd-cluster": str(self._identity.cluster_id),
            "raftd-sender": str(self._identity.node_id),
            "raftd-receiver": str(peer.node_id),
            "raftd-format": str(config.PEER_FORMAT),
        }

    async def accept(self, plane: Plane, call: Call) -> None:
        """Serves a stream that a peer dialled, until it ends. Raises Status for a stranger."""
        peer = self._check_sender(call.metadata)
        peer.accepted[plane] = call
        appeared, peer.appeared = peer.appeared, trio.Event()
        appeared.set()
        if plane is Plane.CONTROL:
            log.info("peer up", peer=f"{peer.node_id:x}")
        try:
            while True:
                self._deliver(peer, await call.receive_all())
        except StreamEnded:
            return
        finally:
            if peer.accepted.get(plane) is call:
                del peer.accepted[plane]
                if plane is Plane.CONTROL:
                    log.info("peer down", peer=f"{peer.node_id:x}")
                    self._broken(peer.node_id)

    def _check_sender(self, metadata: Mapping[str, str]) -> _Peer:
        """Only a member of this cluster that means this node is heard; all others are refused and counted."""
        try:
            named = {
                key: int(metadata.get(f"raftd-{key}", ""))
                for key in ("cluster", "sender", "receiver", "format")
            }
        except ValueError:
            raise self._refuse("a peer stream without the metadata raftd nodes send") from None
        if named["format"] != config.PEER_FORMAT:
            raise self._refuse(
                f"peer format {named['format']} is not {config.PEER_FORMAT}: the versions do not fit"
            )
        if named["cluster"] != self._identity.cluster_id:
            raise self._refuse(errors.CLUSTER_ID_MISMATCH[1])
        if named["receiver"] != self._identity.node_id:
            raise self._refuse(
                f"this is node {self._identity.node_id:x}, not {named['receiver']:x}: was its data wiped?"
            )
        if (peer := self._peers.get(named["sender"])) is None:
            raise self._refuse(f"node {named['sender']:x} is not a member of this cluster")
        return peer

    def _refuse(self, reason: str) -> Status:
        self.counters["peer_streams_refused"] += 1
        if reason != self._last_refused:  # a stranger dials again and again
            self._last_refused = reason
            log.warning("peer stream refused", reason=reason)
        return Status(errors.FAILED_PRECONDITION, reason, errors.NOT_DONE_OUTCOME)

    def _deliver(self, peer: _Peer, batches: Sequence[peer_pb2.Batch]) -> None:
        for batch in batches:
            try:
                messages = decode(batch)
            except MalformedMessage as malformed:
                self.counters["peer_messages_malformed"] += 1
                log.warning("malformed message dropped", peer=f"{peer.node_id:x}", reason=str(malformed))
                continue
            self._receive(peer.node_id, messages)

    async def forward(
        self, leader: int, request: peer_pb2.ForwardRequest, deadline: float
    ) -> peer_pb2.ForwardReply:
        """Hands a client's command to the leader, once. Raises Status; its outcome says what is known."""
        reply: peer_pb2.ForwardReply = await self._ask(leader, "Forward", request, deadline)
        return reply

    async def leases(
        self, leader: int, request: peer_pb2.LeasesRequest, deadline: float
    ) -> peer_pb2.LeasesReply:
        """Keepalives, or questions for the time left, to the leader. Raises Status."""
        reply: peer_pb2.LeasesReply = await self._ask(leader, "Leases", request, deadline)
        return reply

    async def _ask(self, leader: int, method: str, request: Any, deadline: float) -> Any:
        peer = self._peers[leader]
        if peer.channel is None:
            raise Status(*errors.LEADER_CHANGED, outcome=errors.NOT_DONE_OUTCOME)
        timeout = None if math.isinf(deadline) else max(0.0, deadline - trio.current_time())
        return await peer.channel.unary(
            _PEER[method], request, timeout=timeout, metadata=self._metadata(peer)
        )

    def check_forwarded(self, metadata: Mapping[str, str]) -> None:
        """Raises Status unless the call comes from a member."""
        self._check_sender(metadata)
