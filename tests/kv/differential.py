"""The same operations on our state machine and on a real etcd: every reply must be the same, field by field.

    python -m tests.kv.differential --operations 100000 --seed 1

A difference prints the seed, the number of the operation, the request and both replies.
"""

import argparse
import itertools
import sys
from collections.abc import Sequence
from random import Random

from google.protobuf.message import Message

from proto import kv_pb2, rpc_pb2
from proto.errors import Status
from tests.kv.etcd import INSTALL_LINE, RealEtcd, available
from tests.kv.operations import random_request
from tests.kv.replica import Replica

Reply = Message | tuple[int, str]

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
        self._ours = Replica()
        self._seed = seed
        self._random = Random(seed)
        self._first_revision = self._etcd_revision()
        self.operations = 0
        self.errors: dict[str, int] = {}

    def run(self, operations: int) -> None:
        for _ in range(operations):
            revision = self._ours.machine.current_revision(self._ours.transaction)
            self._compare(random_request(self._random, revision))

    def compare_history(self, revisions: Sequence[int]) -> None:
        """The whole store as it was at each of `revisions`."""
        for revision in revisions:
            self._compare(rpc_pb2.RangeRequest(key=b"\x00", range_end=b"\x00", revision=revision))

    @property
    def revision(self) -> int:
        return self._ours.machine.current_revision(self._ours.transaction)

    def _etcd_revision(self) -> int:
        response = self._etcd.call(rpc_pb2.RangeRequest(key=b"\x00", count_only=True))
        assert isinstance(response, rpc_pb2.RangeResponse)
        assert response.header.revision == 1, "a run needs a fresh etcd"
        return response.header.revision

    def _compare(self, request: Message) -> None:
        ours, theirs = reply_of(self._ours, request), reply_of(self._etcd, request)
        self.operations += 1
        if isinstance(theirs, tuple):
            self.errors[theirs[1]] = self.errors.get(theirs[1], 0) + 1
        assert ours == theirs, (
            f"seed {self._seed}, operation {self.operations}: {type(request).__name__}\n{request}\n"
            f"--- ours\n{ours}\n--- etcd\n{theirs}"
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
            run.compare_history(range(2, run.revision + 1, max(1, run.revision // 100)))
        except AssertionError as difference:
            print(difference, file=sys.stderr)
            return 1
    print(f"{run.operations} operations with equal replies, up to revision {run.revision}; errors seen:")
    for text, count in sorted(run.errors.items()):
        print(f"  {count:6} {text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
