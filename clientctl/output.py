"""Replies as text: simple, JSON and tables, each as etcdctl prints them. Values are written as the bytes
they are."""

import base64
import json
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from google.protobuf.message import Message

from proto.kv_pb2 import KeyValue
from proto.rpc_pb2 import (
    DeleteRangeResponse,
    MemberListResponse,
    PutResponse,
    RangeResponse,
    ResponseOp,
    StatusResponse,
    TxnResponse,
)

Show = Callable[[bytes], bytes]
_SIZE_UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")


def as_is(data: bytes) -> bytes:
    """Bytes as they are."""
    return data


def as_hex(data: bytes) -> bytes:
    r"""Bytes as \xNN each."""
    return b"".join(b"\\x%02x" % byte for byte in data)


# Simple


def simple_put(reply: PutResponse, show: Show) -> bytes:
    """`OK`, and the previous pair when the reply has one."""
    previous = simple_pair(reply.prev_kv, show) if reply.HasField("prev_kv") else b""
    return b"OK\n" + previous


def simple_pair(pair: KeyValue, show: Show) -> bytes:
    """Key and value, a line each."""
    return show(pair.key) + b"\n" + show(pair.value) + b"\n"


def simple_range(
    reply: RangeResponse, show: Show, *, values_only: bool = False, count_only: bool = False
) -> bytes:
    """Key and value lines of each pair; with `count_only` the count."""
    if count_only:
        return b"%d\n" % reply.count
    if values_only:
        return b"".join(show(pair.value) + b"\n" for pair in reply.kvs)
    return b"".join(simple_pair(pair, show) for pair in reply.kvs)


def simple_delete(reply: DeleteRangeResponse, show: Show) -> bytes:
    """How many, and the previous pairs when the reply has them."""
    return b"%d\n" % reply.deleted + b"".join(simple_pair(pair, show) for pair in reply.prev_kvs)


def simple_txn(reply: TxnResponse, show: Show) -> bytes:
    """SUCCESS or FAILURE, then each response after an empty line."""
    verdict = b"SUCCESS\n" if reply.succeeded else b"FAILURE\n"
    return verdict + b"".join(b"\n" + _simple_response(response, show) for response in reply.responses)


def _simple_response(response: ResponseOp, show: Show) -> bytes:
    match response.WhichOneof("response"):
        case "response_put":
            return simple_put(response.response_put, show)
        case "response_range":
            return simple_range(response.response_range, show)
        case "response_delete_range":
            return simple_delete(response.response_delete_range, show)
        case "response_txn":
            return simple_txn(response.response_txn, show)
        case _:
            return b""


def simple_lines(rows: Iterable[Sequence[str]]) -> bytes:
    """Rows of a cluster command, fields parted by commas."""
    return b"".join(", ".join(row).encode("utf-8", "surrogateescape") + b"\n" for row in rows)


# JSON


def json_line(value: Any) -> bytes:
    """One line of JSON, as compact as etcdctl's."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def json_value(value: Any) -> Any:
    """A message or field as Go's JSON has it: unset fields left out, bytes in base64."""
    if isinstance(value, Message):
        if isinstance(value, ResponseOp):
            return {"Response": _json_response(value)}
        return {field.name: _json_field(field, content) for field, content in value.ListFields()}
    if isinstance(value, bytes):
        return base64.b64encode(value).decode("ascii")
    return value


def _json_field(field: Any, content: Any) -> Any:
    return [json_value(item) for item in content] if field.is_repeated else json_value(content)


def _json_response(response: ResponseOp) -> dict[str, Any]:
    name = response.WhichOneof("response")
    if name is None:
        return {}
    # Go's name of the alternative: response_delete_range is ResponseDeleteRange.
    return {"".join(part.capitalize() for part in name.split("_")): json_value(getattr(response, name))}


# Tables


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> bytes:
    """A table as etcdctl draws it: headings centred, cells to the right."""
    widths = [max(map(len, column)) for column in zip(headings, *rows, strict=True)]
    rule = "+" + "+".join("-" * (width + 2) for width in widths) + "+"
    lines = [rule, _line([_centred(text, width) for text, width in zip(headings, widths, strict=True)]), rule]
    lines += [_line([text.rjust(width) for text, width in zip(row, widths, strict=True)]) for row in rows]
    lines += [rule] if rows else []
    return ("\n".join(lines) + "\n").encode("utf-8", "surrogateescape")


def _line(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _centred(text: str, width: int) -> str:
    left = (width - len(text)) // 2
    return " " * left + text + " " * (width - len(text) - left)


PAIR_HEADINGS = ("KEY", "VALUE", "CREATE REVISION", "MOD REVISION", "VERSION", "LEASE")
STATUS_HEADINGS = (
    "ENDPOINT",
    "ID",
    "VERSION",
    "DB SIZE",
    "IS LEADER",
    "IS LEARNER",
    "RAFT TERM",
    "RAFT INDEX",
    "RAFT APPLIED INDEX",
    "ERRORS",
)
MEMBER_HEADINGS = ("ID", "STATUS", "NAME", "PEER ADDRS", "CLIENT ADDRS", "IS LEARNER")


def pair_row(pair: KeyValue, show: Show) -> list[str]:
    """A pair in a table; bytes that cannot be shown there are escaped."""
    numbers = (pair.create_revision, pair.mod_revision, pair.version, pair.lease)
    return [_printable(show(pair.key)), _printable(show(pair.value)), *map(str, numbers)]


def status_row(endpoint: str, status: StatusResponse) -> list[str]:
    """One endpoint's status, for lines and tables."""
    return [
        endpoint,
        f"{status.header.member_id:x}",
        status.version,
        size(status.dbSize),
        _boolean(status.header.member_id == status.leader),
        _boolean(status.isLearner),
        str(status.raftTerm),
        str(status.raftIndex),
        str(status.raftAppliedIndex),
        ", ".join(status.errors),
    ]


def member_rows(reply: MemberListResponse) -> list[list[str]]:
    """The members, for lines and tables."""
    return [
        [
            f"{member.ID:x}",
            "started" if member.name else "unstarted",
            member.name,
            ",".join(member.peerURLs),
            ",".join(member.clientURLs),
            _boolean(member.isLearner),
        ]
        for member in reply.members
    ]


def size(size_bytes: int) -> str:
    """A size in SI units with two digits, as etcdctl has it: `20 kB`, `1.6 MB`."""
    if size_bytes < 10:
        return f"{size_bytes} B"
    exponent = min(int(math.log(size_bytes, 1000)), len(_SIZE_UNITS) - 1)
    value = math.floor(size_bytes / 1000**exponent * 10 + 0.5) / 10
    return f"{value:.0f} {_SIZE_UNITS[exponent]}" if value >= 10 else f"{value:.1f} {_SIZE_UNITS[exponent]}"


def duration(seconds: float) -> str:
    """A time as Go prints it, to the microsecond: `1.215ms`, `5.000642s`."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.3f}".rstrip("0").rstrip(".") + "µs"
    if seconds < 1:
        return f"{seconds * 1e3:.3f}".rstrip("0").rstrip(".") + "ms"
    return f"{seconds:.6f}".rstrip("0").rstrip(".") + "s"


def _boolean(value: bool) -> str:
    return "true" if value else "false"


def _printable(data: bytes) -> str:
    text = data.decode("utf-8", "backslashreplace")
    return "".join(character if character.isprintable() else _escaped(character) for character in text)


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")
