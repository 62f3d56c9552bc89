"""Credentials pass through, and a handler knows who calls (security: peers identify each other by
certificate)."""

import shutil
import subprocess
from pathlib import Path

import grpc
import pytest
import trio

from proto import rpc_pb2
from proto.bridge import connect, serve
from proto.errors import UNAVAILABLE, Status
from tests.proto.service import BOUND_S, UNARY, Host


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is missing; this brings it: sudo apt-get install openssl")
    directory = tmp_path_factory.mktemp("certificates")

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=directory, check=True, capture_output=True, timeout=BOUND_S)

    new = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2")
    run("req", "-x509", *new, "-keyout", "ca.key", "-out", "ca.crt", "-subj", "/CN=test authority")
    for name in ("server", "client"):
        run("req", *new, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        (directory / "names").write_text("subjectAltName=IP:127.0.0.1,DNS:localhost")
        ca = ("-CA", "ca.crt", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names", "-days", "2")
        run("x509", "-req", "-in", f"{name}.csr", *ca, "-out", f"{name}.crt")
    return directory


def read(directory: Path, name: str) -> bytes:
    return (directory / name).read_bytes()


async def test_mutual_tls(certificates: Path) -> None:
    ca = read(certificates, "ca.crt")
    serving = grpc.ssl_server_credentials(
        [(read(certificates, "server.key"), read(certificates, "server.crt"))], ca, require_client_auth=True
    )
    calling = grpc.ssl_channel_credentials(
        ca, read(certificates, "client.key"), read(certificates, "client.crt")
    )
    host = Host()
    with trio.fail_after(BOUND_S):
        async with trio.open_nursery() as nursery:

            async def listen(task_status: trio.TaskStatus[list[int]]) -> None:
                await serve(["127.0.0.1:0"], host.services(), credentials=serving, task_status=task_status)

            [port] = await nursery.start(listen)
            async with connect(f"127.0.0.1:{port}", credentials=calling, isolated=True) as channel:
                await channel.unary(UNARY, rpc_pb2.PutRequest(key=b"do"))
            [call] = host.calls
            assert call.identity["x509_common_name"] == (b"client",)
            for credentials in (None, grpc.ssl_channel_credentials(ca)):
                async with connect(f"127.0.0.1:{port}", credentials=credentials, isolated=True) as stranger:
                    with pytest.raises(Status) as failure:
                        await stranger.unary(UNARY, rpc_pb2.PutRequest(key=b"do"))
                    assert failure.value.code == UNAVAILABLE
            assert len(host.calls) == 1
            nursery.cancel_scope.cancel()
