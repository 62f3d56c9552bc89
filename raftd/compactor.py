"""What a leader does about old revisions: compaction by itself, and going on with the compactions that were
asked for, one bounded command after the other.
"""

import structlog
import trio

from proto import errors, rpc_pb2
from raftd import config
from raftd.core.messages import Entry
from raftd.kv.command import Applied, Kind, encode_command
from raftd.node import Node
from raftd.proposals import Refusal, execute
from raftd.retention import Retention

log = structlog.get_logger()


class Compactor:
    """Two tasks, on every node; only a leader proposes."""

    def __init__(self, node: Node, retention: Retention | None) -> None:
        self._node = node
        self._retention = retention
        self._begun = trio.Event()
        node.applied.append(self._follow)

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._go_on)
            nursery.start_soon(self._watch_leadership)
            if self._retention is not None:
                nursery.start_soon(self._compact_by_itself, self._retention)

    def _follow(self, entry: Entry, applied: Applied) -> None:
        if applied.compaction_pending:
            self._begun.set()

    async def _watch_leadership(self) -> None:
        """A new leader goes on where the old one stopped."""
        while True:
            changed = self._node.soft_state_changed
            if self._node.leads:
                self._begun.set()
            await changed.wait()

    async def _go_on(self) -> None:
        node = self._node
        while True:
            await self._begun.wait()
            self._begun = trio.Event()
            while node.leads and node.compaction_pending:
                await execute(node, encode_command(Kind.COMPACT_STEP, 0, 0, b""))
                # Others want the writer too.
                await trio.sleep(config.COMPACTION_PAUSE_S)

    async def _compact_by_itself(self, retention: Retention) -> None:
        node = self._node
        while True:
            await trio.sleep(retention.interval_s)
            revision = retention.target(trio.current_time(), node.revision)
            if not node.leads or revision <= node.compacted_revision:
                continue
            request = rpc_pb2.CompactionRequest(revision=revision).SerializeToString()
            answer = await execute(node, encode_command(Kind.COMPACT, 0, 0, request))
            if not isinstance(answer, Refusal) and answer.code == errors.OK:
                log.info("compacted", revision=revision)
