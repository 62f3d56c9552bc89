"""Bad requests: etcd's codes and texts, in etcd's order, and nothing written (issue: "clear error, nothing
lost")."""

from collections.abc import Callable

import pytest
from google.protobuf.message import Message

from proto.errors import Status
from proto.rpc_pb2 import Compare, DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest
from raftd.kv.check import check_delete_range, check_put, check_range, check_txn, is_read_only
from raftd.kv.command import Kind
from raftd.kv.limits import LIMITS
from tests.kv.replica import Replica

INVALID_ARGUMENT, OUT_OF_RANGE, NOT_FOUND = 3, 11, 5
LIMIT = LIMITS.max_request_bytes


def op_put(key: bytes, **fields: object) -> RequestOp:
    return RequestOp(request_put=PutRequest(key=key, **fields))  # type: ignore[arg-type]


def op_delete(key: bytes, range_end: bytes = b"") -> RequestOp:
    return RequestOp(request_delete_range=DeleteRangeRequest(key=key, range_end=range_end))


def op_get(key: bytes, **fields: object) -> RequestOp:
    return RequestOp(request_range=RangeRequest(key=key, **fields))  # type: ignore[arg-type]


def op_txn(*success: RequestOp, failure: tuple[RequestOp, ...] = ()) -> RequestOp:
    return RequestOp(request_txn=TxnRequest(success=success, failure=failure))


def txn(*success: RequestOp, failure: tuple[RequestOp, ...] = ()) -> TxnRequest:
    return TxnRequest(success=success, failure=failure)


