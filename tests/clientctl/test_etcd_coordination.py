"""Watches, leases, locks and elections beside etcdctl's, and those of the library on a real etcd."""

import json
import re
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from clientctl.client import Client
from clientctl.errors import Compacted, KeyValueError, LeaseLost
from clientctl.watch import Watch
from tests.clientctl.real_etcd import (
    NEEDS_ETCD,
    START_TIMEOUT_S,
    Etcd,
    free_ports,
    start_etcd,
    until_it_serves,
)
from tests.clientctl.test_etcd import normalised

pytestmark = NEEDS_ETCD

Both = tuple[Etcd, Etcd]


def alike(output: bytes, write_out: str) -> Any:
    """What differs between any two clusters and any two moments, left out."""
    if write_out == "json":
        return [without_ids(normalised(json.loads(line))) for line in output.splitlines()]
    text = re.sub(rb"\b[0-9a-f]{13,16}\b", b"ID", output)
    return re.sub(rb"remaining\(\d+s\)", b"remaining", text)


def without_ids(value: Any) -> Any:
    if isinstance(value, dict):
        # A lease stands in the keys of locks, too. Its time left changes by the second.
        hidden = {"ID", "id", "lease", "ttl"} | ({"key"} if "lease" in value else set())
        return {name: name if name in hidden else without_ids(found) for name, found in value.items()}
    return [without_ids(found) for found in value] if isinstance(value, list) else value


def both_say(both: Both, write_out: str, *arguments: str) -> tuple[bytes, bytes]:
    """Run on both; they must succeed and say the same."""
    theirs, ours = (etcd("-w", write_out, *arguments) for etcd in both)
    assert (theirs.returncode, ours.returncode) == (0, 0), (theirs, ours)
    assert alike(ours.stdout, write_out) == alike(theirs.stdout, write_out), arguments
    return theirs.stdout, ours.stdout


