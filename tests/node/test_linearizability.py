"""Registers on a real cluster under moving leadership: no read is older than a write acknowledged before.

Three servers in this process; writers and readers at the leader and at followers; leadership moves on and on.
Each key has one writer with growing values, so a history is linearizable exactly when every read returns a
value between the last one acknowledged before it began and the last one begun before it ended, and later
reads do not go back behind earlier ones.
"""

import random
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import trio

from proto import errors, rpc_pb2
from proto.errors import Status
from tests.node.serving import Member, Members, serving, until

MAINTENANCE = rpc_pb2.DESCRIPTOR.services_by_name["Maintenance"].methods_by_name
WRITES = 150
KEYS = (b"a", b"b", b"c")
READERS_PER_KEY = 3
WRITES_PER_MOVE = 40


@dataclass
class Register:
    """What is known of one key from outside. Values are whole numbers; 0 stands for absence."""

    key: bytes
    begun: int = 0
    acknowledged: int = 0
    seen: int = 0
    """The highest value that any finished read has returned."""
    reads: int = 0
    ended: trio.Event = field(default_factory=trio.Event)

    async def write(self, members: list[Member], seed: random.Random) -> None:
        for value in range(1, WRITES + 1):
            self.begun = value
            while True:
                try:
                    await seed.choice(members).put(self.key, b"%d" % value)
                except Status as failed:
                    # No connection breaks here and no deadline passes, so nothing may be left unknown.
                    if failed.outcome != errors.NOT_DONE_OUTCOME:
                        raise
                    continue
                break
            self.acknowledged = value
        self.ended.set()

    async def read(self, members: list[Member], seed: random.Random) -> None:
        while not self.ended.is_set():
            member = seed.choice(members)
            least = max(self.acknowledged, self.seen)
            value = int(await member.get(self.key) or b"0")
            assert least <= value <= self.begun, (
                f"{member.configuration.name} returned {value} for {self.key!r}: "
                f"{least} was there before, {self.begun} is the last begun"
            )
            self.seen = max(self.seen, value)
            self.reads += 1


async def move_leadership(members: Members, registers: list[Register], seed: random.Random) -> int:
    """To a random follower, every so many writes; returns how often that was asked."""
    moved = 0

    def is_due() -> bool:
        done = sum(it.acknowledged for it in registers)
        return done >= min(moved * WRITES_PER_MOVE, WRITES * len(registers))

    while not all(it.ended.is_set() for it in registers):
        await until(is_due)
        leader = await members.leader()
        target = seed.choice([it for it in members.all if it is not leader])
        request = rpc_pb2.MoveLeaderRequest(targetID=target.node.raft.node_id)
        with suppress(Status):  # it may lose its leadership otherwise, or fail to hand it over
            await leader.call(MAINTENANCE["MoveLeader"], request, timeout=5)
        moved += 1
    return moved


async def test_reads_and_writes_are_linearizable(tmp_path: Path) -> None:
    """Hazards 36, 37."""
    seed = random.Random(7)
    registers = [Register(key) for key in KEYS]
    async with serving(tmp_path, 3) as members:
        first_term = (await members.leader()).node.raft.term
        async with trio.open_nursery() as nursery:
            for register in registers:
                nursery.start_soon(register.write, members.all, seed)
                for _ in range(READERS_PER_KEY):
                    nursery.start_soon(register.read, members.all, seed)
            moved = await move_leadership(members, registers, seed)
        assert (await members.leader()).node.raft.term >= first_term + moved // 2 > first_term
        for register in registers:
            assert register.acknowledged == WRITES
            assert register.reads > 0
            for member in members.all:
                assert await member.get(register.key) == b"%d" % WRITES
            assert [len(member.node.reads) for member in members.all] == [0, 0, 0]
            assert [len(member.node._proposals) for member in members.all] == [0, 0, 0]
