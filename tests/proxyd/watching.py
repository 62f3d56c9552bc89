"""A client of the proxy's Watch service, on an in-memory stream."""

from collections.abc import Callable, Mapping
from typing import Any

import trio

from proto.errors import Status
from proto.kv_pb2 import Event
from proto.rpc_pb2 import WatchCreateRequest, WatchRequest, WatchResponse
from proto.stream import StreamEnded, in_memory_pair
from tests.proxyd.conftest import Setting


class WatchClient:
    """`received` lists every response in order. While `reads` is unset it takes nothing."""

    def __init__(
        self, setting: Setting, metadata: Mapping[str, str] | None = None, *, message_limit: int = 256
    ) -> None:
        self.received: list[WatchResponse] = []
        self.reads = trio.Event()
        self.reads.set()
        self.error: Status | None = None
        self._setting = setting
        self._ours, theirs = in_memory_pair(metadata, message_limit=message_limit)
        self.handler = setting.start(setting.proxy.watch.watch, theirs)
        setting.nursery.start_soon(self._receive)

    async def _receive(self) -> None:
        try:
            while True:
                await self.reads.wait()
                for message in await self._ours.receive_all():
                    self.received.append(WatchResponse.FromString(message))
        except (StreamEnded, Status):
            return

    def leave(self) -> None:
        """As a call that is cancelled."""
        self.handler.scope.cancel()

    async def send(self, request: WatchRequest) -> None:
        await self._ours.send(request.SerializeToString())

    def end_requests(self) -> None:
        self._ours.close_sending()

    async def create(self, key: bytes, range_end: bytes = b"", **fields: Any) -> WatchResponse:
        """The reply to the request."""
        create = WatchCreateRequest(key=key, range_end=range_end, **fields)
        seen = len(self.created)
        await self.send(WatchRequest(create_request=create))
        await self._setting.until(lambda: len(self.created) > seen)
        return self.created[-1]

    async def cancel(self, watch_id: int) -> None:
        request = WatchRequest()
        request.cancel_request.watch_id = watch_id
        await self.send(request)

    async def ask_progress(self) -> None:
        request = WatchRequest()
        request.progress_request.SetInParent()
        await self.send(request)

    async def until(self, condition: Callable[[], Any]) -> None:
        await self._setting.until(condition)

    async def until_revision(self, revision: int, watch_id: int = 0) -> None:
        await self.until(lambda: revision in self.revisions(watch_id))

    @property
    def created(self) -> list[WatchResponse]:
        return [response for response in self.received if response.created]

    @property
    def canceled(self) -> list[WatchResponse]:
        return [response for response in self.received if response.canceled]

    @property
    def progress(self) -> list[int]:
        """Revisions of the answers to requests for progress."""
        return [
            response.header.revision
            for response in self.received
            if response.watch_id == -1 and not response.created
        ]

    def events(self, watch_id: int = 0) -> list[Event]:
        return [
            event for response in self.received if response.watch_id == watch_id for event in response.events
        ]

    def revisions(self, watch_id: int = 0) -> list[int]:
        return [event.kv.mod_revision for event in self.events(watch_id)]
