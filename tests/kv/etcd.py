"""A real etcd of one member on loopback, in a directory of its own, called through plain synchronous gRPC."""

import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

import grpc
from google.protobuf.message import Message

from proto import rpc_pb2
from proto.errors import Status

INSTALL_LINE = "apt-get install etcd-server"
START_S = 30.0
CALL_S = 30.0

_METHODS: dict[type[Message], tuple[str, type[Message]]] = {
    rpc_pb2.RangeRequest: ("Range", rpc_pb2.RangeResponse),
    rpc_pb2.PutRequest: ("Put", rpc_pb2.PutResponse),
    rpc_pb2.DeleteRangeRequest: ("DeleteRange", rpc_pb2.DeleteRangeResponse),
    rpc_pb2.TxnRequest: ("Txn", rpc_pb2.TxnResponse),
}


def available() -> bool:
    return shutil.which("etcd") is not None


def _free_ports() -> tuple[int, int]:
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        return first.getsockname()[1], second.getsockname()[1]


class RealEtcd:
    """`with RealEtcd() as etcd: etcd.call(request)`; raises Status as etcd answers it."""

    def __init__(self) -> None:
        memory = Path("/dev/shm")
        self._directory = tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None)
        client_port, peer_port = _free_ports()
        client, peer = f"http://127.0.0.1:{client_port}", f"http://127.0.0.1:{peer_port}"
        # etcd's log goes to a file: a full pipe would stop it.
        self._log_path = Path(self._directory.name, "log")
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *("etcd", "--data-dir", str(Path(self._directory.name, "data"))),
                    *("--listen-client-urls", client, "--advertise-client-urls", client),
                    *("--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer),
                    *("--initial-cluster", f"default={peer}"),
                ],
                stdout=log,
                stderr=log,
            )
        self._channel = grpc.insecure_channel(f"127.0.0.1:{client_port}")

    def __enter__(self) -> "RealEtcd":
        self.call(rpc_pb2.RangeRequest(key=b"ready"), timeout_s=START_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._channel.close()
        self._process.terminate()
        self._process.wait()
        self._directory.cleanup()

    def call(self, request: Message, timeout_s: float = CALL_S) -> Message:
        method, response_type = _METHODS[type(request)]
        call: grpc.UnaryUnaryMultiCallable[Message, Message] = self._channel.unary_unary(
            f"/etcdserverpb.KV/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=response_type.FromString,
        )
        try:
            response = call(request, timeout=timeout_s, wait_for_ready=True)
        except grpc.RpcError as error:
            if self._process.poll() is not None:
                last = self._log_path.read_text(errors="replace")[-2000:]
                raise AssertionError(f"etcd ended with {self._process.returncode}: {last}") from error
            raise Status(error.code().value[0], error.details() or "") from error
        return response
