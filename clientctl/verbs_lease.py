"""The verbs lease grant, revoke, keep-alive, timetolive and list."""

from typing import TYPE_CHECKING, Any

import click

from clientctl.command import DONE, NEGATIVE, subgroup, verb, with_client, write
from clientctl.settings import Settings
from clientctl.verbs_kv import lease_id

if TYPE_CHECKING:
    from clientctl.client import Client
    from proto.rpc_pb2 import LeaseKeepAliveResponse, LeaseTimeToLiveResponse, ResponseHeader

_ID = click.argument("lease", callback=lease_id)


def add_verbs(group: click.Group) -> None:
    """Give the root command lease."""
    lease = subgroup("lease", "Times after which keys end.")
    group.add_command(lease)
    once = click.option("--once", is_flag=True, help="Only once.")
    keys = click.option("--keys", is_flag=True, help="Also which keys are tied to it.")
    verb(lease, "grant")(click.argument("ttl", type=int)(_grant))
    verb(lease, "revoke")(_ID(_revoke))
    verb(lease, "keep-alive")(_ID(once(_keep_alive)))
    verb(lease, "timetolive")(_ID(keys(_time_to_live)))
    verb(lease, "list")(_list)


def _grant(settings: Settings, ttl: int) -> int:
    """Make a lease of TTL seconds, for `put --lease`."""
    _check_format(settings)
    reply = with_client(settings, lambda client: client.lease_grant(ttl), writes=True)
    if settings.write_out == "json":
        _write_json(reply.header, {"ID": reply.ID, "TTL": reply.TTL, "Error": reply.error})
    else:
        write(b"lease %016x granted with TTL(%ds)\n" % (reply.ID, reply.TTL))
    return DONE


def _revoke(settings: Settings, lease: int) -> int:
    """End a lease; the keys that are tied to it are deleted."""
    from clientctl import output

    _check_format(settings)
    reply = with_client(settings, lambda client: client.lease_revoke(lease), writes=True)
    if settings.write_out == "json":
        write(output.json_line(output.json_value(reply)))
    else:
        write(b"lease %016x revoked\n" % lease)
    return DONE


def _keep_alive(settings: Settings, lease: int, once: bool) -> int:
    """Renew a lease until it ends, or this program; or once.

    Exits with 1 when the lease has ended.
    """
    from clientctl.errors import InvalidRequest
    from proto import errors

    _check_format(settings)
    if not once:
        return with_client(settings, lambda client: _keep(settings, client, lease), writes=True)
    reply = with_client(settings, lambda client: client.lease_keep_alive(lease), writes=True)
    if reply.TTL <= 0:
        raise InvalidRequest(*errors.LEASE_NOT_FOUND)
    _show_renewal(settings, reply)
    return DONE


async def _keep(settings: Settings, client: "Client", lease: int) -> int:
    import trio

    left_s = settings.timeout
    while True:
        asked_at = trio.current_time()
        reply = await client.lease_keep_alive(lease, timeout=left_s)
        if reply.TTL <= 0:
            if settings.write_out == "simple":
                write(b"lease %016x expired or revoked.\n" % lease)
            return NEGATIVE
        _show_renewal(settings, reply)
        await trio.sleep_until(asked_at + reply.TTL / 3)
        left_s = max(0.0, asked_at + reply.TTL - trio.current_time())


def _show_renewal(settings: Settings, reply: "LeaseKeepAliveResponse") -> None:
    if settings.write_out == "json":
        _write_json(reply.header, {"ID": reply.ID, "TTL": reply.TTL})
    else:
        write(b"lease %016x keepalived with TTL(%d)\n" % (reply.ID, reply.TTL))


def _time_to_live(settings: Settings, lease: int, keys: bool) -> int:
    """Show how long a lease has left.

    Exits with 1 when it has ended.
    """
    _check_format(settings)
    reply = with_client(settings, lambda client: client.lease_time_to_live(lease, keys=keys))
    if settings.write_out == "json":
        _write_json(reply.header, _time_to_live_json(reply))
    elif reply.TTL <= 0:
        write(b"lease %016x already expired\n" % lease)
    else:
        line = b"lease %016x granted with TTL(%ds), remaining(%ds)" % (reply.ID, reply.grantedTTL, reply.TTL)
        attached = b", attached keys([%s])" % b" ".join(reply.keys) if keys else b""
        write(line + attached + b"\n")
    return DONE if reply.TTL > 0 else NEGATIVE


def _time_to_live_json(reply: "LeaseTimeToLiveResponse") -> dict[str, Any]:
    from clientctl import output

    keys = [output.json_value(key) for key in reply.keys] or None
    return {"id": reply.ID, "ttl": reply.TTL, "granted-ttl": reply.grantedTTL, "keys": keys}


def _list(settings: Settings) -> int:
    """Show all leases."""
    _check_format(settings)
    reply = with_client(settings, lambda client: client.leases())
    if settings.write_out == "json":
        _write_json(reply.header, {"leases": [{"id": lease.ID} for lease in reply.leases]})
    else:
        lines = b"".join(b"%016x\n" % lease.ID for lease in reply.leases)
        write(b"found %d leases\n" % len(reply.leases) + lines)
    return DONE


def _check_format(settings: Settings) -> None:
    if settings.write_out == "table":
        raise click.UsageError("table is not an output format of lease")


def _write_json(header: "ResponseHeader", fields: dict[str, Any]) -> None:
    """etcdctl's JSON of leases has the header's fields beside the others."""
    from clientctl import output

    numbers = ("cluster_id", "member_id", "revision", "raft_term")
    write(output.json_line({**{name: getattr(header, name) for name in numbers}, **fields}))
