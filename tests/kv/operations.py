"""Random etcd requests that collide, overlap, fail and hit every field: one `Random`, one sequence."""

from collections.abc import Iterator
from random import Random

from google.protobuf.message import Message

from proto import rpc_pb2

KEYS = (
    *(bytes((letter,)) for letter in b"abcdefgh"),
    *(b"a/%d" % number for number in range(8)),
    *(
        b"a\x00",
        b"a\x00\x01",
        b"a\x00\xff",
        b"a\xff",
        b"a\xff\xff",
        b"\x00",
        b"\x00\x00",
        b"\x01",
        b"\xff",
        b"\xff\x00",
    ),
    *(b"long" * 120, b"long" * 121, b"long" * 125 + b"\x00", b"long" * 400, b"\x00" * 300, b"\x00" * 600),
)
MAX_NESTING = 3

LEASES = (1, 2, 3, 4, 7, -1, -7, 1 << 62, (1 << 63) - 1, -(1 << 63))
LONG_TTLS_S = (10_000, 123_456, 9_000_000_000)
"""None runs out during a test."""


def random_request(random: Random, revision: int) -> Message:
    """A Put, Range, DeleteRange or Txn for a store that is at `revision`."""
    kind = random.random()
    if kind < 0.40:
        return random_put(random)
    if kind < 0.68:
        return random_range(random, revision)
    if kind < 0.76:
        return random_delete_range(random)
    if kind < 0.80:
        return random_lease_request(random)
    return random_txn(random, revision)


def _key(random: Random) -> bytes:
    return b"" if random.random() < 0.01 else random.choice(KEYS)


def _range_end(random: Random, key: bytes) -> bytes:
    kind = random.random()
    if kind < 0.4:
        return b""
    if kind < 0.5:
        return b"\x00"
    if kind < 0.75 and key and key[-1] < 0xFF:
        return key[:-1] + bytes((key[-1] + 1,))
    return random.choice(KEYS)


def _value(random: Random) -> bytes:
    return random.choice(
        (b"", b"1", b"2", b"three", b"\x00\xff", bytes(random.randrange(256) for _ in range(9)))
    )


def _maybe(random: Random, probability: float) -> bool:
    return random.random() < probability


def random_put(random: Random) -> rpc_pb2.PutRequest:
    request = rpc_pb2.PutRequest(key=_key(random), value=_value(random), prev_kv=_maybe(random, 0.2))
    if _maybe(random, 0.1):
        request.ignore_value = True
        if _maybe(random, 0.9):
            request.value = b""
    request.ignore_lease = _maybe(random, 0.07)
    if _maybe(random, 0.25):
        request.lease = random.choice(LEASES)
    return request


def random_lease_request(random: Random) -> Message:
    """Nothing that depends on the time: no lease that is granted here runs out."""
    kind = random.random()
    lease = random.choice(LEASES)
    if kind < 0.4:
        ttl_s = 9_000_000_001 if _maybe(random, 0.05) else random.choice(LONG_TTLS_S)
        return rpc_pb2.LeaseGrantRequest(ID=lease, TTL=ttl_s)
    if kind < 0.6:
        return rpc_pb2.LeaseRevokeRequest(ID=lease)
    if kind < 0.95:
        return rpc_pb2.LeaseTimeToLiveRequest(ID=lease, keys=_maybe(random, 0.8))
    return rpc_pb2.LeaseLeasesRequest()


def random_compaction(random: Random, revision: int, compacted: int) -> rpc_pb2.CompactionRequest:
    """Mostly of what can be compacted. `physical`: etcd has removed everything when it answers."""
    wrong = (compacted, compacted - 1, 0, -1, -5, revision + 1, 1 << 60)
    chosen = random.choice(wrong) if _maybe(random, 0.3) else random.randint(max(compacted, 0), revision)
    return rpc_pb2.CompactionRequest(revision=chosen, physical=True)


def random_hash_kv(random: Random, revision: int, compacted: int) -> rpc_pb2.HashKVRequest:
    wrong = (compacted, compacted - 1, -1, -5, revision + 1, 1 << 60)
    kept = (0, 0, revision, max(compacted, 0) + 1, random.randint(max(compacted, 0), revision))
    return rpc_pb2.HashKVRequest(revision=random.choice(wrong if _maybe(random, 0.2) else kept))


def random_watch(random: Random, revision: int, compacted: int) -> rpc_pb2.WatchCreateRequest:
    """Of a range that holds its first key, from a revision in the past."""
    key = random.choice(KEYS)
    range_end = _range_end(random, key)
    if range_end != b"\x00" and range_end <= key:
        range_end = b""
    if _maybe(random, 0.3):
        key, range_end = b"\x00", b"\x00"
    oldest = max(compacted, 1)
    start = random.randint(1, oldest) if _maybe(random, 0.2) else random.randint(oldest, revision)
    return rpc_pb2.WatchCreateRequest(
        key=key, range_end=range_end, start_revision=start, prev_kv=_maybe(random, 0.5)
    )


