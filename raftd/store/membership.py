"""Who the members of a cluster are, and the bytes of the membership entry that stands at index 1 of every
log.

A member's id is the random id of its data directory, so a wiped directory is a stranger (hazards 43, 77).
The cluster id is a hash of the token and all ids: two clusters that started from the same command line
still differ. Called by the store (bootstrap, recovery) and by the node (forming the cluster). Knows nothing
of disks.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import msgpack

from raftd.store.errors import CorruptRecord

MEMBERSHIP_FORMAT = 1


@dataclass(frozen=True, slots=True)
class Member:
    """`id` is a random unsigned 64-bit integer, never 0."""

    id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ClusterIdentity:
    """The members in order of their ids, so that every node writes identical bytes."""

    cluster_id: int
    members: tuple[Member, ...]

    def __post_init__(self) -> None:
        ids = [member.id for member in self.members]
        assert ids == sorted(set(ids)), ids
        assert all(0 < number < 1 << 64 for number in (self.cluster_id, *ids))


def form_cluster(token: str, members: Iterable[Member]) -> ClusterIdentity:
    """The cluster that these members form under this --initial-cluster-token: the same on each of them."""
    ordered = tuple(sorted(members, key=lambda member: member.id))
    digest = hashlib.sha256(msgpack.packb([token, [member.id for member in ordered]])).digest()
    return ClusterIdentity(max(1, int.from_bytes(digest[:8], "big")), ordered)


def encode_membership(cluster: ClusterIdentity) -> bytes:
    """The payload of a MEMBERSHIP entry: [format, cluster id, [[id, name, peer urls, client urls], …]]."""
    members = [[m.id, m.name, list(m.peer_urls), list(m.client_urls)] for m in cluster.members]
    encoded: bytes = msgpack.packb([MEMBERSHIP_FORMAT, cluster.cluster_id, members])
    return encoded


def decode_membership(payload: bytes, table: str, index: int | str) -> ClusterIdentity:
    """The reverse; `table` and `index` say where the payload stands, for the `CorruptRecord` that it may
    raise."""
    try:
        version, cluster_id, members = msgpack.unpackb(payload)
        if version != MEMBERSHIP_FORMAT:
            raise CorruptRecord(table, index, f"membership format {version!r} is not known")
        return ClusterIdentity(
            cluster_id,
            tuple(Member(number, name, tuple(peer), tuple(client)) for number, name, peer, client in members),
        )
    except (ValueError, TypeError, AssertionError) as error:
        raise CorruptRecord(table, index, f"the membership cannot be read ({error})") from error
