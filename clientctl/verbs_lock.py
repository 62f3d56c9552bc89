"""The verbs lock and elect."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from clientctl.command import (
    DONE,
    Interrupted,
    run_command,
    say_error,
    until_signal,
    verb,
    with_client,
    write,
)
from clientctl.config import ELECTION_TTL_S, LOCK_TTL_S
from clientctl.settings import Settings
from clientctl.verbs_kv import data, show_of

if TYPE_CHECKING:
    from clientctl.client import Client
    from proto.rpc_pb2 import RangeResponse

_SECONDS = click.IntRange(1, (1 << 63) - 1)


def add_verbs(group: click.Group) -> None:
    """Give the root command lock and elect."""
    name = click.argument("name", callback=data)
    command = click.argument("command", nargs=-1, type=click.UNPROCESSED)
    lock_ttl = click.option("--ttl", type=_SECONDS, default=LOCK_TTL_S, help="How long it outlives a crash.")
    verb(group, "lock")(name(command(lock_ttl(_lock))))
    value = click.argument("value", required=False, callback=data)
    listen = click.option("-l", "--listen", is_flag=True, help="Only show who leads, again and again.")
    ttl = click.option("--ttl", type=_SECONDS, default=ELECTION_TTL_S, help="How long it outlives a crash.")
    verb(group, "elect")(name(value(listen(ttl(_elect)))))


def _lock(settings: Settings, name: bytes, command: Sequence[str], ttl: int) -> int:
    """Hold the lock NAME until interrupted, or while a command runs.

    Without a command the holder's key is shown once the lock is held. A command finds it in ETCD_LOCK_KEY
    and ETCD_LOCK_REV, and its exit status is ours. Whoever loses the lock because no server answers is
    stopped: the command with SIGTERM.
    """
    _check_format(settings)

    async def hold(client: "Client") -> int:
        held = False

        async def run() -> int:
            nonlocal held
            async with client.lock(name, ttl=ttl) as lock:
                held = True
                if not command:
                    _show(settings, await client.get(lock.key))
                    await sleep_forever()
                variables = {"ETCD_LOCK_KEY": os.fsdecode(lock.key), "ETCD_LOCK_REV": str(lock.revision)}
                status, problem = await run_command(command, variables)
            if problem:
                say_error(problem)
            return status

        from trio import sleep_forever

        status = await until_signal(run)
        if status is None and not (held and not command):
            raise Interrupted("interrupted; the lock is not held")
        return status or DONE

    return with_client(settings, hold, writes=True)


def _elect(settings: Settings, name: bytes, value: bytes | None, listen: bool, ttl: int) -> int:
    """Stand for the election NAME with VALUE, and lead once elected, until interrupted.

    With -l, show who leads, now and whenever that or the value changes.
    """
    _check_format(settings)
    if listen and value is not None:
        raise click.UsageError("a value is given, but -l only listens")
    if not listen and value is None:
        raise click.UsageError("elect needs a value, or -l")

    async def stand(client: "Client") -> int:
        won = False

        async def lead() -> None:
            nonlocal won
            async with client.election(name, ttl=ttl).campaign(value or b"") as leadership:
                won = True
                _show(settings, await client.get(leadership.key))
                await sleep_forever()

        from trio import sleep_forever

        await until_signal(lead)
        if not won:
            raise Interrupted("interrupted; not elected")
        return DONE

    async def observe(client: "Client") -> int:
        with client.election(name).observe() as observation:
            while True:
                _show(settings, await observation.receive())

    return with_client(settings, observe if listen else stand, writes=not listen)


def _show(settings: Settings, reply: "RangeResponse") -> None:
    from clientctl import output

    if settings.write_out == "json":
        write(output.json_line(output.json_value(reply)))
    else:
        write(output.simple_range(reply, show_of(settings)))


def _check_format(settings: Settings) -> None:
    if settings.write_out == "table":
        raise click.UsageError("table is not an output format of lock and elect")
