"""Storage of one member in one LMDB environment: identity, term and vote, log, the state machine's tables.

A tour, in the order in which a start meets the modules:

`directory`    the files: owner, permissions, the lock against a second process.
`fence`        the mark that a storage error leaves, and that stands until the next reboot.
`extent`       the length of the database file, so that one that was cut short is refused.
`environment`  LMDB's options, full durability among them, and the tables.
`records`      the bytes: msgpack with a format version and a CRC; the log's CRCs form a chain.
`membership`   who the members are, and the entry at index 1.
`state`        the other records of `meta`: identity, term and vote, applied index with the tallies.
`tally`        key count and additive hash per table, which notice what is missing.
`log`          appending, truncating, reading along the chain.
`transaction`  the ordered maps that the state machine sees (`raftd.kv.transaction`).
`store`        all of it behind one object: open, claim, bootstrap, recover, read.
`writer`       the thread that owns every write, and group commit.
`verify`       the scrub.

A start calls `Store.open`, `claim`, `bootstrap` (once in a directory's life), `recover`; then it makes a
`Writer`.
Two kinds of refusal, each one line of text with an exit status: `StoreRefused` (wrong owner, wrong member,
newer format, `CorruptRecord`) and `Fenced`.
"""

from raftd.store.errors import CorruptRecord, Fenced, StoreRefused
from raftd.store.membership import ClusterIdentity, Member, form_cluster
from raftd.store.state import Identity
from raftd.store.store import Recovered, Store
from raftd.store.transaction import ReadTransaction, WriteTransaction
from raftd.store.verify import Verification, verify
from raftd.store.writer import Completion, WriteJob, Writer

__all__ = [
    "ClusterIdentity",
    "Completion",
    "CorruptRecord",
    "Fenced",
    "Identity",
    "Member",
    "ReadTransaction",
    "Recovered",
    "Store",
    "StoreRefused",
    "Verification",
    "WriteJob",
    "WriteTransaction",
    "Writer",
    "form_cluster",
    "verify",
]
