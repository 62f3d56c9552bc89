"""How long a request may wait, and what it is told when the wait was in vain."""

import math
from collections.abc import Mapping

import trio

from proto import errors
from proxyd import config
from proxyd.table import LeaderTable


def waiting_deadline(table: LeaderTable, deadline: float) -> float:
    """When waiting must end for a caller with this deadline: Trio's clock, inf for none.

    A little before, so that the answer still reaches the caller (hazard 92); half of the rest at the very
    end. At once when there is nothing to wait for: nobody mends wrong --endpoints within a request's time.
    """
    now = trio.current_time()
    if table.no_endpoint:
        return now
    if deadline == math.inf:
        return now + config.REQUEST_TIMEOUT_S + 2 * table.election_timeout_s
    return deadline - min(config.DEADLINE_MARGIN_S, max(0.0, deadline - now) / 2)


def why_in_vain(table: LeaderTable) -> errors.Error:
    """The error for a wait that has ended without a result: etcd's, or that no endpoint is a node."""
    if table.no_endpoint:
        return errors.FAILED_PRECONDITION, f"proxyd: no endpoint is a node of a cluster ({table.no_endpoint})"
    return errors.NO_LEADER if table.leader is None else errors.TIMEOUT


def check_leader_wanted(table: LeaderTable, metadata: Mapping[str, str]) -> None:
    """With metadata `hasleader: true` a client wants an error instead of waiting for a leader. Raises
    Status."""
    if table.leader is None and not table.no_endpoint and metadata.get("hasleader") == "true":
        raise errors.Status(*errors.NO_LEADER, outcome=errors.NOT_DONE_OUTCOME)
