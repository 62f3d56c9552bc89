"""The records of the table `meta` beside the log's position: identity, cluster, hard state, applied state.

Term and vote are one record (hazard 1). Each reading function raises `CorruptRecord` for what is missing or
damaged.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from raftd.core.messages import HardState
from raftd.store.environment import META
from raftd.store.errors import StoreRefused
from raftd.store.membership import ClusterIdentity, decode_membership, encode_membership
from raftd.store.records import seal, unseal
from raftd.store.tally import HASH_MODULUS, Tally

IDENTITY_KEY = b"identity"
CLUSTER_KEY = b"cluster"
HARD_STATE_KEY = b"hard_state"
STATE_KEY = b"state"


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose directory this is. `member_id` is random, made with the directory, never 0 and never changed;
    `name` and `token` are None until `Store.claim`, `cluster_id` until `Store.bootstrap`."""

    member_id: int
    name: str | None = None
    token: str | None = None
    cluster_id: int | None = None


def sealed_identity(identity: Identity) -> bytes:
    return seal(IDENTITY_KEY, [identity.member_id, identity.name, identity.token])


def read_identity(sealed: bytes | None) -> Identity:
    """Without the cluster id, which stands in the cluster's record."""
    return Identity(*unseal(IDENTITY_KEY, sealed, 3))


def sealed_cluster(cluster: ClusterIdentity) -> bytes:
    return seal(CLUSTER_KEY, [encode_membership(cluster)])


def read_cluster(sealed: bytes | None) -> ClusterIdentity:
    (payload,) = unseal(CLUSTER_KEY, sealed, 1)
    return decode_membership(payload, META, CLUSTER_KEY.decode())


def sealed_hard_state(hard_state: HardState) -> bytes:
    return seal(HARD_STATE_KEY, [hard_state.term, hard_state.voted_for])


def read_hard_state(sealed: bytes | None) -> HardState:
    return HardState(*unseal(HARD_STATE_KEY, sealed, 2))


@dataclass(slots=True)
class AppliedState:
    """The index up to which the tables hold what the log says, and what each of them must hold."""

    applied_index: int
    tallies: dict[str, Tally]

    def sealed(self) -> bytes:
        tallies = [[table, tally.keys, tally.hash % HASH_MODULUS] for table, tally in self.tallies.items()]
        return seal(STATE_KEY, [self.applied_index, tallies])


def empty_state(tables: Sequence[str]) -> AppliedState:
    return AppliedState(0, {table: Tally() for table in tables})


def read_state(sealed: bytes | None, tables: Sequence[str]) -> AppliedState:
    """A table that this program has and the record has not is new and empty; the reverse is refused."""
    applied_index, stored = unseal(STATE_KEY, sealed, 2)
    state = empty_state(tables)
    state.applied_index = applied_index
    for table, keys, total in stored:
        if table not in state.tallies:
            raise StoreRefused(f"the data has a table {table!r}, which this program does not know")
        state.tallies[table] = Tally(keys, total)
    return state


def applied_index_of(sealed: bytes | None) -> int:
    """Only the index: for readers, at each read."""
    index: int = unseal(STATE_KEY, sealed, 2)[0]
    return index
