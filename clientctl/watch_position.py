"""How far one watch has come: what to ask of the next server, and what of its answers is new.

Pure. Nothing is lost or doubled however often the server changes, because the next revision to be seen
stands here and not in the stream (hazard 41), and nothing older than what was seen is shown, whichever
server answers (hazard 40).
"""

from proto.kv_pb2 import Event
from proto.rpc_pb2 import WatchCreateRequest, WatchResponse

ALL_WATCHES = -1
"""The watch id of an answer that is for the whole stream."""


class WatchPosition:
    """`next_revision`: the first one not yet seen; 0 as long as nobody has said what "from now on" is."""

    def __init__(self, request: WatchCreateRequest) -> None:
        self._request = request
        self.next_revision = request.start_revision
        self._fragments: list[Event] = []

    def create_request(self, watch_id: int) -> WatchCreateRequest:
        """What asks the next server for the rest."""
        request = WatchCreateRequest()
        request.CopyFrom(self._request)
        request.start_revision = self.next_revision
        request.watch_id = watch_id
        return request

    def created(self, revision: int) -> None:
        """The server has begun to watch at its present `revision`."""
        if self.next_revision == 0:
            self.next_revision = revision + 1

    def take(self, response: WatchResponse) -> WatchResponse | None:
        """What of `response` is news: events, or how far the watch has come without any; else None.

        The events of one revision come in one piece: fragments wait for their last one.
        """
        if not response.events and not response.fragment and not self._fragments:
            return self._take_progress(response)
        self._fragments.extend(response.events)
        if response.fragment:
            return None
        fresh = [event for event in self._fragments if event.kv.mod_revision >= self.next_revision]
        self._fragments = []
        if not fresh:
            return None
        self.next_revision = fresh[-1].kv.mod_revision + 1
        if len(fresh) == len(response.events):
            return response
        return WatchResponse(header=response.header, watch_id=response.watch_id, events=fresh)

    def lost(self) -> None:
        """The stream is gone: whatever had not come in one piece will come again."""
        self._fragments = []

    def _take_progress(self, response: WatchResponse) -> WatchResponse | None:
        if response.header.revision + 1 < self.next_revision:
            return None
        # etcd before 3.4.25 answers a request for progress ahead of events that it has not sent yet: such an
        # answer is shown, but not built on.
        if response.watch_id != ALL_WATCHES:
            self.next_revision = response.header.revision + 1
        return response
