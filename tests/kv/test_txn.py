"""Transactions as clients see them: branches, revisions of nested responses, all compare targets."""

import pytest

from proto.rpc_pb2 import (
    Compare,
    DeleteRangeRequest,
    PutRequest,
    RangeRequest,
    RangeResponse,
    RequestOp,
    TxnRequest,
    TxnResponse,
)
from raftd.kv import TABLES
from raftd.kv.mvcc import REVISIONS
from tests.kv.replica import Replica


def call(replica: Replica, request: TxnRequest) -> TxnResponse:
    response = replica.call(request)
    assert isinstance(response, TxnResponse)
    return response


def get(replica: Replica, key: bytes, range_end: bytes = b"") -> RangeResponse:
    response = replica.call(RangeRequest(key=key, range_end=range_end))
    assert isinstance(response, RangeResponse)
    return response


def op_put(key: bytes, value: bytes = b"") -> RequestOp:
    return RequestOp(request_put=PutRequest(key=key, value=value))


def op_get(key: bytes, range_end: bytes = b"", revision: int = 0) -> RequestOp:
    return RequestOp(request_range=RangeRequest(key=key, range_end=range_end, revision=revision))


def op_delete(key: bytes, range_end: bytes = b"") -> RequestOp:
    return RequestOp(request_delete_range=DeleteRangeRequest(key=key, range_end=range_end))


def test_later_operations_see_earlier_writes_of_the_same_revision() -> None:
    replica = Replica()
    replica.call(PutRequest(key=b"a", value=b"old"))
    response = call(
        replica,
        TxnRequest(
            success=[
                op_get(b"a"),
                op_put(b"b", b"1"),
                op_get(b"b"),
                op_delete(b"a"),
                op_get(b"a", b"z"),
                op_get(b"a", b"z", revision=2),
            ]
        ),
    )
    before, put, seen, deleted, after, past = response.responses
    assert response.header.revision == 3
    assert [kv.value for kv in before.response_range.kvs] == [b"old"]
    assert before.response_range.header.revision == 2, "no write yet"
    assert put.response_put.header.revision == 3, "python-etcd3's Lock reads it here"
    assert [(kv.value, kv.mod_revision) for kv in seen.response_range.kvs] == [(b"1", 3)]
    assert (deleted.response_delete_range.deleted, deleted.response_delete_range.header.revision) == (1, 3)
    assert [kv.key for kv in after.response_range.kvs] == [b"b"]
    assert [kv.key for kv in past.response_range.kvs] == [b"a"]
    assert not past.response_range.header.cluster_id


def test_a_transaction_that_changes_nothing_takes_no_revision() -> None:
    replica = Replica()
    replica.call(PutRequest(key=b"a"))
    response = call(replica, TxnRequest(success=[op_delete(b"none"), op_get(b"a")]))
    assert response.header.revision == 2
    assert response.responses[0].response_delete_range.header.revision == 2
    assert get(replica, b"a").header.revision == 2


def test_the_changes_of_one_transaction_have_sub_revisions_in_order() -> None:
    replica = Replica()
    for key in (b"a", b"b"):
        replica.call(PutRequest(key=key))
    nested = RequestOp(request_txn=TxnRequest(success=[op_put(b"y")]))
    call(replica, TxnRequest(success=[op_put(b"z"), nested, op_delete(b"a", b"c"), op_put(b"x")]))
    places = [
        (int.from_bytes(key[:8], "big"), int.from_bytes(key[8:], "big"))
        for key, _ in replica.transaction.scan(REVISIONS, b"", None)
    ]
    assert places == [(2, 0), (3, 0), (4, 0), (4, 1), (4, 2), (4, 3), (4, 4)]
    assert [kv.key for kv in get(replica, b"\x00", b"\x00").kvs] == [b"x", b"y", b"z"]


def test_all_compares_look_at_the_state_before_the_transaction() -> None:
    """Of nested transactions, too."""
    replica = Replica()
    absent = Compare(key=b"k", target=Compare.VERSION, version=0)
    nested = RequestOp(request_txn=TxnRequest(compare=[absent], success=[op_put(b"nested")]))
    response = call(replica, TxnRequest(compare=[absent], success=[op_put(b"k"), nested]))
    inner = response.responses[1].response_txn
    assert inner.succeeded
    assert inner.HasField("header")
    assert inner.header.revision == 0, "as etcd has it"
    assert inner.responses[0].response_put.header.revision == 2


