"""Granting and revoking leases, and what can be asked about them; etcd's rules without etcd's clock.

No time passes here: the leader's node counts each lease's time down, answers keepalives, and has a
LEASE_EXPIRE applied when a lease's time is over. So a keepalive costs no log entry, and a new leader begins
with `all_leases` at their full time.
"""

from proto import rpc_pb2, session_pb2
from proto.errors import LEASE_EXISTS, LEASE_NOT_FOUND, TOO_MANY_REQUESTS, Status
from raftd.kv.leases import Lease, LeaseChange, add_lease, find_lease, remove_lease
from raftd.kv.limits import Limits
from raftd.kv.mvcc import Store, View
from raftd.kv.state import State
from raftd.kv.transaction import Transaction

UNKNOWN_LEASE_TTL_S = -1
"""etcd's answer to the question how long a lease has left that is not there."""


class Lessor:
    """The leases as one entry changes them. All functions raise Status before they have changed anything."""

    def __init__(self, transaction: Transaction, state: State, store: Store, limits: Limits) -> None:
        self._transaction = transaction
        self._state = state
        self._store = store
        self._limits = limits
        self.changes: list[LeaseChange] = []

    def grant(self, request: rpc_pb2.LeaseGrantRequest, grant: int) -> rpc_pb2.LeaseGrantResponse:
        """`request` has passed `check_lease_grant`; its ID is set."""
        if request.ID == 0:
            raise Status(*LEASE_NOT_FOUND)
        if find_lease(self._transaction, request.ID) is not None:
            raise Status(*LEASE_EXISTS)
        if self._state.lease_count >= self._limits.max_leases:
            raise Status(*TOO_MANY_REQUESTS)
        lease = Lease(request.ID, max(request.TTL, self._limits.min_lease_ttl_s), grant)
        add_lease(self._transaction, lease)
        self._state.lease_count += 1
        self.changes.append(LeaseChange(lease, granted=True))
        response = rpc_pb2.LeaseGrantResponse(ID=lease.id, TTL=lease.ttl_s)
        response.header.revision = self._store.revision
        return response

    def revoke(self, lease_id: int) -> None:
        """The keys go with it, at one revision."""
        lease = find_lease(self._transaction, lease_id)
        if lease is None:
            raise Status(*LEASE_NOT_FOUND)
        self._remove(lease)

    def expire(self, expiry: session_pb2.LeaseExpiry, term: int) -> None:
        """Revoke those that are still there, each at a revision of its own, unless another leader's time
        counts by now: `term` is that of the entry."""
        if expiry.term != term:
            return
        for expired in expiry.leases:
            lease = find_lease(self._transaction, expired.id)
            if lease is not None and lease.grant == expired.grant:
                self._remove(lease)
                self._store.end()

    def _remove(self, lease: Lease) -> None:
        self._store.delete_attached(lease.id)
        remove_lease(self._transaction, lease.id)
        self._state.lease_count -= 1
        self.changes.append(LeaseChange(lease, granted=False))


def execute_time_to_live(
    view: View, request: rpc_pb2.LeaseTimeToLiveRequest
) -> rpc_pb2.LeaseTimeToLiveResponse:
    """Everything but `TTL`, the time left, unless there is no such lease. With `header.revision`."""
    response = rpc_pb2.LeaseTimeToLiveResponse(ID=request.ID)
    response.header.revision = view.revision
    lease = view.find_lease(request.ID)
    if lease is None:
        response.TTL = UNKNOWN_LEASE_TTL_S
        return response
    response.grantedTTL = lease.ttl_s
    if request.keys:
        response.keys.extend(view.keys_of_lease(lease.id))
    return response


def execute_leases(view: View) -> rpc_pb2.LeaseLeasesResponse:
    """All leases, in no order that means anything. With `header.revision`."""
    response = rpc_pb2.LeaseLeasesResponse()
    response.header.revision = view.revision
    response.leases.extend(rpc_pb2.LeaseStatus(ID=lease.id) for lease in view.all_leases())
    return response
