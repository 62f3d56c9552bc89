"""A whole `Client` on three servers in memory that fail at random: no write is lost, doubled or misreported.

What `test_exactly_once` shows of the parts, this shows of the library, with sessions, windows, redials and
hints.
"""

import random

import pytest
import trio
from trio.testing import MockClock

from clientctl.client import Client
from clientctl.config import PipelineLimits, SessionLimits
from clientctl.errors import NotDone, OutcomeUnknown
from tests.clientctl.servers import Network, Node, Store

WRITERS, WRITES = 8, 40
ADDRESSES = ("n1:1", "n2:1", "n3:1")


async def misfortune(nodes: list[Node], rng: random.Random) -> None:
    """One node leads; leadership moves, streams break, nodes die, fall silent and come back."""
    while True:
        await trio.sleep(rng.uniform(0, 0.05))
        node = rng.choice(nodes)
        match rng.randrange(6):
            case 0:
                node.break_streams()
            case 1:
                node.kill()
            case 2:
                node.silent = True
            case 3:
                leader = rng.randrange(len(nodes))
                for number, other in enumerate(nodes):
                    other.leads = number == leader
                    known = rng.random() < 0.8
                    other.leader_urls = (f"http://{ADDRESSES[leader]}",) if known else ()
            case _:
                node.up, node.silent = True, False
                node.break_streams()


async def write(client: Client, writer: int, told: dict[str, int]) -> None:
    """Puts that say what was there before: a lost or doubled one shows in the next."""
    sure, possible = 0, 0
    for number in range(WRITES):
        try:
            await client.put(b"k%d" % writer, b"%d" % number, timeout=random.uniform(0.05, 2))
            sure += 1
            told["done"] += 1
        except OutcomeUnknown:
            told["unknown"] += 1
            possible += 1
        except NotDone:
            told["not done"] += 1
        version = (await client.get(b"k%d" % writer, timeout=100)).kvs
        seen = version[0].version if version else 0
        assert sure <= seen <= sure + possible


@pytest.mark.parametrize("seed", range(10))
async def test_every_answer_is_true(autojump_clock: MockClock, seed: int) -> None:
    """Hazards 82, 87, 88, 95."""
    rng = random.Random(seed)
    store = Store()
    nodes = [Node(store, number, latency_s=lambda: rng.expovariate(200)) for number in (1, 2, 3)]
    network = Network(dict(zip(ADDRESSES, nodes, strict=True)))
    told = {"done": 0, "unknown": 0, "not done": 0}
    async with Client(
        ADDRESSES,
        dial=network.dial,
        pipeline_limits=PipelineLimits(operations_max=6, message_bytes_max=120),
        session_limits=SessionLimits(window_operations_max=4),
    ) as client:
        async with trio.open_nursery() as chaos:
            chaos.start_soon(misfortune, nodes, rng)
            async with trio.open_nursery() as nursery:
                for writer in range(WRITERS):
                    nursery.start_soon(write, client, writer, told)
            chaos.cancel_scope.cancel()
    assert sum(told.values()) == WRITERS * WRITES
    assert told["done"] > WRITERS * WRITES / 2
    assert told["unknown"]
    assert sum(node.dialled for node in nodes) > 20