# Key `k` has value b"m", create revision 3, mod revision 4, version 2; `n` the same but mod revision 5.
OPERANDS: dict[Compare.CompareTarget.ValueType, tuple[str, int | bytes]] = {
    Compare.VERSION: ("version", 2),
    Compare.CREATE: ("create_revision", 3),
    Compare.MOD: ("mod_revision", 4),
    Compare.VALUE: ("value", b"m"),
    Compare.LEASE: ("lease", 0),
}


def replica_to_compare() -> Replica:
    replica = Replica()
    replica.call(PutRequest(key=b"other"))
    replica.call(PutRequest(key=b"k", value=b"first"))
    replica.call(PutRequest(key=b"k", value=b"m"))
    return replica


@pytest.mark.parametrize("target", OPERANDS)
@pytest.mark.parametrize("offset", [-1, 0, 1])
def test_every_target_with_every_result(target: Compare.CompareTarget.ValueType, offset: int) -> None:
    replica = replica_to_compare()
    field, actual = OPERANDS[target]
    operand: object = bytes((b"m"[0] + offset,)) if isinstance(actual, bytes) else actual + offset
    expected = {
        Compare.EQUAL: offset == 0,
        Compare.NOT_EQUAL: offset != 0,
        Compare.GREATER: offset < 0,
        Compare.LESS: offset > 0,
    }
    for result, holds in expected.items():
        compare = Compare(key=b"k", target=target, result=result)
        setattr(compare, field, operand)
        assert call(replica, TxnRequest(compare=[compare])).succeeded == holds, (compare, actual)


@pytest.mark.parametrize("target", OPERANDS)
def test_a_missing_key_compares_as_zeros_but_has_no_value(target: Compare.CompareTarget.ValueType) -> None:
    replica = replica_to_compare()
    for result in (Compare.EQUAL, Compare.NOT_EQUAL, Compare.LESS, Compare.GREATER):
        compare = Compare(key=b"none", target=target, result=result)
        setattr(compare, OPERANDS[target][0], b"" if target == Compare.VALUE else 0)
        holds = result == Compare.EQUAL and target != Compare.VALUE
        assert call(replica, TxnRequest(compare=[compare])).succeeded == holds


def test_a_compare_of_a_range_holds_when_every_key_satisfies_it() -> None:
    replica = replica_to_compare()
    for operand, holds in ((2, False), (1, True)):
        compare = Compare(
            key=b"k", range_end=b"\x00", target=Compare.MOD, result=Compare.GREATER, mod_revision=operand
        )
        assert call(replica, TxnRequest(compare=[compare])).succeeded == holds


def test_compares_are_joined_by_and_and_none_is_true() -> None:
    replica = replica_to_compare()
    true = Compare(key=b"k", target=Compare.VERSION, version=2)
    false = Compare(key=b"k", target=Compare.VERSION, version=9)
    assert call(replica, TxnRequest()).succeeded
    assert call(replica, TxnRequest(compare=[true, true])).succeeded
    assert not call(replica, TxnRequest(compare=[true, false])).succeeded


def test_a_failed_transaction_leaves_every_table_as_it_was() -> None:
    """The last operation cannot be done, so the first is not."""
    replica = Replica()
    replica.call(PutRequest(key=b"a"))
    before = {table: rows for table, rows in replica.tables().items() if table != "state"}
    bad = RequestOp(request_put=PutRequest(key=b"none", ignore_value=True))
    request = TxnRequest(success=[op_put(b"b"), op_delete(b"a"), bad])
    (result,) = replica.apply((3, 0, 0, request.SerializeToString()))
    assert (result.code, result.text) == (3, "etcdserver: key not found")
    after = replica.tables()
    assert {table: after[table] for table in TABLES if table != "state"} == before
    assert replica.machine.current_revision(replica.transaction) == 2
