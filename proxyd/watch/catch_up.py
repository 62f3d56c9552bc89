"""The past for one watch: a stream of its own to a node, until the watch reaches what its feed keeps.

How far it has come without events is known from the node's answers to requests for progress, which on a
stream of one watch are about this watch.
"""

import random

import trio

from proto.rpc_pb2 import WatchCreateRequest, WatchRequest, WatchResponse
from proto.stream import MessageStream
from proxyd import config
from proxyd.node_link import redial_pause_s
from proxyd.watch.events import INVALID_WATCH_ID, EventBatch
from proxyd.watch.feed import ClientWatch, Feed
from proxyd.watch.hub import Hub


async def catch_up(hub: Hub, watch: ClientWatch, feed: Feed) -> None:
    """Until the watch has joined the feed, is paused or is over. Survives the loss of nodes."""
    try:
        async with hub.catch_up_limit:
            hub.catch_ups += 1
            await _CatchUp(hub, watch, feed).run()
    finally:
        hub.not_expected(feed)


class _CatchUp:
    def __init__(self, hub: Hub, watch: ClientWatch, feed: Feed) -> None:
        self._hub = hub
        self._watch = watch
        self._feed = feed
        self._done = False
        self._awaits_progress = False

    async def run(self) -> None:
        sources = self._hub.sources
        self._join_if_reached()  # it may have waited for its turn
        failed = ""
        while not self._done:
            view = sources.choose(besides=failed)
            if view is None or view.address == failed:
                failed = ""
                with trio.move_on_after(redial_pause_s()):
                    await sources.wait_change()
                continue
            await sources.use(view, self._drive)
            failed = "" if sources.is_outdone(view.address) else view.address

    async def _drive(self, stream: MessageStream) -> None:
        await stream.send(self._create())
        await self._ask_progress(stream)
        while True:
            for response in await stream.receive_all():
                if not self._take(response) or self._done:
                    return
            if not self._awaits_progress:
                # This node is behind the one that serves the feed.
                await trio.sleep(config.WATCH_PROGRESS_RETRY_S * random.uniform(*config.REDIAL_JITTER))
                await self._ask_progress(stream)

    def _create(self) -> WatchRequest:
        watch = self._watch
        key, range_end = watch.key_range
        create = WatchCreateRequest(
            key=key, range_end=range_end, start_revision=watch.next_revision, prev_kv=watch.prev_kv
        )
        if watch.no_put:
            create.filters.append(WatchCreateRequest.NOPUT)
        if watch.no_delete:
            create.filters.append(WatchCreateRequest.NODELETE)
        return WatchRequest(create_request=create)

    async def _ask_progress(self, stream: MessageStream) -> None:
        request = WatchRequest()
        request.progress_request.SetInParent()
        self._awaits_progress = True
        await stream.send(request)

    def _take(self, response: WatchResponse) -> bool:
        """False when the node ends the watch for reasons of its own."""
        watch = self._watch
        if response.canceled:
            if not response.compact_revision:
                return False
            watch.sink.compacted(watch, response.compact_revision)
            self._done = True
            return True
        if response.events:
            if not watch.deliver(EventBatch(response.events)):
                watch.sink.paused(watch)
                self._done = True
                return True
        elif response.watch_id == INVALID_WATCH_ID:
            self._awaits_progress = False
            watch.next_revision = max(watch.next_revision, response.header.revision + 1)
        self._join_if_reached()
        return True

    def _join_if_reached(self) -> None:
        if self._watch.next_revision >= self._feed.first_kept:
            self._feed.join(self._watch)
            self._done = True
