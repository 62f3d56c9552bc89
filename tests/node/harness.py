"""Whole nodes in one process for tests: real Raft, real LMDB, links in memory.

Unless a test asks for threads, `InlineWriter` does what the writer thread does, and reads run, on the Trio
thread: under the autojump clock nothing runs behind the clock's back, which leaps while it waits for a
thread. The store and its transactions are the real ones.
"""

import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from unittest import mock

import trio

from raftd.core.config import RaftConfig
from raftd.core.messages import Entry, Envelope
from raftd.kv import TABLES, StateMachine
from raftd.kv.command import Applied, Result, encode_command
from raftd.node import Node
from raftd.proposals import Refusal, Submission
from raftd.store import Completion, Member, Store, WriteJob, form_cluster
from raftd.writing import Apply, Report, WriterThread

T = TypeVar("T")


class InlineWriter:
    """Runs each job at once: write, apply, commit, report."""

    def __init__(self, store: Store, apply: Apply, done: Callable[[list[Report]], None]) -> None:
        self._store = store
        self._apply = apply
        self._done = done

    def submit(self, job: WriteJob) -> None:
        store = self._store
        transaction = store.begin_write()
        if job.hard_state is not None:
            store.set_hard_state(transaction, job.hard_state)
        if job.entries:
            store.append(transaction, job.entries)
        results: list[tuple[Entry, Applied]] = []
        for entry in job.committed:
            results.append((entry, self._apply(transaction, entry)))
            store.state.applied_index = entry.index
        store.commit(transaction)
        applied = store.state.applied_index
        self._done([Completion(job, tuple(results), True, applied, applied)])

    async def close(self) -> bool:
        """Nothing is ever left over."""
        return True


class MemoryNetwork:
    """Delivers what nodes send, in order, unless the receiver or the pair is cut off."""

    def __init__(self) -> None:
        self.nodes: dict[int, Node] = {}
        self.isolated: set[int] = set()

    def send_from(self, sender: int, envelopes: Sequence[Envelope]) -> None:
        for envelope in envelopes:
            receiver = self.nodes.get(envelope.to)
            if receiver is not None and not self.isolated & {sender, envelope.to}:
                receiver.receive(sender, [envelope.message])

    def isolate(self, node_id: int) -> None:
        """Cuts a node off from all others; its streams break."""
        self.isolated.add(node_id)
        for other in self.nodes:
            if other != node_id:
                self.nodes[other].stream_broken(node_id)
                self.nodes[node_id].stream_broken(other)


class NodeLinks:
    def __init__(self, network: MemoryNetwork, node_id: int) -> None:
        self._network = network
        self._node_id = node_id

    def send(self, envelopes: Sequence[Envelope]) -> None:
        self._network.send_from(self._node_id, envelopes)


class Nodes:
    """`count` nodes of one cluster, running."""

    def __init__(self, network: MemoryNetwork, stores: dict[int, Store], nursery: trio.Nursery) -> None:
        self.network = network
        self.stores = stores
        self.start_soon = nursery.start_soon
        """For what runs as long as the nodes."""

    @property
    def all(self) -> list[Node]:
        return [self.network.nodes[node_id] for node_id in sorted(self.network.nodes)]

    async def until(self, condition: Callable[[], object]) -> None:
        """Waits until the condition holds, looking after every tick of virtual or real time."""
        with trio.fail_after(60):
            while not condition():
                with trio.move_on_after(0.005):
                    await trio.sleep_forever()

    async def leader(self) -> Node:
        await self.until(lambda: self._leaders())
        return self._leaders()[0]

    def _leaders(self) -> list[Node]:
        heard = [node for node in self.all if node.raft.node_id not in self.network.isolated]
        leaders = [node for node in heard if node.leads]
        if len(leaders) == 1 and all(node.soft_state.leader == leaders[0].raft.node_id for node in heard):
            return leaders
        return []


async def _run_at_once(function: Callable[..., T], *arguments: Any, **_: Any) -> T:
    await trio.lowlevel.checkpoint()
    return function(*arguments)


@asynccontextmanager
async def running_nodes(directory: Path, count: int = 3, *, threads: bool = False) -> AsyncIterator[Nodes]:
    """With `threads` real threads write and read; then the test needs the real clock."""
    if threads:
        async with _running_nodes(directory, count, WriterThread) as nodes:
            yield nodes
    else:
        with mock.patch.object(trio.to_thread, "run_sync", _run_at_once):
            async with _running_nodes(directory, count, InlineWriter) as nodes:
                yield nodes


@asynccontextmanager
async def _running_nodes(
    directory: Path, count: int, writer: type[WriterThread | InlineWriter]
) -> AsyncIterator[Nodes]:
    stores: dict[int, Store] = {}
    for number in range(count):
        store = Store.open(directory / f"n{number}", tables=TABLES)
        store.claim(f"n{number}", "token")
        stores[store.identity.member_id] = store
    members = [
        Member(node_id, f"n{number}", (f"http://p{number}:1",), (f"http://c{number}:1",))
        for number, node_id in enumerate(stores)
    ]
    cluster = form_cluster("token", members)
    network = MemoryNetwork()
    try:
        for node_id, store in stores.items():
            store.bootstrap(cluster)
            network.nodes[node_id] = Node(
                RaftConfig(node_id, tuple(sorted(stores))),
                store.recover(),
                store,
                partial(writer, store),
                StateMachine(),
                NodeLinks(network, node_id),
                random.Random(node_id),
            )
        async with trio.open_nursery() as nursery:
            for node in network.nodes.values():
                nursery.start_soon(node.run)
            yield Nodes(network, stores, nursery)
            nursery.cancel_scope.cancel()
    finally:
        for store in stores.values():
            store.close()


async def submit(node: Node, kind: int, request: bytes) -> Sequence[Result] | Refusal:
    """One command of no session, and what it came to."""
    ended = trio.Event()
    answers: list[Sequence[Result] | Refusal] = []

    def done(answer: Sequence[Result] | Refusal) -> None:
        answers.append(answer)
        ended.set()

    command = encode_command(kind, 0, 0, request)
    node.submit(Submission((command,), len(command), done))
    await ended.wait()
    return answers[0]