def lines_of(etcd: Etcd, count: int, *arguments: str, stdin: bytes = b"") -> bytes:
    """The first lines of a command that does not end by itself."""
    with subprocess.Popen(
        [*etcd.tool, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=etcd.environment,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(stdin)
        process.stdin.flush()
        found = b"".join(process.stdout.readline() for _ in range(count))
        process.send_signal(signal.SIGINT)
        return found + process.stdout.read()


def both_show(both: Both, write_out: str, count: int, *arguments: str, stdin: bytes = b"") -> None:
    theirs, ours = (lines_of(etcd, count, "-w", write_out, *arguments, stdin=stdin) for etcd in both)
    assert theirs
    assert alike(ours, write_out) == alike(theirs, write_out), arguments


def on_one(both: Both) -> Both:
    """Both tools on the first server."""
    return both[0], Etcd(both[0].endpoint, both[1].tool, {**both[1].environment, **endpoint_of(both[0])})


def lease_of(etcd: Etcd, ttl: int = 300) -> str:
    """Granted in one and the same way, so that both histories are alike."""
    return etcd("lease", "grant", str(ttl)).stdout.split()[1].decode()


def revisions(both: Both) -> tuple[int, int]:
    first, second = (json.loads(etcd("get", "x", "-w", "json").stdout)["header"]["revision"] for etcd in both)
    return first, second


@pytest.fixture
def level(both: Both) -> int:
    """Both stores at one revision, which is returned: what is shown has revisions in it."""
    while (found := revisions(both))[0] != found[1]:
        both[found[0] > found[1]]("put", "level", "x")
    return found[0]


@pytest.mark.parametrize("write_out", ["simple", "json"])
def test_leases(both: Both, level: int, write_out: str) -> None:
    both_say(both, write_out, "lease", "grant", "100")
    leases = [lease_of(etcd) for etcd in both]
    for etcd, lease in zip(both, leases, strict=True):
        # One key: of several, etcd gives each time another order.
        assert etcd("put", "leased", "v", "--lease", lease).stdout == b"OK\n"
    for arguments in (["timetolive"], ["timetolive", "--keys"], ["keep-alive", "--once"], ["revoke"]):
        theirs, ours = (
            etcd("-w", write_out, "lease", *arguments, lease)
            for etcd, lease in zip(both, leases, strict=True)
        )
        assert (theirs.returncode, ours.returncode) == (0, 0), arguments
        assert alike(ours.stdout, write_out) == alike(theirs.stdout, write_out), arguments

    theirs, ours = (tool("-w", write_out, "lease", "list") for tool in on_one(both))
    assert alike(ours.stdout, write_out) == alike(theirs.stdout, write_out)
    theirs, ours = (etcd("-w", write_out, "lease", "timetolive", "123") for etcd in both)
    assert alike(ours.stdout, write_out) == alike(theirs.stdout, write_out)
    theirs, ours = (etcd("-w", write_out, "lease", "keep-alive", "123") for etcd in both)
    assert alike(ours.stdout, write_out) == alike(theirs.stdout, write_out)
    assert ours.returncode == 1


@pytest.mark.parametrize("write_out", ["simple", "json"])
def test_keeping_a_lease_alive(both: Both, write_out: str) -> None:
    theirs, ours = (
        lines_of(etcd, 2, "-w", write_out, "lease", "keep-alive", lease_of(etcd, 2)) for etcd in both
    )
    assert alike(ours, write_out) == alike(theirs, write_out)


@pytest.mark.parametrize("write_out", ["simple", "json"])
def test_watches(both: Both, level: int, write_out: str) -> None:
    for etcd in both:
        for value in ("1", "2 \x01é"):
            etcd("put", "w", value)
        etcd("del", "w")
        etcd("put", "w1", "x")
    since = f"--rev={level + 1}"
    one = write_out == "json"
    both_show(both, write_out, 1 if one else 9, "watch", since, "w")
    both_show(both, write_out, 1 if one else 13, "watch", since, "w", "--prev-kv")
    both_show(both, write_out, 1 if one else 12, "watch", since, "--prefix", "w")
    both_show(both, write_out, 1 if one else 3, "watch", since, "w1", "w2")
    both_show(both, write_out, 1 if one else 9, "watch", "-i", stdin=f"no\nwatch {since} w\n".encode())


def test_hexadecimal_events(both: Both, level: int) -> None:
    for etcd in both:
        etcd("put", "w", "1")
    both_show(both, "simple", 3, "watch", f"--rev={level + 1}", "w", "--hex")


def test_a_command_for_each_event(both: Both, level: int) -> None:
    for etcd in both:
        etcd("put", "w", 'a "b"\\\n\u00a0\u2028')
        etcd("del", "w")
    shell = 'echo "$ETCD_WATCH_EVENT_TYPE $ETCD_WATCH_KEY $ETCD_WATCH_VALUE $ETCD_WATCH_REVISION"'
    both_show(both, "simple", 10, "watch", f"--rev={level + 1}", "w", "--", "sh", "-c", shell)


def test_a_command_that_fails_ends_the_watch(both: Both, level: int) -> None:
    for etcd in both:
        etcd("put", "w", "1")
    arguments = ("watch", f"--rev={level + 1}", "w", "--", "sh", "-c", "exit 3")
    theirs, ours = (etcd(*arguments) for etcd in both)
    assert (ours.returncode, ours.stdout, ours.stderr) == (1, theirs.stdout, theirs.stderr)
    assert theirs.returncode == 1


@pytest.mark.parametrize("write_out", ["simple", "json"])
def test_lock_and_elect(both: Both, level: int, write_out: str) -> None:
    """Interrupted, they let go: the second one would wait for the first otherwise."""
    one = write_out == "json"
    for _ in range(2):
        both_show(both, write_out, 1 if one else 2, "lock", "L")
        both_show(both, write_out, 1 if one else 2, "elect", "E", "me")
    shell = 'test -n "$ETCD_LOCK_KEY" && echo "$ETCD_LOCK_REV"'
    both_say(both, "simple", "lock", "L", "--ttl", "5", "--", "sh", "-c", shell)
    both_say(both, "simple", "lock", "L", "echo", "held")


def test_exit_status_of_a_lock(both: Both) -> None:
    etcd = both[1]
    assert etcd("lock", "L", "--", "sh", "-c", "exit 7").returncode == 7
    assert etcd("lock", "L", "--", "/nonexistent").returncode == 127
    with subprocess.Popen([*etcd.tool, "lock", "L"], stdout=subprocess.PIPE, env=etcd.environment) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline().startswith(b"L/")
        holder.terminate()
        assert holder.wait() == 0


@pytest.mark.parametrize("write_out", ["simple", "json"])
def test_listening_to_an_election(both: Both, level: int, write_out: str) -> None:
    for etcd in both:
        with subprocess.Popen(
            [*etcd.tool, "elect", "E", "me"], stdout=subprocess.PIPE, env=etcd.environment
        ) as leader:
            assert leader.stdout is not None
            leader.stdout.readline()
            leader.send_signal(signal.SIGSTOP)
            try:
                ours, theirs = (
                    lines_of(
                        Etcd(etcd.endpoint, tool.tool, {**tool.environment, **endpoint_of(etcd)}),
                        1 if write_out == "json" else 2,
                        *("-w", write_out, "elect", "-l", "E"),
                    )
                    for tool in both
                )
            finally:
                leader.send_signal(signal.SIGCONT)
                leader.terminate()
        assert ours == theirs


def endpoint_of(etcd: Etcd) -> dict[str, str]:
    return {"ETCDCTL_ENDPOINTS": etcd.endpoint, "CLIENTCTL_ENDPOINTS": etcd.endpoint}


def test_compaction_and_hashes(both: Both, level: int) -> None:
    for etcd in both:
        etcd("put", "c", "1")
        etcd("put", "c", "2")
    both_say(both, "simple", "compaction", str(level + 1))
    both_say(both, "simple", "compaction", str(level + 2), "--physical")
    for write_out in ("table", "json", "simple"):
        theirs, ours = (tool("endpoint", "hashkv", "-w", write_out) for tool in on_one(both))
        assert ours.stdout == theirs.stdout


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["lease", "revoke", "123"], 3),
        (["lease", "keep-alive", "--once", "123"], 3),
        (["lease", "grant", "99999999999"], 3),
        (["lease", "grant", "x"], 2),
        (["lease", "timetolive", "xyz"], 2),
        (["put", "k", "v", "--lease", "77"], 3),
        (["put", "k", "v", "--lease", "zz"], 2),
        (["compaction", "99999999"], 3),
        (["compaction"], 2),
        (["endpoint", "hashkv", "--rev=99999999"], 3),
        (["watch", "z", "a"], 3),
        (["watch"], 2),
        (["elect", "E"], 2),
        (["elect", "-l", "E", "v"], 2),
        (["lock"], 2),
    ],
)
def test_what_is_refused(both: Both, arguments: Sequence[str], status: int) -> None:
    theirs, ours = (etcd(*arguments) for etcd in both)
    assert (ours.returncode, ours.stdout) == (status, theirs.stdout)
    assert theirs.returncode != 0
    if status == 3 and arguments[0] not in ("watch", "endpoint"):
        said = re.search(rb"etcdserver: .*?(?=\)?$)", theirs.stderr)
        assert said is not None
        assert said[0] in ours.stderr


