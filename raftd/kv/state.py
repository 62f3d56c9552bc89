"""The state machine's own few numbers: one record, read and written once per entry."""

from dataclasses import dataclass
from typing import Final

from raftd.kv.command import NewerFormat
from raftd.kv.records import pack, unpack
from raftd.kv.transaction import Reader, Transaction

STATE: Final = "state"
_KEY: Final = b"state"
_FORMAT: Final = 2
"""Format 1 had neither leases nor compaction: the fields from `lease_count` on were not there."""


@dataclass(slots=True)
class State:
    revision: int = 1
    """The current revision. An empty store has 1; the first write makes 2."""
    compacted_revision: int = -1
    """Revisions below it are gone; etcd's value for "never compacted" is -1, and a client can see it."""
    cluster_time_ms: int = 0
    """The highest time of any applied entry: the only clock that `apply` knows (hazard 33)."""
    next_node_id: int = 1
    """The next free id of the key trie."""
    session_count: int = 0
    next_expiry_ms: int = 0
    """No session can have expired before this cluster time."""
    lease_count: int = 0
    compaction_main: int = 0
    compaction_sub: int = 0
    """The place in table `revisions` where the compaction goes on (`raftd.kv.compaction`)."""

    @classmethod
    def load(cls, reader: Reader) -> "State":
        record = reader.get(STATE, _KEY)
        if record is None:
            return cls()
        fields = unpack(record)
        if fields[0] > _FORMAT:
            raise NewerFormat(f"table {STATE}: record of format {fields[0]}, this program knows {_FORMAT}")
        return cls(*fields[1:])

    def save(self, transaction: Transaction) -> None:
        transaction.put(
            STATE,
            _KEY,
            pack(
                (
                    _FORMAT,
                    self.revision,
                    self.compacted_revision,
                    self.cluster_time_ms,
                    self.next_node_id,
                    self.session_count,
                    self.next_expiry_ms,
                    self.lease_count,
                    self.compaction_main,
                    self.compaction_sub,
                )
            ),
        )
