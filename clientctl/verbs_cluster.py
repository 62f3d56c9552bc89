"""The verbs that ask servers about themselves: endpoint status, health and hashkv,
member list, version."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from clientctl.command import DONE, NOT_DONE, say, say_error, subgroup, verb, with_client, write
from clientctl.config import API_VERSION
from clientctl.settings import Settings
from clientctl.verbs_kv import INT64

if TYPE_CHECKING:
    from clientctl.client import Client
    from proto.rpc_pb2 import HashKVResponse, StatusResponse

_CLUSTER = click.option("--cluster", is_flag=True, help="All members of the cluster, not just the endpoints.")


def add_verbs(group: click.Group) -> None:
    """Give the root command endpoint, member and version."""
    endpoint = subgroup("endpoint", "Ask servers how they are.")
    member = subgroup("member", "Ask for the cluster's members.")
    group.add_command(endpoint)
    group.add_command(member)
    verb(endpoint, "status")(_CLUSTER(_status))
    verb(endpoint, "health")(_CLUSTER(_health))
    revision = click.option("--rev", type=INT64, default=0, help="The history up to this; 0: all of it.")
    verb(endpoint, "hashkv")(_CLUSTER(revision(_hashkv)))
    verb(member, "list")(_member_list)
    verb(group, "version")(_version)


@dataclass(slots=True)
class _Answer:
    """What one endpoint said, or why it said nothing."""

    endpoint: str
    status: "StatusResponse | None" = None
    counters: dict[str, int] | None = None
    hash: "HashKVResponse | None" = None
    took_s: float = 0.0
    error: str = ""


def _status(settings: Settings, cluster: bool) -> int:
    """Show version, size, leader, term and indexes of each server."""
    from clientctl import output

    async def ask(client: "Client", answer: _Answer) -> None:
        answer.status = await client.status(answer.endpoint)
        if settings.write_out == "json":
            answer.counters = await client.counters(answer.endpoint)

    answers = _ask_each(settings, cluster, ask)
    for answer in answers:
        if answer.error:
            say(f"Failed to get the status of endpoint {answer.endpoint} ({answer.error})")
    rows = [output.status_row(answer.endpoint, answer.status) for answer in answers if answer.status]
    if settings.write_out == "json":
        write(output.json_line([_status_json(answer) for answer in answers if answer.status]))
    elif settings.write_out == "table":
        write(output.table(output.STATUS_HEADINGS, rows))
    else:
        write(output.simple_lines(rows))
    return NOT_DONE if any(answer.error for answer in answers) else DONE


def _status_json(answer: _Answer) -> dict[str, Any]:
    from clientctl import output

    shown = {"Endpoint": answer.endpoint, "Status": output.json_value(answer.status)}
    return {**shown, "Counters": answer.counters} if answer.counters else shown


def _health(settings: Settings, cluster: bool) -> int:
    """Try a linearizable read on each server. Exits with 3 when one of them cannot serve it."""
    from clientctl import output

    async def ask(client: "Client", answer: _Answer) -> None:
        await client.health(answer.endpoint)

    answers = _ask_each(settings, cluster, ask)
    if settings.write_out == "json":
        write(output.json_line([_health_json(answer) for answer in answers]))
    elif settings.write_out == "table":
        rows = [
            [answer.endpoint, str(not answer.error).lower(), output.duration(answer.took_s), answer.error]
            for answer in answers
        ]
        write(output.table(("ENDPOINT", "HEALTH", "TOOK", "ERROR"), rows))
    else:
        for answer in answers:
            if answer.error:
                say(f"{answer.endpoint} is unhealthy: failed to commit proposal: {answer.error}")
            else:
                took = output.duration(answer.took_s)
                text = f"{answer.endpoint} is healthy: successfully committed proposal: took = {took}"
                write(output.simple_lines([[text]]))
    if any(answer.error for answer in answers):
        say_error("unhealthy cluster")
        return NOT_DONE
    return DONE


def _health_json(answer: _Answer) -> dict[str, Any]:
    from clientctl import output

    shown = {"endpoint": answer.endpoint, "health": not answer.error, "took": output.duration(answer.took_s)}
    return {**shown, "error": answer.error} if answer.error else shown


def _hashkv(settings: Settings, cluster: bool, rev: int) -> int:
    """Show a checksum of each server's history: equal ones have equal histories."""
    from clientctl import output

    async def ask(client: "Client", answer: _Answer) -> None:
        answer.hash = await client.hash_kv(answer.endpoint, revision=rev)

    answers = _ask_each(settings, cluster, ask)
    for answer in answers:
        if answer.error:
            say(f"Failed to get the hash of endpoint {answer.endpoint} ({answer.error})")
    found = [(answer.endpoint, answer.hash) for answer in answers if answer.hash]
    rows = [[endpoint, str(reply.hash)] for endpoint, reply in found]
    if settings.write_out == "json":
        shown = [{"Endpoint": endpoint, "HashKV": output.json_value(reply)} for endpoint, reply in found]
        write(output.json_line(shown))
    elif settings.write_out == "table":
        write(output.table(("ENDPOINT", "HASH"), rows))
    else:
        write(output.simple_lines(rows))
    return NOT_DONE if any(answer.error for answer in answers) else DONE


def _member_list(settings: Settings) -> int:
    """Show the members of the cluster."""
    from clientctl import output

    reply = with_client(settings, lambda client: client.member_list())
    if settings.write_out == "json":
        write(output.json_line(output.json_value(reply)))
    elif settings.write_out == "table":
        write(output.table(output.MEMBER_HEADINGS, output.member_rows(reply)))
    else:
        write(output.simple_lines(output.member_rows(reply)))
    return DONE


def _version(settings: Settings) -> int:
    """Show the version of this program and of the API it speaks."""
    from importlib.metadata import version as installed_version

    write(f"clientctl version: {installed_version('raftd')}\nAPI version: {API_VERSION}\n".encode())
    return DONE


def _ask_each(
    settings: Settings, cluster: bool, ask: "Callable[[Client, _Answer], Any]"
) -> Sequence[_Answer]:
    """Ask all endpoints at once; answers in the order of the endpoints."""
    import trio

    from clientctl.errors import KeyValueError

    async def one(client: "Client", answer: _Answer) -> None:
        start = trio.current_time()
        try:
            await ask(client, answer)
        except KeyValueError as error:
            answer.error = str(error)
        answer.took_s = trio.current_time() - start

    async def all_of_them(client: "Client") -> Sequence[_Answer]:
        endpoints: Sequence[str] = settings.endpoints
        if cluster:
            members = (await client.member_list()).members
            endpoints = [url for member in members for url in member.clientURLs]
        answers = [_Answer(endpoint) for endpoint in endpoints]
        async with trio.open_nursery() as nursery:
            for answer in answers:
                nursery.start_soon(one, client, answer)
        return answers

    return with_client(settings, all_of_them)
