"""A real etcd of one member on loopback, in a directory of its own, called through plain synchronous gRPC."""

import queue
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType

import grpc
from google.protobuf.message import Message

from proto import kv_pb2, rpc_pb2
from proto.errors import Status
from raftd.kv.events import Compacted

INSTALL_LINE = "apt-get install etcd-server"
START_S = 30.0
CALL_S = 30.0

_METHODS: dict[type[Message], tuple[str, type[Message]]] = {
    rpc_pb2.RangeRequest: ("KV/Range", rpc_pb2.RangeResponse),
    rpc_pb2.PutRequest: ("KV/Put", rpc_pb2.PutResponse),
    rpc_pb2.DeleteRangeRequest: ("KV/DeleteRange", rpc_pb2.DeleteRangeResponse),
    rpc_pb2.TxnRequest: ("KV/Txn", rpc_pb2.TxnResponse),
    rpc_pb2.CompactionRequest: ("KV/Compact", rpc_pb2.CompactionResponse),
    rpc_pb2.LeaseGrantRequest: ("Lease/LeaseGrant", rpc_pb2.LeaseGrantResponse),
    rpc_pb2.LeaseRevokeRequest: ("Lease/LeaseRevoke", rpc_pb2.LeaseRevokeResponse),
    rpc_pb2.LeaseTimeToLiveRequest: ("Lease/LeaseTimeToLive", rpc_pb2.LeaseTimeToLiveResponse),
    rpc_pb2.LeaseLeasesRequest: ("Lease/LeaseLeases", rpc_pb2.LeaseLeasesResponse),
    rpc_pb2.HashKVRequest: ("Maintenance/HashKV", rpc_pb2.HashKVResponse),
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
            f"/etcdserverpb.{method}",
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

    def watch(self, create: rpc_pb2.WatchCreateRequest, last_revision: int) -> list[kv_pb2.Event]:
        """The events of a watch up to and with those of `last_revision`, at which there must be one. Raises
        Compacted."""
        asked: queue.SimpleQueue[rpc_pb2.WatchRequest | None] = queue.SimpleQueue()
        asked.put(rpc_pb2.WatchRequest(create_request=create))
        method: grpc.StreamStreamMultiCallable[rpc_pb2.WatchRequest, rpc_pb2.WatchResponse] = (
            self._channel.stream_stream(
                "/etcdserverpb.Watch/Watch",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=rpc_pb2.WatchResponse.FromString,
            )
        )
        responses = method(iter(asked.get, None), timeout=CALL_S)
        events: list[kv_pb2.Event] = []
        try:
            for response in responses:
                if response.compact_revision:
                    raise Compacted(response.compact_revision)
                assert not response.canceled, response
                events += response.events
                if events and events[-1].kv.mod_revision >= last_revision:
                    return events
        finally:
            responses.cancel()
            asked.put(None)
        raise AssertionError("etcd ended a watch")
