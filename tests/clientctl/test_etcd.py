"""`clientctl` beside Debian's `etcdctl`, each on a fresh real etcd: the same commands, the same words."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import trio

from clientctl.client import Client
from clientctl.errors import NotDone
from tests.clientctl.real_etcd import NEEDS_ETCD, START_TIMEOUT_S, Etcd, start_etcd

pytestmark = NEEDS_ETCD

SCRIPT = b"""\
value("a") = "1 2"
mod("a") > "0"

put a "he said \\"hi\\"\\n"
get a
del b --prev-kv
put c 3 --prev-kv
get --prefix "" --keys-only

get a

"""

STEPS: Sequence[tuple[Sequence[str], bytes]] = [
    (["put", "a", "1 2"], b""),
    (["put", "b"], b"from stdin\n"),
    (["put", "a", "1 2", "--prev-kv"], b""),
    (["put", "a", "--ignore-value"], b""),
    (["get", "a"], b""),
    (["get", "absent"], b""),
    (["get", "a", "c"], b""),
    (["get", "", "--prefix"], b""),
    (["get", "", "--prefix", "--keys-only"], b""),
    (["get", "", "--from-key", "--limit=1"], b""),
    (["get", "", "--prefix", "--order=DESCEND", "--sort-by=MODIFY"], b""),
    (["get", "", "--prefix", "--order=ASCEND", "--sort-by=VALUE"], b""),
    (["get", "a", "--rev=2"], b""),
    (["get", "a", "--consistency=s"], b""),
    (["--hex", "get", "a"], b""),
    (["txn"], SCRIPT),
    (["txn"], SCRIPT),
    (["txn"], b"\n\n\n"),
    (["del", "absent"], b""),
    (["del", "", "--prefix", "--prev-kv"], b""),
]


def normalised(value: Any) -> Any:
    """What differs between any two clusters, left out."""
    if isinstance(value, dict):
        return {
            name: normalised(found)
            for name, found in value.items()
            if name not in ("cluster_id", "member_id")
        }
    return [normalised(found) for found in value] if isinstance(value, list) else value


@pytest.mark.parametrize("write_out", ["simple", "json"])
def test_the_same_words_as_etcdctl(both: tuple[Etcd, Etcd], write_out: str) -> None:
    etcdctl, clientctl = both
    for arguments, stdin in STEPS:
        theirs = etcdctl("-w", write_out, *arguments, stdin=stdin)
        ours = clientctl("-w", write_out, *arguments, stdin=stdin)
        assert theirs.returncode == 0, (arguments, theirs)
        assert ours.returncode in (0, 1), (arguments, ours)
        if write_out == "simple":
            assert ours.stdout == theirs.stdout, arguments
        else:
            ours_value, theirs_value = json.loads(ours.stdout), json.loads(theirs.stdout)
            assert normalised(ours_value) == normalised(theirs_value), arguments
            assert list(ours_value) == list(theirs_value), "also in the same order"


def test_values_only(both: tuple[Etcd, Etcd]) -> None:
    for etcd in both:
        etcd("put", "v", stdin=bytes(range(256)))
    first, second = (etcd("get", "v", "--print-value-only").stdout for etcd in both)
    assert first == second == bytes(range(256)) + b"\n"


@pytest.mark.parametrize("arguments", [["endpoint", "status"], ["member", "list"], ["endpoint", "health"]])
def test_cluster_commands_on_one_etcd(both: tuple[Etcd, Etcd], arguments: Sequence[str]) -> None:
    """On the same server this time, so that even sizes and ids agree."""
    etcdctl, _ = both
    clientctl = Etcd(
        etcdctl.endpoint, both[1].tool, {**both[1].environment, "CLIENTCTL_ENDPOINTS": etcdctl.endpoint}
    )
    for write_out in ("table", "json", "simple"):
        ours, theirs = clientctl(*arguments, "-w", write_out), etcdctl(*arguments, "-w", write_out)
        assert (ours.returncode, theirs.returncode) == (0, 0)
        if arguments[-1] == "health":
            # The times differ, and etcdctl 3.4 has its lines on standard error.
            shape = (ours.stdout or ours.stderr).split(b"took")[0].splitlines()[:1]
            assert (
                write_out == "table"
                or shape == (theirs.stdout or theirs.stderr).split(b"took")[0].splitlines()[:1]
            )
        else:
            assert ours.stdout == theirs.stdout


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["get", "absent"], 1),
        (["put", "", "v"], 3),
        (["get", "a", "--rev=1000000"], 3),
        (["put", "absent", "--ignore-value"], 3),
        (["get", "a", "b", "--prefix"], 2),
    ],
)
def test_exit_status_says_more_than_etcdctls(
    both: tuple[Etcd, Etcd], arguments: Sequence[str], status: int
) -> None:
    etcdctl, clientctl = both
    ours, theirs = clientctl(*arguments), etcdctl(*arguments)
    assert (ours.returncode, ours.stdout) == (status, theirs.stdout)
    if theirs.returncode == 1:
        assert ours.stderr.splitlines()[-1] == theirs.stderr.splitlines()[-1]


async def test_the_library_works_against_etcd(both: tuple[Etcd, Etcd]) -> None:
    async with Client([both[1].endpoint]) as client:
        async with trio.open_nursery() as nursery:
            for number in range(100):
                nursery.start_soon(client.put, b"many/%d" % number, b"v")
        assert (await client.get("many/", prefix=True, count_only=True)).count == 100
        assert (await client.delete("many/", prefix=True)).deleted == 100


async def test_an_etcd_that_is_gone_is_certainly_not_done(tmp_path: Path) -> None:
    process, endpoint = start_etcd(tmp_path)
    try:
        async with Client([endpoint], timeout=START_TIMEOUT_S) as client:
            await client.put("k", "v")
            process.kill()
            process.wait()
            with pytest.raises(NotDone):
                await client.get("k", timeout=0.5)
            # By now the connection is known to be gone; a put that died with it would be unknown.
            with pytest.raises(NotDone, match=r"failed to connect|timed out"):
                await client.put("k", "w", timeout=0.5)
    finally:
        process.kill()
        process.wait()
