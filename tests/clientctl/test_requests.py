"""Requests from Python values."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clientctl.config import TXN_NESTING_MAX
from clientctl.requests import (
    compare,
    delete_request,
    is_read_only,
    key_range,
    prefix_end,
    put_request,
    range_request,
    to_bytes,
    txn_request,
    watch_request,
)
from proto.rpc_pb2 import Compare, RangeRequest, TxnRequest, TxnResponse


@pytest.mark.parametrize(
    ("prefix", "end"),
    [(b"a", b"b"), (b"a\xff", b"b"), (b"a\xff\xff", b"b"), (b"\xff", b"\0"), (b"", b"\0"), (b"az", b"a{")],
)
def test_prefix_end(prefix: bytes, end: bytes) -> None:
    assert prefix_end(prefix) == end


@given(st.binary(min_size=1), st.binary())
def test_prefix_range_holds_what_starts_so_and_nothing_else(prefix: bytes, key: bytes) -> None:
    end = prefix_end(prefix)
    inside = key >= prefix and (end == b"\0" or key < end)
    assert inside == key.startswith(prefix)


def test_key_ranges() -> None:
    assert key_range("k", None, prefix=False, from_key=False) == (b"k", b"")
    assert key_range("k", "m", prefix=False, from_key=False) == (b"k", b"m")
    assert key_range("k", None, prefix=True, from_key=False) == (b"k", b"l")
    assert key_range("", None, prefix=True, from_key=False) == (b"\0", b"\0")
    assert key_range("k", None, prefix=False, from_key=True) == (b"k", b"\0")
    assert key_range("", None, prefix=False, from_key=True) == (b"\0", b"\0")
    with pytest.raises(ValueError, match="exclude"):
        key_range("k", "m", prefix=True, from_key=False)


def test_text_stands_for_its_bytes() -> None:
    assert to_bytes("é") == b"\xc3\xa9"
    assert to_bytes(b"\xff".decode("utf-8", "surrogateescape")) == b"\xff"


def test_range_request_has_every_field() -> None:
    request = range_request(
        "k",
        "m",
        limit=1,
        revision=2,
        sort_by="mod",
        order="descend",
        consistency="serializable",
        keys_only=True,
        count_only=True,
        min_mod_revision=3,
        max_mod_revision=4,
        min_create_revision=5,
        max_create_revision=6,
    )
    assert request == RangeRequest(
        key=b"k",
        range_end=b"m",
        limit=1,
        revision=2,
        sort_target=RangeRequest.MOD,
        sort_order=RangeRequest.DESCEND,
        serializable=True,
        keys_only=True,
        count_only=True,
        min_mod_revision=3,
        max_mod_revision=4,
        min_create_revision=5,
        max_create_revision=6,
    )


def test_comparisons_check_their_operand() -> None:
    assert compare("k", "version", "=", 0) == Compare(key=b"k", target=Compare.VERSION, version=0)
    with pytest.raises(TypeError, match="number"):
        compare("k", "mod", "=", "1")
    with pytest.raises(TypeError, match="bytes or str"):
        compare("k", "value", "=", 1)


def test_read_only_transactions_are_recognised() -> None:
    read, write = range_request("k"), delete_request("k")
    assert is_read_only(txn_request([], [read], [read]))
    assert is_read_only(txn_request([], [txn_request([], [read])]))
    assert not is_read_only(txn_request([], [read], [put_request("k")]))
    assert not is_read_only(txn_request([], [txn_request([], [], [write])]))


def test_what_makes_no_sense_is_said_clearly() -> None:
    with pytest.raises(ValueError, match="order: 'foo' is none of none, ascend, descend"):
        range_request("k", order="foo")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="sort_by: 'foo' is none of key, version"):
        range_request("k", sort_by="foo")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="consistency: 'foo'"):
        range_request("k", consistency="foo")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="filters: 'foo'"):
        watch_request("k", filters=["foo"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match="comparison: '=='"):
        compare("k", "mod", "==", 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="target: 'foo'"):
        compare("k", "foo", "=", 1)  # type: ignore[arg-type]
    for data in (None, 1, bytearray(b"k")):
        with pytest.raises(TypeError, match="bytes or str, and not"):
            put_request(data, b"")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="Compare is no operation"):
        txn_request([], [Compare()])  # type: ignore[list-item]


def test_transactions_within_one_another() -> None:
    """As many as are taken, their replies can be read as well."""
    request = txn_request([], [put_request("k", prev_kv=True)])
    for _ in range(TXN_NESTING_MAX):
        request = txn_request([], [request])
    reply = TxnResponse()
    innermost = reply
    for _ in range(TXN_NESTING_MAX):
        innermost = innermost.responses.add().response_txn
    innermost.responses.add().response_put.prev_kv.key = b"k"
    assert TxnRequest.FromString(request.SerializeToString()) == request
    assert TxnResponse.FromString(reply.SerializeToString()) == reply
    with pytest.raises(ValueError, match="within one another"):
        txn_request([], [request])
