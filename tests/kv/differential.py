"""The same operations on our state machine and on a real etcd: every reply must be the same, field by field.

    python -m tests.kv.differential --operations 100000 --seed 1

A difference prints the seed, the number of the operation, the request and both replies.
"""

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Sequence
from random import Random

from google.protobuf.message import Message

from proto import kv_pb2, rpc_pb2
from proto.errors import Status
from raftd.kv.events import Compacted, previous, read_events
from raftd.kv.limits import Limits
from tests.kv.etcd import INSTALL_LINE, RealEtcd, available
from tests.kv.invariants import check_tables
from tests.kv.model import in_range
from tests.kv.operations import (
    LEASES,
    puts_after_a_delete_without_end,
    random_compaction,
    random_hash_kv,
    random_request,
    random_watch,
)
from tests.kv.replica import Replica

Reply = Message | tuple[int, str]
Events = list[kv_pb2.Event] | int
"""What a watch was shown, or the compacted revision."""

_SORT_FIELDS = ("key", "version", "create_revision", "mod_revision", "value")


def reply_of(server: Replica | RealEtcd, request: Message) -> Reply:
    """The response without what belongs to the answering node, or code and text of the error."""
    try:
        response = server.call(request)
    except Status as status:
        return status.code, status.text
    header = response.header  # type: ignore[attr-defined]
    for field in ("cluster_id", "member_id", "raft_term"):
        header.ClearField(field)
    if isinstance(response, rpc_pb2.RangeResponse):
        assert isinstance(request, rpc_pb2.RangeRequest)
        _settle_ties(request, response)
    elif isinstance(response, rpc_pb2.TxnResponse):
        assert isinstance(request, rpc_pb2.TxnRequest)
        _settle_ties_of_txn(request, response)
    elif isinstance(response, rpc_pb2.LeaseTimeToLiveResponse) and response.TTL >= 0:
        response.TTL = 0  # the time left
        response.keys.sort()
    elif isinstance(response, rpc_pb2.LeaseLeasesResponse):
        ids = sorted(lease.ID for lease in response.leases)
        del response.leases[:]
        response.leases.extend(rpc_pb2.LeaseStatus(ID=lease) for lease in ids)
    elif isinstance(response, rpc_pb2.HashKVResponse):
        response.hash_revision = 0  # etcd has it since 3.6
    return response


def _settle_ties_of_txn(request: rpc_pb2.TxnRequest, response: rpc_pb2.TxnResponse) -> None:
    operations = request.success if response.succeeded else request.failure
    for operation, answer in zip(operations, response.responses, strict=True):
        if operation.HasField("request_range"):
            _settle_ties(operation.request_range, answer.response_range)
        elif operation.HasField("request_txn"):
            _settle_ties_of_txn(operation.request_txn, answer.response_txn)


def _settle_ties(request: rpc_pb2.RangeRequest, response: rpc_pb2.RangeResponse) -> None:
    """etcd's sort is not stable: put equal ones in order of their keys, and those at the cut have no name."""
    if request.sort_target == rpc_pb2.RangeRequest.KEY:
        return
    field = _SORT_FIELDS[request.sort_target]

    def sorted_by(kv: kv_pb2.KeyValue) -> object:
        # With keys_only the value that decided is gone; then nothing but the set of keys can be compared.
        return b"" if request.keys_only and field == "value" else getattr(kv, field)

    groups = [list(group) for _, group in itertools.groupby(response.kvs, key=sorted_by)]
    if response.more and groups:
        groups[-1] = [kv_pb2.KeyValue(value=repr(sorted_by(kv)).encode()) for kv in groups[-1]]
    settled = [kv for group in groups for kv in sorted(group, key=lambda kv: kv.key)]
    del response.kvs[:]
    response.kvs.extend(settled)


