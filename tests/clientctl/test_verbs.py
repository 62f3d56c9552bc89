"""What the verbs of history and coordination do without a server, and which way their requests take."""

import os
import subprocess
import sys

import pytest
from trio.testing import MockClock

from clientctl.client import Client
from clientctl.errors import InvalidRequest
from clientctl.main import run
from clientctl.verbs_watch import quoted
from proto import errors
from proto.rpc_pb2 import LeaseGrantRequest, LeaseGrantResponse
from proto.session_pb2 import Command, Reply, Request, Result
from tests.clientctl.servers import Network, Node, Store


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (b"plain", '"plain"'),
        (b'"\\', r'"\"\\"'),
        (b"\a\b\t\n\v\f\r\x00\x7f", r'"\a\b\t\n\v\f\r\x00\x7f"'),
        ("é€😀".encode(), '"é€😀"'),
        (b"\xff\xc3", r'"\xff\xc3"'),
        ("\u00a0\u2028\U000e0001".encode(), r'"\u00a0\u2028\U000e0001"'),
    ],
)
def test_bytes_as_go_quotes_them(text: bytes, expected: str) -> None:
    assert quoted(text) == expected


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(shell: str, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert run(["completion", shell]) == 0
    assert b"_CLIENTCTL_COMPLETE" in capfdbinary.readouterr().out


def test_what_is_completed() -> None:
    variables = {"_CLIENTCTL_COMPLETE": "bash_complete", "COMP_WORDS": "clientctl lease k", "COMP_CWORD": "2"}
    done = subprocess.run(
        [sys.executable, "-m", "clientctl"], env={**os.environ, **variables}, capture_output=True, check=False
    )
    assert done.stdout == b"plain,keep-alive\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["watch"],
        ["watch", "a", "b", "c"],
        ["watch", "a", "b", "--prefix"],
        ["watch", "a", "-w", "table"],
        ["watch", "a", "--rev=-1"],
        ["lease"],
        ["lease", "list", "-w", "table"],
        ["lease", "revoke", "0x12"],
        ["lease", "revoke", "8000000000000000"],
        ["put", "k", "v", "--ttl", "0"],
        ["put", "k", "v", "--ttl", "5", "--lease", "1"],
        ["put", "k", "v", "--ignore-lease", "--lease", "1"],
        ["compaction", "x"],
        ["completion", "tcsh"],
    ],
)
def test_wrong_usage(arguments: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    assert run(arguments) == 2
    assert capfd.readouterr().out == ""


def client_of(node: Node) -> Client:
    return Client(["n1:1"], dial=Network({"n1:1": node}).dial)


async def test_leases_and_compaction_go_over_the_session_stream(autojump_clock: MockClock) -> None:
    """Numbered, and so executed once however often they are sent (hazard 87)."""
    kinds: list[int] = []

    class Listening(Node):
        def answer(self, request: Request) -> Reply:
            for batch in request.batches:
                kinds.extend(command.kind for command in batch.commands)
            return super().answer(request)

    node = Listening(Store())
    async with client_of(node) as client:
        await client.put("k", "v")
        grant = await client.lease_grant(60, lease_id=7)
        assert (grant.ID, grant.TTL) == (7, 60)
        await client.put("k", "w", lease=7)
        await client.compact(3)
        await client.lease_revoke(7)
        assert (await client.get("k")).count == 0
        with pytest.raises(InvalidRequest, match="requested lease not found"):
            await client.lease_revoke(7)
    for kind in (Command.LEASE_GRANT, Command.LEASE_REVOKE, Command.COMPACT):
        assert kind in kinds


async def test_a_session_stream_without_leases(autojump_clock: MockClock) -> None:
    """What it does not take goes as etcd's own call."""

    class Older(Node):
        def answer(self, request: Request) -> Reply:
            reply = Reply()
            for batch in request.batches:
                for command in list(batch.commands):
                    if command.kind == Command.LEASE_GRANT:
                        batch.commands.remove(command)
                        reply.results.append(
                            Result(
                                session=batch.session,
                                sequence=command.sequence,
                                code=errors.UNIMPLEMENTED,
                                outcome=Result.NOT_DONE,
                            )
                        )
            reply.MergeFrom(super().answer(request))
            return reply

        def unary(self, method: str, request: object) -> LeaseGrantResponse:
            assert isinstance(request, LeaseGrantRequest)
            return LeaseGrantResponse(ID=request.ID, TTL=request.TTL)

    async with client_of(Older(Store())) as client:
        assert (await client.lease_grant(60, lease_id=7)).TTL == 60