def puts_after_a_delete_without_end(request: Message) -> bool:
    """Whether a transaction may put again what it has just deleted, at one revision: when etcd 3.4 compacts
    or sums at exactly that revision it forgets the put."""
    if not isinstance(request, rpc_pb2.TxnRequest):
        return False
    writes = list(_writes(request))
    return any(operation.request_delete_range.range_end == b"\x00" for operation in writes) and any(
        operation.HasField("request_put") for operation in writes
    )


def _some_revision(random: Random, revision: int) -> int:
    return random.choice(
        (0, 0, 0, -1, -7, 1, revision, revision - 1, revision + 1, random.randint(1, revision), 1 << 60)
    )


def random_range(random: Random, revision: int) -> rpc_pb2.RangeRequest:
    key = _key(random)
    request = rpc_pb2.RangeRequest(key=key, range_end=_range_end(random, key))
    if _maybe(random, 0.3):
        request.key, request.range_end = b"\x00", b"\x00"
    if _maybe(random, 0.4):
        request.limit = random.choice((1, 2, 3, 5, 11, 100, -1, -5))
    if _maybe(random, 0.35):
        request.revision = _some_revision(random, revision)
    if _maybe(random, 0.4):
        request.sort_order = random.choice(rpc_pb2.RangeRequest.SortOrder.values())
        request.sort_target = random.choice(rpc_pb2.RangeRequest.SortTarget.values())
    request.serializable = _maybe(random, 0.3)
    request.keys_only = _maybe(random, 0.15)
    request.count_only = _maybe(random, 0.1)
    for field in ("min_mod_revision", "max_mod_revision", "min_create_revision", "max_create_revision"):
        if _maybe(random, 0.08):
            setattr(request, field, random.choice((random.randint(1, revision), revision - 3, -1)))
    return request


def random_delete_range(random: Random) -> rpc_pb2.DeleteRangeRequest:
    key = _key(random)
    range_end = _range_end(random, key) if _maybe(random, 0.5) else b""
    return rpc_pb2.DeleteRangeRequest(key=key, range_end=range_end, prev_kv=_maybe(random, 0.5))


def _compare(random: Random, revision: int) -> rpc_pb2.Compare:
    key = _key(random)
    compare = rpc_pb2.Compare(
        key=key,
        target=random.choice(rpc_pb2.Compare.CompareTarget.values()),
        result=random.choice(rpc_pb2.Compare.CompareResult.values()),
        range_end=_range_end(random, key) if _maybe(random, 0.3) else b"",
    )
    # The operand is now and then of another target than the one named, or absent.
    fields = ("version", "create_revision", "mod_revision", "value", "lease")
    field = fields[compare.target] if _maybe(random, 0.9) else random.choice(fields)
    if _maybe(random, 0.95):
        operand = (
            _value(random) if field == "value" else random.choice((0, 1, 2, revision, revision // 2, -1))
        )
        setattr(compare, field, operand)
    return compare


def random_txn(random: Random, revision: int, nesting: int = 0) -> rpc_pb2.TxnRequest:
    request = rpc_pb2.TxnRequest(
        compare=[_compare(random, revision) for _ in range(random.choice((0, 0, 1, 1, 2)))]
    )
    read_only = nesting == 0 and _maybe(random, 0.15)
    for branch in (request.success, request.failure):
        for _ in range(random.choice((0, 1, 2, 3, 4))):
            branch.append(_operation(random, revision, nesting, read_only))
    if nesting == 0:
        if _maybe(random, 0.02):
            key = random.choice(KEYS)
            gets = [rpc_pb2.RequestOp(request_range=rpc_pb2.RangeRequest(key=key))] * random.choice(
                (128, 129)
            )
            request.success.extend(gets)
        _keep_etcd_alive(request)
    return request


def _operation(random: Random, revision: int, nesting: int, read_only: bool) -> rpc_pb2.RequestOp:
    kind = random.random()
    if kind < 0.01:
        return rpc_pb2.RequestOp()
    if kind < 0.35 or read_only:
        return rpc_pb2.RequestOp(request_range=random_range(random, revision))
    if kind < 0.75:
        return rpc_pb2.RequestOp(request_put=random_put(random))
    if kind < 0.87 or nesting == MAX_NESTING:
        return rpc_pb2.RequestOp(request_delete_range=random_delete_range(random))
    return rpc_pb2.RequestOp(request_txn=random_txn(random, revision, nesting + 1))


def _writes(request: rpc_pb2.TxnRequest) -> Iterator[rpc_pb2.RequestOp]:
    for branch in (request.success, request.failure):
        for operation in branch:
            if operation.HasField("request_txn"):
                yield from _writes(operation.request_txn)
            else:
                yield operation


def _keep_etcd_alive(request: rpc_pb2.TxnRequest) -> None:
    """etcd 3.4 panics on a put that ignores the value of a key which the same transaction deleted by a range
    without end: its check for overlaps takes such a range for an empty one."""
    writes = list(_writes(request))
    if any(operation.request_delete_range.range_end == b"\x00" for operation in writes):
        for operation in writes:
            if operation.HasField("request_put"):
                operation.request_put.ignore_value = operation.request_put.ignore_lease = False