class Differential:
    """One run: counts what it saw, and raises AssertionError at the first difference."""

    def __init__(self, etcd: RealEtcd, seed: int) -> None:
        self._etcd = etcd
        self._ours = Replica(Limits(compaction_step_rows=7))
        self._seed = seed
        self._random = Random(seed)
        self._avoided: set[int] = set()
        """Revisions at which etcd 3.4 must not be compacted or summed."""
        self._check_etcd_is_fresh()
        self.operations = 0
        self.counts: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()

    def run(self, operations: int) -> None:
        random = self._random
        for _ in range(operations):
            kind = random.random()
            if kind < 0.004:
                self._compare_unless_avoided(random_compaction(random, self.revision, self.compacted))
            elif kind < 0.02:
                self._compare_unless_avoided(random_hash_kv(random, self.revision, self.compacted))
            elif kind < 0.021:
                self._compare_watch(random_watch(random, self.revision, self.compacted))
            elif kind < 0.0215:
                self._compare_shortest_lease()
            else:
                self._compare(random_request(random, self.revision))
            # In the midst of a compaction of ours nothing may look different either.
            if random.random() < 0.1 and self._ours.compaction_pending():
                self._ours.step_compaction()

    def compare_history(self, step: int) -> None:
        """The whole store as it was at every `step`th revision that is left, watches of it, and the sum."""
        for _ in range(5):
            self._compare_watch(random_watch(self._random, self.revision, self.compacted))
        for revision in range(max(self.compacted, 2), self.revision + 1, step):
            self._compare(rpc_pb2.RangeRequest(key=b"\x00", range_end=b"\x00", revision=revision))
        while self._ours.compaction_pending():
            self._ours.step_compaction()
        self._compare(rpc_pb2.LeaseLeasesRequest())
        for lease in LEASES:
            self._compare(rpc_pb2.LeaseTimeToLiveRequest(ID=lease, keys=True))
        self._compare_unless_avoided(rpc_pb2.HashKVRequest())
        check_tables(self._ours.transaction)

    @property
    def revision(self) -> int:
        return self._ours.machine.current_revision(self._ours.transaction)

    @property
    def compacted(self) -> int:
        return self._ours.machine.compacted_revision(self._ours.transaction)

    def _check_etcd_is_fresh(self) -> None:
        response = self._etcd.call(rpc_pb2.RangeRequest(key=b"\x00", count_only=True))
        assert isinstance(response, rpc_pb2.RangeResponse)
        assert response.header.revision == 1, "a run needs a fresh etcd"

    def _compare(self, request: Message) -> None:
        ours, theirs = reply_of(self._ours, request), reply_of(self._etcd, request)
        if puts_after_a_delete_without_end(request):
            self._avoided.add(self.revision)
        self._count(type(request).__name__)
        if isinstance(theirs, tuple):
            self.errors[theirs[1]] += 1
        self._check(request, ours, theirs)

    def _compare_unless_avoided(self, request: rpc_pb2.CompactionRequest | rpc_pb2.HashKVRequest) -> None:
        if (request.revision or self.revision) not in self._avoided:
            self._compare(request)

    def _compare_watch(self, create: rpc_pb2.WatchCreateRequest) -> None:
        """A last put into the watched range says that nothing is missing and nothing comes twice."""
        self._compare(rpc_pb2.PutRequest(key=create.key, value=b"the last"))
        ours: Events = self._our_events(create)
        try:
            theirs: Events = self._etcd.watch(create, self.revision)
        except Compacted as compacted:
            theirs = compacted.revision
        # A delete at the compacted revision itself is lost in etcd 3.4, and kept here as in later versions.
        if isinstance(theirs, list) and create.start_revision == self.compacted:
            theirs = [event for event in theirs if event.kv.mod_revision > self.compacted]
        self._count("WatchCreateRequest")
        self._check(create, ours, theirs)

    def _our_events(self, create: rpc_pb2.WatchCreateRequest) -> Events:
        reader = self._ours.transaction
        try:
            revisions = list(read_events(reader, create.start_revision))
        except Compacted as compacted:
            return compacted.revision
        events = []
        for _, group in revisions:
            for event in group:
                if not in_range(event.kv.key, create.key, create.range_end):
                    continue
                if event.kv.mod_revision == self.compacted:
                    continue
                before = previous(reader, event) if create.prev_kv else None
                if before is not None:
                    event.prev_kv.CopyFrom(before)
                events.append(event)
        return events

    def _compare_shortest_lease(self) -> None:
        """A TTL below the minimum; the lease goes before it can run out."""
        lease, ttl_s = 1_000_000 + self.operations, self._random.choice((-(1 << 63), -1, 0, 1, 2, 3))
        self._compare(rpc_pb2.LeaseGrantRequest(ID=lease, TTL=ttl_s))
        self._compare(rpc_pb2.LeaseRevokeRequest(ID=lease))

    def _count(self, what: str) -> None:
        self.operations += 1
        self.counts[what] += 1

    def _check(self, request: Message, ours: object, theirs: object) -> None:
        assert ours == theirs, (
            f"seed {self._seed}, operation {self.operations}, compacted {self.compacted}: "
            f"{type(request).__name__}\n{request}\n--- ours\n{ours}\n--- etcd\n{theirs}"
        )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kv.differential", description=__doc__)
    parser.add_argument("--operations", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args(arguments)
    if not available():
        print(f"no etcd to compare with: {INSTALL_LINE}", file=sys.stderr)
        return 2
    with RealEtcd() as etcd:
        run = Differential(etcd, options.seed)
        try:
            run.run(options.operations)
            run.compare_history(max(1, (run.revision - run.compacted) // 100))
        except AssertionError as difference:
            print(difference, file=sys.stderr)
            return 1
    print(f"{run.operations} operations with equal replies, up to revision {run.revision}:")
    for text, count in (*sorted(run.counts.items()), *sorted(run.errors.items())):
        print(f"  {count:6} {text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
