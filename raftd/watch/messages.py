"""WatchResponses as bytes. An event is serialized once, however many watchers see it; what differs from
watcher to watcher is put around it by hand.
"""

from typing import Final

from proto import rpc_pb2
from raftd.kv.bodies import header_only

INVALID_WATCH_ID: Final = -1
"""Stands where a reply is about no watcher, or about all of the stream."""

_WATCH_ID_TAG: Final = b"\x10"
_FRAGMENT: Final = b"\x38\x01"
_EVENTS_TAG: Final = b"\x5a"


def varint(value: int) -> bytes:
    if 0 <= value < 0x80:
        return bytes((value,))
    value &= 0xFFFF_FFFF_FFFF_FFFF
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def event_field(event: bytes) -> bytes:
    """A serialized Event as an element of `WatchResponse.events`."""
    return _EVENTS_TAG + varint(len(event)) + event


def events_response(revision: int, watch_id: int, events: bytes, *, more: bool = False) -> bytes:
    """`events` are fields made by `event_field`; `more`: a fragment that is not the last. Like all bodies it
    lacks cluster, member and term in its header.
    """
    watch = _WATCH_ID_TAG + varint(watch_id) if watch_id else b""
    return header_only(revision) + watch + (_FRAGMENT if more else b"") + events


def control_response(
    revision: int,
    watch_id: int,
    *,
    created: bool = False,
    canceled: bool = False,
    compact_revision: int = 0,
    cancel_reason: str = "",
) -> bytes:
    """A reply without events. With none of the flags it tells progress."""
    return rpc_pb2.WatchResponse(
        header=rpc_pb2.ResponseHeader(revision=revision),
        watch_id=watch_id,
        created=created,
        canceled=canceled,
        compact_revision=compact_revision,
        cancel_reason=cancel_reason,
    ).SerializeToString()
