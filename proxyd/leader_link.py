"""All commands on their way to the leader, whoever leads: one pipeline, bound to one stream at a time.

Follows the leader table: a new leader is dialled the moment the table names it, and is sent, under their old
numbers, all commands that the former one left unanswered. The replicated sessions see to it that each takes
effect once (hazard 87). Commands come from proxyd's own sessions (`proxyd.writes`) and from clients' streams
(`proxyd.relay`).
"""

import trio

from clientctl.pipeline import Pipeline
from proto.errors import Status
from proxyd import config
from proxyd.dial import SESSION_STREAM, Dial
from proxyd.node_link import redial_pause_s
from proxyd.table import Leader, LeaderTable


class LeaderLink:
    """`pipeline` takes commands at any time; `run` carries them while a leader is known."""

    def __init__(self, table: LeaderTable, dial: Dial) -> None:
        self.pipeline = Pipeline(config.WRITE_LIMITS)
        self._table = table
        self._dial = dial

    async def run(self) -> None:
        """Until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.pipeline.run)
            while True:
                while (target := self._target()) is None:
                    await self._table.wait_change()
                await self._follow(target)
                if self._target() == target:
                    # It does not answer, or no longer leads, and the table does not know better yet.
                    await self._pause(target)

    def _target(self) -> tuple[Leader, str] | None:
        address = self._table.leader_address()
        if self._table.leader is None or address is None:
            return None
        return self._table.leader, address

    async def _follow(self, target: tuple[Leader, str]) -> None:
        """Drives the pipeline until the stream ends, or another leader is known.

        While none is known the old one is kept: it may be the only one that knows what became of a command.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_when_replaced, target, nursery.cancel_scope)
            try:
                async with self._dial(target[1]) as channel, channel.stream(SESSION_STREAM) as stream:
                    await self.pipeline.drive(stream)
            except (Status, OSError):
                pass  # the table tells of its loss, or it is dialled again
            nursery.cancel_scope.cancel()

    async def _cancel_when_replaced(self, target: tuple[Leader, str], scope: trio.CancelScope) -> None:
        while self._target() in (target, None):
            await self._table.wait_change()
        scope.cancel()

    async def _pause(self, target: tuple[Leader, str]) -> None:
        with trio.move_on_after(redial_pause_s()):
            while self._target() == target:
                await self._table.wait_change()
