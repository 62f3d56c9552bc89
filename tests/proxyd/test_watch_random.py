"""Watches through the proxy under random failures: each client sees its part of the history, once."""

import random

import pytest
import trio
from trio.testing import MockClock

from proto.rpc_pb2 import WatchCreateRequest
from proxyd import config
from tests.proxyd.conftest import Setting
from tests.proxyd.fake_watching import FakeWatch
from tests.proxyd.watching import WatchClient

KEYS = [b"a", b"b", b"ba", b"c"]
RANGES = [(b"a", b""), (b"b", b"c"), (b"a", b"\0"), (b"c", b"")]
STEPS = 60


class Story:
    """What happens to one proxy; `clients` with what each of them asked for and from which revision on."""

    def __init__(self, setting: Setting, seed: int) -> None:
        self.setting = setting
        self.cluster = setting.cluster
        self.random = random.Random(seed)
        self.term = 1
        self.clients: list[tuple[WatchClient, WatchCreateRequest, int]] = []

    async def step(self) -> None:
        happening = self.random.choices(
            [self.write, self.new_client, self.fail, self.elect, self.lag, self.stop_reading],
            weights=[12, 3, 2, 1, 2, 2],
        )[0]
        await happening()
        await trio.sleep(self.random.choice([0, 0, 0.001, 0.05, 0.5]))

    async def write(self) -> None:
        for _ in range(self.random.randint(1, 5)):
            self.cluster.write(self.random.choice(KEYS), b"x" * self.random.choice([1, 3_000]))
        if self.random.random() < 0.3:
            self.cluster.erase(
                *{event.kv.key for event in self.cluster.history.events[-1:] if not event.type}
            )

    async def new_client(self) -> None:
        client = WatchClient(self.setting, message_limit=self.random.choice([1, 256]))
        key, range_end = self.random.choice(RANGES)
        create = WatchCreateRequest(
            key=key,
            range_end=range_end,
            start_revision=self.random.choice([0, 2, self.random.randint(1, self.cluster.revision + 3)]),
            prev_kv=self.random.random() < 0.3,
            filters=self.random.choice([[], [], [WatchCreateRequest.NOPUT], [WatchCreateRequest.NODELETE]]),
        )
        reply = await client.create(
            key,
            range_end,
            start_revision=create.start_revision,
            prev_kv=create.prev_kv,
            filters=list(create.filters),
        )
        self.clients.append((client, create, create.start_revision or reply.header.revision + 1))

    async def fail(self) -> None:
        node = self.random.choice(list(self.cluster.nodes.values()))
        if node.up:
            node.kill()
        node.up = self.random.random() < 0.7

    async def elect(self) -> None:
        self.term += 1
        self.cluster.elect(self.random.choice([1, 2, 3]), self.term)

    async def lag(self) -> None:
        """A node stands still for a while, at a revision that is not its newest."""
        node = self.random.choice(list(self.cluster.nodes.values()))
        node.revision = self.random.choice([None, max(1, self.cluster.revision - 3)])
        node.watching.changed()

    async def stop_reading(self) -> None:
        if self.clients:
            client, _, _ = self.random.choice(self.clients)
            if client.reads.is_set():
                client.reads = trio.Event()
            else:
                client.reads.set()

    async def end_well(self) -> None:
        for node in self.cluster.nodes.values():
            node.up, node.revision = True, None
        self.term += 1
        self.cluster.elect(1, self.term)
        for client, _, _ in self.clients:
            client.reads.set()
        for key in KEYS:
            self.cluster.write(key)
            self.cluster.erase(key)

    def expected(self, create: WatchCreateRequest, start: int) -> list[tuple[int, bytes, bool]]:
        watch = FakeWatch(0, create.key, create.range_end, start, prev_kv=True)
        return [
            (event.kv.mod_revision, event.kv.key, create.prev_kv and event.HasField("prev_kv"))
            for event in self.cluster.history.between(watch, self.cluster.revision)
            if int(event.type) not in [int(kind) for kind in create.filters]
        ]


@pytest.mark.parametrize("seed", range(25))
async def test_each_client_sees_its_history(
    autojump_clock: MockClock, setting: Setting, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Hazards 40, 41."""
    monkeypatch.setattr(config, "WATCH_OUTBOX_BYTES", 10_000)
    monkeypatch.setattr(config, "WATCH_KEPT_BATCHES", seed % 4)
    monkeypatch.setattr(config, "WATCH_RECENT_REVISIONS", 5 * (seed % 3))
    monkeypatch.setattr(config, "WATCH_STALLED_S", 10_000)
    story = Story(setting, seed)
    for _ in range(STEPS):
        await story.step()
    await story.end_well()
    for client, create, start in story.clients:
        expected = story.expected(create, start)
        with trio.fail_after(60):
            while len(client.events()) < len(expected):  # noqa: ASYNC110 - on virtual time
                await trio.sleep(0.01)
        assert [
            (event.kv.mod_revision, event.kv.key, event.HasField("prev_kv")) for event in client.events()
        ] == expected
        assert not client.canceled
        headers = [response.header.revision for response in client.received]
        assert headers == sorted(headers)
    assert any(len(client.events()) > 10 for client, _, _ in story.clients)
