"""Texts whose form etcdctl gives; what it prints stands in the expectations."""

import pytest

from clientctl import output
from proto.kv_pb2 import KeyValue
from proto.rpc_pb2 import (
    DeleteRangeResponse,
    Member,
    MemberListResponse,
    PutResponse,
    RangeResponse,
    ResponseHeader,
    ResponseOp,
    StatusResponse,
    TxnResponse,
)

PAIR = KeyValue(key=b"k\xff", value=b"v\n", create_revision=2, mod_revision=3, version=2)
HEADER = ResponseHeader(cluster_id=(1 << 64) - 1, member_id=2, revision=3, raft_term=4)


def test_simple_is_binary_safe() -> None:
    assert output.simple_range(RangeResponse(kvs=[PAIR, PAIR]), output.as_is) == b"k\xff\nv\n\n" * 2
    assert output.simple_range(RangeResponse(kvs=[PAIR]), output.as_hex) == b"\\x6b\\xff\n\\x76\\x0a\n"
    assert output.simple_range(RangeResponse(kvs=[PAIR]), output.as_is, values_only=True) == b"v\n\n"
    assert output.simple_range(RangeResponse(count=7), output.as_is, count_only=True) == b"7\n"


def test_simple_txn() -> None:
    reply = TxnResponse(
        succeeded=True,
        responses=[
            ResponseOp(response_put=PutResponse(prev_kv=PAIR)),
            ResponseOp(response_range=RangeResponse(kvs=[PAIR])),
            ResponseOp(response_delete_range=DeleteRangeResponse(deleted=1, prev_kvs=[PAIR])),
            ResponseOp(response_txn=TxnResponse()),
        ],
    )
    pair = b"k\xff\nv\n\n"
    expected = b"SUCCESS\n\nOK\n" + pair + b"\n" + pair + b"\n1\n" + pair + b"\nFAILURE\n"
    assert output.simple_txn(reply, output.as_is) == expected


def test_json_leaves_out_what_is_unset_and_keeps_64_bits() -> None:
    reply = RangeResponse(header=HEADER, kvs=[PAIR], more=True, count=9)
    assert output.json_line(output.json_value(reply)) == (
        b'{"header":{"cluster_id":18446744073709551615,"member_id":2,"revision":3,"raft_term":4},'
        b'"kvs":[{"key":"a/8=","create_revision":2,"mod_revision":3,"version":2,"value":"dgo="}],'
        b'"more":true,"count":9}\n'
    )


def test_json_of_transactions_has_gos_names() -> None:
    reply = TxnResponse(
        responses=[
            ResponseOp(response_delete_range=DeleteRangeResponse(deleted=1)),
            ResponseOp(response_put=PutResponse()),
        ]
    )
    assert output.json_line(output.json_value(reply)) == (
        b'{"responses":[{"Response":{"ResponseDeleteRange":{"deleted":1}}},{"Response":{"ResponsePut":{}}}]}\n'
    )


def test_table() -> None:
    assert output.table(("ENDPOINT", "ID"), [["127.0.0.1:23790", "2e12"], ["a", ""]]).decode() == (
        "+-----------------+------+\n"
        "|    ENDPOINT     |  ID  |\n"
        "+-----------------+------+\n"
        "| 127.0.0.1:23790 | 2e12 |\n"
        "|               a |      |\n"
        "+-----------------+------+\n"
    )
    assert output.table(("COUNT",), []).decode() == "+-------+\n| COUNT |\n+-------+\n"


def test_cells_show_no_control_characters() -> None:
    assert output.pair_row(PAIR, output.as_is) == ["k\\xff", "v\\n", "2", "3", "2", "0"]


def test_status_and_members() -> None:
    header = ResponseHeader(member_id=0x2E1259D415F2A040)
    status = StatusResponse(header=header, leader=0x2E1259D415F2A040, version="3.5.0", dbSize=20480)
    row = ["e:1", "2e1259d415f2a040", "3.5.0", "20 kB", "true", "false", "0", "0", "0", ""]
    assert output.status_row("e:1", status) == row
    members = [Member(ID=255, name="n", peerURLs=["http://a", "http://b"]), Member(ID=1)]
    reply = MemberListResponse(members=members)
    assert output.simple_lines(output.member_rows(reply)) == (
        b"ff, started, n, http://a,http://b, , false\n1, unstarted, , , , false\n"
    )


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (9, "9 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (20480, "20 kB"),
        (24576, "25 kB"),
        (1_550_000, "1.6 MB"),
        (2 << 30, "2.1 GB"),
    ],
)
def test_sizes(size_bytes: int, text: str) -> None:
    assert output.size(size_bytes) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.000123, "123µs"), (0.001215, "1.215ms"), (0.5, "500ms"), (5.000642, "5.000642s")]
)
def test_durations(seconds: float, text: str) -> None:
    assert output.duration(seconds) == text