REFUSED: list[tuple[str, Message, int, str]] = [
    ("range without key", RangeRequest(range_end=b"z"), INVALID_ARGUMENT, "key is not provided"),
    ("unknown sort order", RangeRequest(key=b"k", sort_order=3), INVALID_ARGUMENT, "invalid sort option"),  # type: ignore[arg-type]
    ("unknown sort target", RangeRequest(key=b"k", sort_target=-1), INVALID_ARGUMENT, "invalid sort option"),  # type: ignore[arg-type]
    (
        "future revision",
        RangeRequest(key=b"k", revision=4),
        OUT_OF_RANGE,
        "mvcc: required revision is a future revision",
    ),
    ("put without key", PutRequest(value=b"v"), INVALID_ARGUMENT, "key is not provided"),
    ("key before value", PutRequest(ignore_value=True, value=b"v"), INVALID_ARGUMENT, "key is not provided"),
    (
        "value to ignore",
        PutRequest(key=b"k", ignore_value=True, value=b"v"),
        INVALID_ARGUMENT,
        "value is provided",
    ),
    (
        "lease to ignore",
        PutRequest(key=b"k", ignore_lease=True, lease=1),
        INVALID_ARGUMENT,
        "lease is provided",
    ),
    ("nothing to keep", PutRequest(key=b"none", ignore_value=True), INVALID_ARGUMENT, "key not found"),
    ("no lease to keep", PutRequest(key=b"none", ignore_lease=True), INVALID_ARGUMENT, "key not found"),
    ("unknown lease", PutRequest(key=b"k", lease=7), NOT_FOUND, "requested lease not found"),
    ("negative lease", PutRequest(key=b"k", lease=-7), NOT_FOUND, "requested lease not found"),
    (
        "lease before key, alone",
        PutRequest(key=b"none", lease=7, ignore_value=True),
        NOT_FOUND,
        "requested lease not found",
    ),
    (
        "key before lease, in a txn",
        txn(op_put(b"none", lease=7, ignore_value=True)),
        INVALID_ARGUMENT,
        "key not found",
    ),
    ("large put", PutRequest(key=b"k", value=bytes(LIMIT)), INVALID_ARGUMENT, "request is too large"),
    ("large delete", DeleteRangeRequest(key=bytes(LIMIT)), INVALID_ARGUMENT, "request is too large"),
    ("large txn", txn(op_put(b"k", value=bytes(LIMIT))), INVALID_ARGUMENT, "request is too large"),
    ("delete without key", DeleteRangeRequest(range_end=b"z"), INVALID_ARGUMENT, "key is not provided"),
    ("compare without key", TxnRequest(compare=[Compare()]), INVALID_ARGUMENT, "key is not provided"),
    ("empty operation", txn(RequestOp()), INVALID_ARGUMENT, "key not found"),
    (
        "bad operation in the branch not taken",
        txn(failure=(op_put(b""),)),
        INVALID_ARGUMENT,
        "key is not provided",
    ),
    (
        "too many operations",
        txn(*[op_get(b"k")] * 129),
        INVALID_ARGUMENT,
        "too many operations in txn request",
    ),
    (
        "too many compares, before their keys",
        TxnRequest(compare=[Compare()] * 129),
        INVALID_ARGUMENT,
        "too many operations in txn request",
    ),
    (
        "nested ones share what is left",
        txn(*[op_get(b"k")] * 100, op_txn(*[op_get(b"k")] * 28)),
        INVALID_ARGUMENT,
        "too many operations in txn request",
    ),
    ("two puts", txn(op_put(b"k"), op_put(b"k")), INVALID_ARGUMENT, "duplicate key given in txn request"),
    (
        "put and delete",
        txn(op_put(b"k"), op_delete(b"a", b"z")),
        INVALID_ARGUMENT,
        "duplicate key given in txn request",
    ),
    (
        "delete and put",
        txn(op_delete(b"k"), op_put(b"k")),
        INVALID_ARGUMENT,
        "duplicate key given in txn request",
    ),
    (
        "put under two deletes that touch",
        txn(op_delete(b"a", b"k"), op_delete(b"k", b"l"), op_put(b"k\x00")),
        INVALID_ARGUMENT,
        "duplicate key given in txn request",
    ),
    (
        "put under the wider of two deletes",
        txn(op_delete(b"a", b"z"), op_delete(b"b", b"c"), op_put(b"y")),
        INVALID_ARGUMENT,
        "duplicate key given in txn request",
    ),
    (
        "nested puts",
        txn(op_txn(op_put(b"k")), op_txn(op_get(b"k"), failure=(op_put(b"k"),))),
        INVALID_ARGUMENT,
        "duplicate key given in txn request",
    ),
    (
        "nested delete and outer put",
        txn(op_put(b"k"), op_txn(failure=(op_txn(op_delete(b"k")),))),
        INVALID_ARGUMENT,
        "duplicate key given in txn request",
    ),
    (
        "in the branch not taken",
        txn(failure=(op_put(b"k"), op_put(b"k"))),
        INVALID_ARGUMENT,
        "duplicate key given in txn request",
    ),
    (
        "future revision in a txn",
        txn(op_put(b"a"), op_get(b"k", revision=4)),
        OUT_OF_RANGE,
        "mvcc: required revision is a future revision",
    ),
    (
        "future revision in a nested txn",
        txn(op_put(b"a"), op_txn(op_get(b"k", revision=4))),
        OUT_OF_RANGE,
        "mvcc: required revision is a future revision",
    ),
    (
        "revision below -1 in a txn",
        txn(op_put(b"a"), op_get(b"k", revision=-2)),
        OUT_OF_RANGE,
        "mvcc: required revision has been compacted",
    ),
    (
        "a put of an absent key after puts that could be done",
        txn(op_put(b"a"), op_put(b"b"), op_put(b"none", ignore_lease=True)),
        INVALID_ARGUMENT,
        "key not found",
    ),
    (
        "a put that needs what an earlier delete took",
        txn(op_delete(b"k", b"\x00"), op_put(b"k", ignore_value=True)),
        INVALID_ARGUMENT,
        "key not found",
    ),
]


