"""How long each lease has left: the leader's countdown, without a clock or a timer of its own.

Times are cluster time in milliseconds, which stands still between two leaders, and are handed in. A
renewal moves a deadline and nothing else: the heap still has the old one, and when that is reached, it learns
of the new one. So a hundred thousand idle leases cost nothing, and a renewal costs a dictionary access.
`raftd.leases` keeps one while its node leads.
"""

import heapq
from collections.abc import Iterable, Sequence

from raftd.kv.leases import Lease, LeaseChange


class _Countdown:
    __slots__ = ("deadline_ms", "is_over", "lease")

    def __init__(self, lease: Lease, deadline_ms: int) -> None:
        self.lease = lease
        self.deadline_ms = deadline_ms
        self.is_over = False
        """Its revocation is proposed: it cannot be renewed any more."""


class LeaseClock:
    """Invariant: every countdown that is not over is in the heap exactly once, with its deadline or an
    earlier one.
    """

    def __init__(self, leases: Iterable[Lease], now_ms: int, grace_ms: int) -> None:
        """Gives each lease its full time and `grace_ms` more."""
        self._countdowns = {lease.id: _Countdown(lease, now_ms + _ms(lease) + grace_ms) for lease in leases}
        self._heap = [
            (countdown.deadline_ms, lease_id, countdown.lease.grant)
            for lease_id, countdown in self._countdowns.items()
        ]
        heapq.heapify(self._heap)

    def __len__(self) -> int:
        return len(self._countdowns)

    def follow(self, change: LeaseChange, now_ms: int) -> None:
        """A lease was granted or revoked. What is known already may be told again, in order."""
        lease = change.lease
        known = self._countdowns.get(lease.id)
        if not change.granted:
            if known is not None and known.lease.grant == lease.grant:
                del self._countdowns[lease.id]
        elif known is None or known.lease.grant < lease.grant:
            deadline_ms = now_ms + _ms(lease)
            self._countdowns[lease.id] = _Countdown(lease, deadline_ms)
            heapq.heappush(self._heap, (deadline_ms, lease.id, lease.grant))

    def renew(self, lease_id: int, now_ms: int) -> int:
        """The time granted, in seconds, which begins anew; 0 for none such."""
        countdown = self._countdowns.get(lease_id)
        if countdown is None or countdown.is_over:
            return 0
        countdown.deadline_ms = max(countdown.deadline_ms, now_ms + _ms(countdown.lease))
        return countdown.lease.ttl_s

    def remaining_s(self, lease_id: int, now_ms: int) -> int:
        """Whole seconds left, -1 for none such."""
        countdown = self._countdowns.get(lease_id)
        if countdown is None or countdown.is_over:
            return -1
        return max(0, (countdown.deadline_ms - now_ms) // 1000)

    def due_at_ms(self) -> int | None:
        """Nothing is due before; None: nothing ever is."""
        return self._heap[0][0] if self._heap else None

    def take_due(self, now_ms: int, limit: int) -> Sequence[Lease]:
        """Leases whose time is over, after at most `limit` steps. They stay known, as over."""
        due = []
        for _ in range(limit):
            if not self._heap or self._heap[0][0] > now_ms:
                break
            _, lease_id, grant = heapq.heappop(self._heap)
            countdown = self._countdowns.get(lease_id)
            if countdown is None or countdown.lease.grant != grant:
                continue
            if countdown.deadline_ms > now_ms:
                heapq.heappush(self._heap, (countdown.deadline_ms, lease_id, grant))
            else:
                countdown.is_over = True
                due.append(countdown.lease)
        return due

    def put_back(self, leases: Sequence[Lease], now_ms: int) -> None:
        """They could not be revoked: to be tried again at `now_ms`. Their time stays over."""
        for lease in leases:
            countdown = self._countdowns.get(lease.id)
            if countdown is not None and countdown.lease.grant == lease.grant:
                heapq.heappush(self._heap, (now_ms, lease.id, lease.grant))


def _ms(lease: Lease) -> int:
    return lease.ttl_s * 1000
