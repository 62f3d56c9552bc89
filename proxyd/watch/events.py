"""Events as they came from a node, and WatchResponses made of them for many clients.

An event is serialized once per way of looking at it (with or without the previous value), however many
clients are shown it; what differs from one to the next is put around it.
"""

from collections.abc import Sequence
from typing import Final

from proto.kv_pb2 import Event
from proto.rpc_pb2 import ResponseHeader, WatchResponse

INVALID_WATCH_ID: Final = -1
"""Stands where a reply is about no watch, or about all of the stream."""


class EventBatch:
    """Events of one range in the order of their revisions, all those of each revision that occurs."""

    __slots__ = ("_encoded", "events", "first", "last", "size_bytes")

    def __init__(self, events: Sequence[Event]) -> None:
        assert events, "a batch without events"
        self.events = events
        self.first = events[0].kv.mod_revision
        self.last = events[-1].kv.mod_revision
        self._encoded: dict[tuple[bool, bool, bool, int], Sequence[bytes]] = {}
        self.size_bytes = sum(event.ByteSize() for event in events)

    def encoded(self, since: int, *, no_put: bool, no_delete: bool, prev_kv: bool) -> Sequence[bytes]:
        """The events from revision `since` on that pass the filters, each as a serialized WatchResponse that
        holds nothing else."""
        variant = (no_put, no_delete, prev_kv, max(since, self.first))
        encoded = self._encoded.get(variant)
        if encoded is None:
            encoded = self._encoded[variant] = [
                _encode(event, prev_kv=prev_kv)
                for event in self.events
                if event.kv.mod_revision >= since
                and not (no_delete if event.type == Event.DELETE else no_put)
            ]
        return encoded

    def forget_encoded(self) -> None:
        """Whoever is shown it now has it; the few that come later may have it encoded anew."""
        self._encoded.clear()


def _encode(event: Event, *, prev_kv: bool) -> bytes:
    if not prev_kv and event.HasField("prev_kv"):
        event = Event(type=event.type, kv=event.kv)
    return WatchResponse(events=(event,)).SerializeToString()


def events_responses(
    header: ResponseHeader, watch_id: int, encoded: Sequence[bytes], fragment_bytes: int | None
) -> list[bytes]:
    """One message, or with `fragment_bytes` as many as are needed to keep each at about that size."""
    parts: list[list[bytes]] = [[]]
    size_bytes = 0
    for event in encoded:
        if fragment_bytes is not None and parts[-1] and size_bytes + len(event) > fragment_bytes:
            parts.append([])
            size_bytes = 0
        parts[-1].append(event)
        size_bytes += len(event)
    last = WatchResponse(header=header, watch_id=watch_id).SerializeToString()
    if len(parts) == 1:
        return [last + b"".join(parts[0])]
    more = WatchResponse(header=header, watch_id=watch_id, fragment=True).SerializeToString()
    return [*(more + b"".join(part) for part in parts[:-1]), last + b"".join(parts[-1])]


def control_response(
    header: ResponseHeader,
    watch_id: int,
    *,
    created: bool = False,
    canceled: bool = False,
    compact_revision: int = 0,
    cancel_reason: str = "",
) -> bytes:
    """A reply without events. With none of the flags it tells progress."""
    return WatchResponse(
        header=header,
        watch_id=watch_id,
        created=created,
        canceled=canceled,
        compact_revision=compact_revision,
        cancel_reason=cancel_reason,
    ).SerializeToString()