# The library


async def test_put_with_a_time(both: Both) -> None:
    async with Client([both[1].endpoint]) as client:
        await client.put("t", "v", ttl=100)
        lease = (await client.get("t")).kvs[0].lease
        left = await client.lease_time_to_live(lease, keys=True)
        assert (left.grantedTTL, list(left.keys)) == (100, [b"t"])
        await client.put("t", "w", ignore_lease=True)
        assert (await client.get("t")).kvs[0].lease == lease
        await client.lease_revoke(lease)
        assert (await client.get("t")).count == 0


async def test_a_lock_is_held_by_one(both: Both) -> None:
    """Five clients, each a connection of its own; the fencing token grows."""
    inside: list[int] = []
    tokens: list[int] = []

    async def contend(number: int) -> None:
        async with Client([both[1].endpoint]) as client:
            for _ in range(5):
                async with client.lock("contended", ttl=10) as lock:
                    inside.append(number)
                    tokens.append(lock.revision)
                    assert (await client.txn([lock.held])).succeeded
                    assert inside == [number]
                    inside.remove(number)

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(contend, number)
    assert len(tokens) == 25
    assert tokens == sorted(tokens)


async def test_a_waiter_that_gives_up_leaves_no_key(both: Both) -> None:
    async with Client([both[1].endpoint]) as client, client.lock("given-up"):
        async with client.lease(10) as lease:
            with trio.move_on_after(0.2) as scope:
                async with client.lock("given-up", lease=lease):
                    raise AssertionError("two hold it")
            assert scope.cancelled_caught
            assert (await client.get("given-up/", prefix=True)).count == 1


