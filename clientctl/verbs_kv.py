"""The verbs put, get and del; and the same three as lines of a transaction, where they only build a
request."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from clientctl.command import DONE, NEGATIVE, read_input, verb, with_client, write
from clientctl.config import VALUE_BYTES_MAX
from clientctl.settings import Settings

if TYPE_CHECKING:
    from clientctl.client import Client
    from clientctl.output import Show
    from proto.kv_pb2 import KeyValue
    from proto.rpc_pb2 import (
        DeleteRangeRequest,
        DeleteRangeResponse,
        PutRequest,
        PutResponse,
        RangeRequest,
        RangeResponse,
        ResponseHeader,
    )

_Function = TypeVar("_Function", bound=Callable[..., Any])

_SORT_TARGETS = ("key", "version", "create", "modify", "value")
_ORDERS = ("ascend", "descend")
_CONSISTENCIES = {
    "l": "linearizable",
    "s": "serializable",
    "linearizable": "linearizable",
    "serializable": "serializable",
}


def data(context: click.Context, parameter: click.Parameter, value: str | None) -> bytes | None:
    """The bytes that stood on the command line, whatever their encoding."""
    return None if value is None else value.encode("utf-8", "surrogateescape")


def parameters(*decorators: Callable[[_Function], _Function]) -> Callable[[_Function], _Function]:
    def decorate(function: _Function) -> _Function:
        for decorator in reversed(decorators):
            function = decorator(function)
        return function

    return decorate


def lease_id(context: click.Context, parameter: click.Parameter, value: str) -> int:
    """The id of a lease, in hexadecimal as everywhere in etcdctl."""
    try:
        lease = -1 if value.lower().startswith("0x") else int(value, 16)
    except ValueError:
        lease = -1
    if not 0 <= lease < 1 << 63:
        text = f"{value!r} is not the id of a lease, which is hexadecimal"
        raise click.BadParameter(text, context, parameter)
    return lease


def _choice(*names: str) -> click.Choice[str]:
    return click.Choice(names, case_sensitive=False)


INT64 = click.IntRange(0, (1 << 63) - 1)
_KEY = click.argument("key", callback=data)
_RANGE_END = click.argument("range_end", required=False, callback=data)
PREFIX = click.option("--prefix", is_flag=True, help="All keys that start with KEY.")
FROM_KEY = click.option("--from-key", is_flag=True, help="All keys from KEY on.")
_PREV_KV = click.option("--prev-kv", is_flag=True, help="Show what was there before.")
_PUT = parameters(
    _KEY,
    click.argument("value", required=False, callback=data),
    _PREV_KV,
    click.option("--ignore-value", is_flag=True, help="Leave the value as it is; only a new version."),
    click.option("--ignore-lease", is_flag=True, help="Leave the lease as it is."),
    click.option(
        "--lease", callback=lease_id, default="0", help="The key ends with this lease.", metavar="ID"
    ),
)
_GET = parameters(
    _KEY,
    _RANGE_END,
    PREFIX,
    FROM_KEY,
    click.option("--limit", type=INT64, default=0, help="At most so many; 0: all."),
    click.option("--rev", type=INT64, default=0, help="As of this revision."),
    click.option("--keys-only", is_flag=True, help="Leave the values out."),
    click.option("--count-only", is_flag=True, help="Only how many there are."),
    click.option("--print-value-only", is_flag=True, help="Only the values, in simple output."),
    click.option("--sort-by", type=_choice(*_SORT_TARGETS), default="key", help="What to sort by."),
    click.option("--order", type=_choice(*_ORDERS), default=None, help="Which way to sort."),
    click.option("--consistency", type=_choice(*_CONSISTENCIES), default="l", help="What the read promises."),
)
_DEL = parameters(_KEY, _RANGE_END, PREFIX, FROM_KEY, _PREV_KV)


# As requests


def _put_request(
    key: bytes, value: bytes | None, prev_kv: bool, ignore_value: bool, ignore_lease: bool, lease: int
) -> "PutRequest":
    from clientctl.requests import put_request

    if ignore_value and value is not None:
        raise click.UsageError("put needs no value when --ignore-value is set")
    if value is None and not ignore_value:
        raise click.UsageError("put needs a value")
    if ignore_lease and lease:
        raise click.UsageError("--lease and --ignore-lease exclude each other")
    return put_request(
        key, value or b"", prev_kv=prev_kv, ignore_value=ignore_value, ignore_lease=ignore_lease, lease=lease
    )


def _get_request(
    key: bytes,
    range_end: bytes | None,
    prefix: bool,
    from_key: bool,
    limit: int,
    rev: int,
    keys_only: bool,
    count_only: bool,
    sort_by: str,
    order: str | None,
    consistency: str,
    print_value_only: bool,
) -> "RangeRequest":
    from clientctl.requests import range_request

    _check_range(range_end, prefix, from_key)
    if keys_only and count_only:
        raise click.UsageError("--keys-only and --count-only exclude each other")
    return range_request(
        key,
        range_end,
        prefix=prefix,
        from_key=from_key,
        limit=limit,
        revision=rev,
        keys_only=keys_only,
        count_only=count_only,
        sort_by="mod" if sort_by == "modify" else sort_by,  # type: ignore[arg-type]
        order=order or "none",  # type: ignore[arg-type]
        consistency=_CONSISTENCIES[consistency],  # type: ignore[arg-type]
    )


def _del_request(
    key: bytes, range_end: bytes | None, prefix: bool, from_key: bool, prev_kv: bool
) -> "DeleteRangeRequest":
    from clientctl.requests import delete_request

    _check_range(range_end, prefix, from_key)
    return delete_request(key, range_end, prefix=prefix, from_key=from_key, prev_kv=prev_kv)


def _check_range(range_end: bytes | None, prefix: bool, from_key: bool) -> None:
    if prefix and from_key:
        raise click.UsageError("--prefix and --from-key exclude each other")
    if range_end is not None and (prefix or from_key):
        raise click.UsageError("RANGE_END cannot be given with --prefix or --from-key")


TXN_LINES = {
    name: click.command(name, add_help_option=False)(parameters(build))
    for name, parameters, build in (
        ("put", _PUT, _put_request),
        ("get", _GET, _get_request),
        ("del", _DEL, _del_request),
    )
}
"""Commands that return the request; for `clientctl.verbs_txn`."""


# As verbs


def add_verbs(group: click.Group) -> None:
    """Give the root command put, get and del."""
    ttl = click.option(
        "--ttl", type=click.IntRange(1, (1 << 63) - 1), help="The key ends after so many seconds."
    )
    verb(group, "put")(_PUT(ttl(_put)))
    verb(group, "get")(_GET(_get))
    verb(group, "del")(_DEL(_del))


def _put(
    settings: Settings, value: bytes | None, ignore_value: bool, ttl: int | None, **parameters: Any
) -> int:
    """Set KEY to VALUE, or to what standard input has.

    A value that begins with a dash is given after "--".
    """
    if value is None and not ignore_value:
        value = read_input(lambda stream: stream.read(VALUE_BYTES_MAX + 1))
        if len(value) > VALUE_BYTES_MAX:
            raise click.UsageError(f"the value on standard input has more than {VALUE_BYTES_MAX} bytes")
    request = _put_request(value=value, ignore_value=ignore_value, **parameters)
    if ttl and (request.lease or request.ignore_lease):
        raise click.UsageError("--ttl excludes --lease and --ignore-lease")

    async def put(client: "Client") -> "PutResponse":
        if ttl:
            request.lease = (await client.lease_grant(ttl)).ID
        return await client.execute_put(request)

    reply = with_client(settings, put, writes=True)
    write(_show_put(settings, reply))
    return DONE


def _get(settings: Settings, **parameters: Any) -> int:
    """Show KEY, or the keys from KEY up to RANGE_END.

    Exits with 1 when a single key is absent.
    """
    values_only = parameters["print_value_only"]
    if values_only and settings.write_out != "simple":
        raise click.UsageError("--print-value-only is for simple output only")
    request = _get_request(**parameters)
    reply = with_client(settings, lambda client: client.execute_range(request))
    write(_show_range(settings, reply, values_only, request.count_only))
    return NEGATIVE if not request.range_end and reply.count == 0 else DONE


def _del(settings: Settings, **parameters: Any) -> int:
    """Delete KEY, or the keys from KEY up to RANGE_END, and say how many there were."""
    request = _del_request(**parameters)
    reply = with_client(settings, lambda client: client.execute_delete(request), writes=True)
    write(_show_delete(settings, reply))
    return DONE


# Output


def show_of(settings: Settings) -> "Show":
    """How bytes are written."""
    from clientctl.output import as_hex, as_is

    return as_hex if settings.hex else as_is


def _show_put(settings: Settings, reply: "PutResponse") -> bytes:
    from clientctl import output

    if settings.write_out == "json":
        return output.json_line(output.json_value(reply))
    if settings.write_out == "table":
        previous = _pairs(settings, [reply.prev_kv]) if reply.HasField("prev_kv") else b""
        return _header(reply.header) + previous
    return output.simple_put(reply, show_of(settings))


def _show_range(settings: Settings, reply: "RangeResponse", values_only: bool, count_only: bool) -> bytes:
    from clientctl import output

    if settings.write_out == "json":
        return output.json_line(output.json_value(reply))
    if settings.write_out == "table":
        return output.table(("COUNT",), [[str(reply.count)]]) if count_only else _pairs(settings, reply.kvs)
    return output.simple_range(reply, show_of(settings), values_only=values_only, count_only=count_only)


def _show_delete(settings: Settings, reply: "DeleteRangeResponse") -> bytes:
    from clientctl import output

    if settings.write_out == "json":
        return output.json_line(output.json_value(reply))
    if settings.write_out == "table":
        previous = _pairs(settings, reply.prev_kvs) if reply.prev_kvs else b""
        return output.table(("DELETED",), [[str(reply.deleted)]]) + previous
    return output.simple_delete(reply, show_of(settings))


def _pairs(settings: Settings, pairs: "Sequence[KeyValue]") -> bytes:
    from clientctl import output

    rows = [output.pair_row(pair, show_of(settings)) for pair in pairs]
    return output.table(output.PAIR_HEADINGS, rows)


def _header(header: "ResponseHeader") -> bytes:
    from clientctl import output

    row = [f"{header.cluster_id:x}", f"{header.member_id:x}", str(header.revision), str(header.raft_term)]
    return output.table(("CLUSTER ID", "MEMBER ID", "REVISION", "RAFT TERM"), [row])