@pytest.mark.parametrize(
    ("request_", "code", "text"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_a_bad_request_gets_etcds_error_and_writes_nothing(request_: Message, code: int, text: str) -> None:
    replica = Replica()
    replica.call(PutRequest(key=b"k", value=b"v"))
    replica.call(PutRequest(key=b"k", value=b"w"))
    everything = RangeRequest(key=b"\x00", range_end=b"\x00")
    before = replica.call(everything)
    with pytest.raises(Status) as caught:
        replica.call(request_)
    assert (caught.value.code, caught.value.text) == (code, f"etcdserver: {text}")
    assert replica.call(everything) == before


ACCEPTED: list[tuple[str, Message]] = [
    ("negative limit and revision", RangeRequest(key=b"k", limit=-1, revision=-1)),
    ("a read as large as the transport takes", RangeRequest(key=bytes(LIMIT + 1))),
    ("a large read-only txn", txn(op_get(bytes(LIMIT + 1)))),
    ("128 operations", txn(*[op_get(b"k")] * 128)),
    ("what is left for nested ones", txn(*[op_get(b"k")] * 100, op_txn(*[op_get(b"k")] * 27))),
    ("puts that exclude one another", txn(op_txn(op_put(b"k"), failure=(op_put(b"k"),)))),
    ("puts beside a delete", txn(op_delete(b"b", b"k"), op_put(b"k"), op_put(b"a\xff"))),
    ("a put before a nested delete of the same key", txn(op_txn(op_put(b"k")), op_txn(op_delete(b"k")))),
    ("a delete without end, which etcd takes for empty here", txn(op_delete(b"a", b"\x00"), op_put(b"k"))),
    ("an inverted delete", txn(op_delete(b"z", b"a"), op_put(b"k"))),
    ("an empty txn", TxnRequest()),
    ("a delete of nothing", DeleteRangeRequest(key=b"none")),
]


@pytest.mark.parametrize("request_", [row[1] for row in ACCEPTED], ids=[row[0] for row in ACCEPTED])
def test_what_etcd_accepts_is_accepted(request_: Message) -> None:
    Replica().call(request_)


@pytest.mark.parametrize(
    ("check", "size_of"),
    [
        (check_put, lambda n: PutRequest(key=b"k", value=bytes(n))),
        (check_delete_range, lambda n: DeleteRangeRequest(key=bytes(n))),
        (check_txn, lambda n: txn(op_put(b"k", value=bytes(n)))),
    ],
)
def test_the_limit_of_a_request_is_exact(
    check: Callable[[Message], None], size_of: Callable[[int], Message]
) -> None:
    overhead = size_of(LIMIT).ByteSize() - LIMIT
    check(size_of(LIMIT - overhead))
    with pytest.raises(Status, match="request is too large"):
        check(size_of(LIMIT - overhead + 1))


def test_apply_checks_what_the_log_brings_again() -> None:
    """A command in the log is refused by every node alike, whoever let it in."""
    replica = Replica()
    bad_put = PutRequest(value=b"v").SerializeToString()
    bad_delete = DeleteRangeRequest(range_end=b"v").SerializeToString()
    bad_txn = txn(op_put(b"k"), op_put(b"k")).SerializeToString()
    results = replica.apply(
        (Kind.PUT, 0, 0, bad_put), (Kind.DELETE_RANGE, 0, 0, bad_delete), (Kind.TXN, 0, 0, bad_txn)
    )
    assert [(result.code, result.text, result.body) for result in results] == [
        (3, "etcdserver: key is not provided", b""),
        (3, "etcdserver: key is not provided", b""),
        (3, "etcdserver: duplicate key given in txn request", b""),
    ]


def test_only_a_txn_without_any_write_is_a_read() -> None:
    assert is_read_only(TxnRequest())
    assert is_read_only(txn(op_get(b"k"), op_txn(op_get(b"k"))))
    assert not is_read_only(txn(op_get(b"k"), failure=(op_put(b"k"),)))
    assert not is_read_only(txn(op_txn(failure=(op_delete(b"k"),))))


def test_overlaps_are_found_across_many_nested_transactions() -> None:
    """2,048 puts against 1,984 deleted intervals, in 64 nested transactions, found by bisection."""
    operations = [
        op_txn(
            *[op_put(b"p/%03d/%03d" % (outer, each)) for each in range(32)],
            *[
                op_delete(b"d/%03d/%03d" % (outer, each), b"d/%03d/%03d\x00" % (outer, each))
                for each in range(31)
            ],
        )
        for outer in range(64)
    ]
    check_txn(txn(*operations))
    operations[0].request_txn.success.append(op_put(b"d/063/030"))
    with pytest.raises(Status, match="duplicate key"):
        check_txn(txn(*operations[1:], operations[0]))


def test_check_range_alone_needs_no_state() -> None:
    with pytest.raises(Status, match="key is not provided"):
        check_range(RangeRequest())
