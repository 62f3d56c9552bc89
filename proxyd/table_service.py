"""The leader table for proxyd's own clients: they follow the cluster through the proxy as they would at a
node.

A proxyd is not a node: its updates carry `member_id` 0, and another proxyd that watches it, or it itself, is
refused (hazard 88: requests would go in circles).
"""

from collections.abc import Callable

import trio

from proto import errors, table_pb2
from proto.bridge import Call, Service
from proto.errors import Status
from proto.table_pb2 import CountersReply, CountersRequest, TableUpdate, WatchTableRequest
from proxyd import config
from proxyd.dial import PROXY_METADATA
from proxyd.table import LeaderTable


class TableService:
    """Handlers of raftd.table.LeaderTable. `counters` names what this process has counted."""

    def __init__(self, table: LeaderTable, proxy_id: str, counters: Callable[[], dict[str, int]]) -> None:
        self._table = table
        self._proxy_id = proxy_id
        self._counters = counters
        self._watchers = 0

    def service(self) -> Service:
        return Service(
            table_pb2.DESCRIPTOR.services_by_name["LeaderTable"],
            {"Watch": self.watch, "Counters": self.counters},
        )

    async def watch(self, request: WatchTableRequest, call: Call) -> None:
        if (watcher := call.metadata.get(PROXY_METADATA)) is not None:
            text = "a proxyd cannot be an endpoint of a proxyd"
            if watcher == self._proxy_id:
                text = "a proxyd cannot be its own endpoint"
            raise Status(errors.FAILED_PRECONDITION, text)
        if self._watchers >= config.MAX_TABLE_WATCHERS:
            raise Status(*errors.TOO_MANY_REQUESTS)
        self._watchers += 1
        try:
            await self._push_updates(call)
        finally:
            self._watchers -= 1

    async def counters(self, request: CountersRequest, call: Call) -> CountersReply:
        return CountersReply(counters=self._counters())

    async def _push_updates(self, call: Call) -> None:
        """A slow watcher gets fewer updates, each the newest: the view is taken when there is room to send
        it."""
        members_sent: object = None
        while True:
            update = self._view()
            if self._table.members is not members_sent:
                members_sent = self._table.members
                update.members.extend(self._table.members)
            await call.send(update)
            with trio.move_on_after(config.TABLE_HEARTBEAT_S):
                await self._table.wait_change()

    def _view(self) -> TableUpdate:
        table = self._table
        return TableUpdate(
            cluster_id=table.cluster_id,
            term=table.term,
            leader=table.leader.member_id if table.leader else 0,
            commit_index=table.commit_index,
            applied_index=table.applied_index,
            revision=table.revision,
            election_timeout_ms=table.election_timeout_ms,
        )
