"""What a node tells people and tests about itself."""

from collections.abc import Mapping
from dataclasses import dataclass

from raftd.core.progress import Progress, ProgressState
from raftd.core.ready import Role
from raftd.core.replica import Replica


@dataclass(frozen=True, slots=True)
class FollowerStatus:
    """A leader's view of one follower."""

    node_id: int
    state: ProgressState
    match_index: int
    next_index: int
    inflight_appends: int
    ticks_since_contact: int


@dataclass(frozen=True, slots=True)
class RaftStatus:
    """One node at one moment; `followers` is empty unless it leads."""

    node_id: int
    role: Role
    term: int
    voted_for: int | None
    leader: int | None
    commit_index: int
    applied_index: int
    durable_index: int
    last_index: int
    followers: tuple[FollowerStatus, ...]
    ignored_messages: Mapping[str, int]
    """Remote messages that were dropped, counted by reason."""


def status_of(
    replica: Replica, role: Role, leader: int | None, progress: Mapping[int, Progress]
) -> RaftStatus:
    """`progress` is that of a leader, else empty."""
    log = replica.log
    return RaftStatus(
        node_id=replica.node_id,
        role=role,
        term=replica.term,
        voted_for=replica.hard_state.voted_for,
        leader=leader,
        commit_index=log.commit_index,
        applied_index=log.applied_index,
        durable_index=log.durable_index,
        last_index=log.last_index,
        followers=tuple(
            FollowerStatus(
                node_id=peer,
                state=follower.state,
                match_index=follower.match_index,
                next_index=follower.next_index,
                inflight_appends=follower.inflight,
                ticks_since_contact=replica.now - follower.last_contact,
            )
            for peer, follower in progress.items()
        ),
        ignored_messages=dict(replica.ignored),
    )
