"""The history as watches see it: every main revision's events, complete and in order.

`raftd.watch` decides who sees which. Like every read, this needs nothing but a reader: a read transaction, or
the write transaction in which an entry has just been applied.
"""

from collections.abc import Iterator
from struct import Struct
from typing import Any, Final, NamedTuple

from proto import kv_pb2
from raftd.kv.mvcc import REVISIONS, TOMBSTONE_FIELDS, View
from raftd.kv.records import unpack
from raftd.kv.state import State
from raftd.kv.transaction import Reader

_REVISION: Final = Struct(">QQ")


class Compacted(Exception):
    """The revision asked for is gone. `revision` is the first one that is still there."""

    def __init__(self, revision: int) -> None:
        super().__init__(revision)
        self.revision = revision


class RevisionEvents(NamedTuple):
    revision: int
    events: list[kv_pb2.Event]
    """In the order in which the changes were made; never empty. A PUT has the whole version, a DELETE key and
    mod_revision alone. `prev_kv` is for the asker to fill in, by `previous`."""


def read_events(reader: Reader, first: int, last: int | None = None) -> Iterator[RevisionEvents]:
    """The revisions from `first` to `last` (None: the newest) that changed something, one at a time, as far
    as they have been made. At once raises Compacted when `first` lies below the compacted revision."""
    state = State.load(reader)
    if first < state.compacted_revision:
        raise Compacted(state.compacted_revision)
    last = state.revision if last is None else min(last, state.revision)
    return _revisions(reader, max(first, 0), last)


def _revisions(reader: Reader, first: int, last: int) -> Iterator[RevisionEvents]:
    events: list[kv_pb2.Event] = []
    revision = 0
    start, end = _REVISION.pack(first, 0), _REVISION.pack(max(last, 0) + 1, 0)
    for place, record in reader.scan(REVISIONS, start, end):
        main, _ = _REVISION.unpack(place)
        if main != revision:
            if events:
                yield RevisionEvents(revision, events)
            revision, events = main, []
        events.append(_event(main, unpack(record)))
    if events:
        yield RevisionEvents(revision, events)


def _event(revision: int, fields: list[Any]) -> kv_pb2.Event:
    if len(fields) == TOMBSTONE_FIELDS:
        return kv_pb2.Event(
            type=kv_pb2.Event.DELETE, kv=kv_pb2.KeyValue(key=fields[1], mod_revision=revision)
        )
    _, key, value, create_revision, version, lease = fields
    return kv_pb2.Event(
        kv=kv_pb2.KeyValue(
            key=key,
            value=value,
            create_revision=create_revision,
            mod_revision=revision,
            version=version,
            lease=lease,
        )
    )


def previous(reader: Reader, event: kv_pb2.Event) -> kv_pb2.KeyValue | None:
    """The key's version just before the event's revision. None: the event created the key, or the version is
    compacted away; etcd's watches are silent in both cases."""
    key_value = event.kv
    if key_value.create_revision == key_value.mod_revision:
        return None
    view = View(reader, State.load(reader))
    before = key_value.mod_revision - 1
    return view.version_at(key_value.key, before) if before >= view.compacted_revision else None