async def test_a_lock_whose_lease_is_revoked_is_lost(both: Both) -> None:
    async def lose(client: Client) -> None:
        async with client.lock("lost", ttl=2) as lock:
            await client.lease_revoke(lock.lease.id)
            await trio.sleep_forever()

    async with Client([both[1].endpoint]) as client:
        with pytest.raises(LeaseLost):
            await lose(client)


async def test_an_election(both: Both) -> None:
    async with Client([both[1].endpoint]) as client, Client([both[0].endpoint]) as elsewhere:
        election = client.election("office", ttl=10)
        assert await election.leader() is None
        assert await elsewhere.election("office").leader() is None
        elected = trio.Event()

        async def second() -> None:
            async with client.election("office", ttl=10).campaign("second"):
                elected.set()

        with election.observe() as observation:
            async with trio.open_nursery() as nursery:
                async with election.campaign("first") as leadership:
                    assert (await observation.__anext__()).value == b"first"
                    nursery.start_soon(second)
                    await leadership.proclaim("still first")
                    assert (await observation.__anext__()).value == b"still first"
                    leader = await election.leader()
                    assert leader is not None
                    assert leader.key == leadership.key
                    assert not elected.is_set()
                await elected.wait()
        assert await election.leader() is None


async def test_a_watch_outlives_its_server(tmp_path: Path) -> None:
    """SIGKILL and start again under load: the events are the history, neither less nor twice (hazard 41)."""
    ports = free_ports(2)
    process, endpoint = start_etcd(tmp_path, ports)
    seen: list[bytes] = []

    async def follow(watch: Watch) -> None:
        async for event in watch:
            seen.append(event.kv.value)
            if event.kv.value == b"end":
                break

    try:
        await until_it_serves(endpoint)
        async with Client([endpoint], timeout=START_TIMEOUT_S) as client:
            async with client.watch("w") as watch, trio.open_nursery() as nursery:
                nursery.start_soon(follow, watch)
                for number in range(300):
                    if number % 100 == 50:
                        process.kill()
                        process.wait()
                        process, _ = start_etcd(tmp_path, ports)
                    await put_until_done(client, b"%d" % number)
                await put_until_done(client, b"end")
            history = [
                (await client.get("w", revision=revision)).kvs[0].value
                for revision in range(2, (await client.get("w")).kvs[0].mod_revision + 1)
            ]
            # Nothing after the end, which may have been written more than once.
            assert seen == history[: len(seen)]
            assert set(history[len(seen) :]) <= {b"end"}
            await client.compact((await client.get("w")).header.revision)
            with pytest.raises(Compacted):
                await client.watch("w", start_revision=1).receive()
    finally:
        process.kill()
        process.wait()


async def put_until_done(client: Client, value: bytes) -> None:
    """Perhaps more than once: a write that dies with its server is unknown."""
    while True:
        try:
            await client.put("w", value)
        except KeyValueError:
            continue
        return
