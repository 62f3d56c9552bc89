"""How a generator reaches a server: by our session stream, or by etcd's unary calls.

Both offer `put` and `get` of one key and raise `OperationFailed` with a text to count. The second works
against etcd as well as against raftd and proxyd.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

import trio

from bench.config import FILL_BATCH_BYTES, FILL_BATCH_KEYS, PROBE_TIMEOUT_S
from bench.keys import KEY_PREFIX, key_at
from bench.workload import Workload
from clientctl.client import Client
from clientctl.endpoints import parse_endpoint
from clientctl.errors import KeyValueError, NotDone
from clientctl.link import KV, SESSION
from clientctl.requests import prefix_end, put_request, range_request, txn_request
from proto import errors
from proto.bridge import Channel, connect
from proto.errors import CODE_NAMES, Status
from proto.rpc_pb2 import PutRequest, PutResponse, RangeRequest, TxnRequest
from proto.session_pb2 import Read, Request
from proto.stream import StreamEnded


class OperationFailed(Exception):
    """`text` names the error as errors are counted. `not_done`: the server surely changed nothing."""

    def __init__(self, text: str, *, not_done: bool = False) -> None:
        super().__init__(text)
        self.text = text
        self.not_done = not_done


class NoServer(Exception):
    """Nobody there with whom the run could be done; the text is one line for the user."""


class Connection(Protocol):
    """One connection to a server, used by any number of clients at once."""

    async def put(self, key: bytes, value: bytes) -> int:
        """Returns the revision. Raises OperationFailed."""

    async def get(self, key: bytes) -> None:
        """Raises OperationFailed."""


class SessionConnection:
    """The client library: one session, one stream, exactly-once writes."""

    def __init__(self, client: Client, workload: Workload) -> None:
        self._client = client
        self._consistency = workload.consistency

    async def put(self, key: bytes, value: bytes) -> int:
        try:
            return (await self._client.put(key, value)).header.revision
        except KeyValueError as error:
            raise _failed(error) from None

    async def get(self, key: bytes) -> None:
        try:
            await self._client.get(key, consistency=self._consistency)
        except KeyValueError as error:
            raise _failed(error) from None


class EtcdConnection:
    """etcd's plain calls. A call is sent once; after one that found no serving server, the next goes to the
    next endpoint, as with a stock client."""

    def __init__(self, channels: Sequence[Channel], workload: Workload) -> None:
        self._channels = channels
        self._timeout_s = workload.timeout_s
        self._serializable = workload.consistency == "serializable"
        self._turn = 0

    async def put(self, key: bytes, value: bytes) -> int:
        turn = self._turn
        channel = self._channels[turn % len(self._channels)]
        try:
            reply: PutResponse = await channel.unary(
                KV["Put"], PutRequest(key=key, value=value), timeout=self._timeout_s
            )
        except Status as status:
            raise self._refused(status, turn) from None
        return reply.header.revision

    async def get(self, key: bytes) -> None:
        turn = self._turn
        request = RangeRequest(key=key, serializable=self._serializable)
        try:
            await self._channels[turn % len(self._channels)].unary(
                KV["Range"], request, timeout=self._timeout_s
            )
        except Status as status:
            raise self._refused(status, turn) from None

    def _refused(self, status: Status, turn: int) -> OperationFailed:
        if status.code in (errors.UNAVAILABLE, errors.DEADLINE_EXCEEDED) and turn == self._turn:
            self._turn += 1
        name = CODE_NAMES[status.code] if 0 <= status.code < len(CODE_NAMES) else f"code {status.code}"
        not_done = status.outcome == errors.NOT_DONE_OUTCOME
        return OperationFailed(f"{name}: {status.text}", not_done=not_done)


def _failed(error: KeyValueError) -> OperationFailed:
    return OperationFailed(str(error), not_done=isinstance(error, NotDone))


def turned_endpoints(workload: Workload) -> Iterator[tuple[str, ...]]:
    """The endpoints for each connection of this process: each begins with another one."""
    for number in range(workload.connections):
        first = (workload.worker + number * workload.workers) % len(workload.endpoints)
        yield workload.endpoints[first:] + workload.endpoints[:first]


@asynccontextmanager
async def open_connections(workload: Workload) -> AsyncIterator[list[Connection]]:
    """As many as the workload says; they begin with different endpoints, as far as there are several."""
    async with AsyncExitStack() as stack:
        opened: list[Connection] = []
        for endpoints in turned_endpoints(workload):
            if workload.protocol == "session":
                client = await stack.enter_async_context(Client(endpoints, timeout=workload.timeout_s))
                opened.append(SessionConnection(client, workload))
            else:
                channels = [
                    await stack.enter_async_context(connect(parse_endpoint(endpoint), isolated=True))
                    for endpoint in endpoints
                ]
                opened.append(EtcdConnection(channels, workload))
        yield opened


@dataclass(frozen=True, slots=True)
class _Probe:
    """What one endpoint answered; `trouble` is empty when it can be used."""

    trouble: str
    is_foreign: bool = False


async def check_endpoints(workload: Workload) -> None:
    """Whether the run can begin. Raises NoServer, if no endpoint serves or one does not know sessions."""
    probes: dict[str, _Probe] = {}

    async def ask(endpoint: str) -> None:
        probes[endpoint] = await _ask(endpoint, workload)

    async with trio.open_nursery() as nursery:
        for endpoint in workload.endpoints:
            nursery.start_soon(ask, endpoint)
    for probe in probes.values():
        if probe.is_foreign:
            raise NoServer(probe.trouble)
    if all(probe.trouble for probe in probes.values()):
        raise NoServer("; ".join(probe.trouble for probe in probes.values()))


async def _ask(endpoint: str, workload: Workload) -> _Probe:
    request = RangeRequest(key=b"health")
    with trio.move_on_after(PROBE_TIMEOUT_S):
        try:
            async with connect(parse_endpoint(endpoint), isolated=True) as channel:
                if workload.protocol == "etcd":
                    await channel.unary(KV["Range"], request)
                    return _Probe("")
                async with channel.stream(SESSION["Stream"]) as stream:
                    await stream.send(Request(reads=[Read(id=1, request=request.SerializeToString())]))
                    answers = await stream.receive_all()
                    for result in answers[0].read_results:
                        if result.code != errors.OK:
                            return _Probe(f"{endpoint} cannot serve: {result.text}")
                    return _Probe("")
        except StreamEnded:
            return _Probe(f"{endpoint} ended the session stream without an answer")
        except Status as status:
            if status.code == errors.UNIMPLEMENTED:
                text = f"{endpoint} does not speak the session protocol (an etcd?); use --protocol etcd"
                return _Probe(text, is_foreign=True)
            return _Probe(f"no server of ours or etcd's at {endpoint}: {status.text}")
    return _Probe(f"{endpoint} did not answer within {PROBE_TIMEOUT_S:g} s")


async def fill(workload: Workload) -> int:
    """Write the keys of the key space unless all are there; how many were written. Raises NoServer."""
    request = range_request(KEY_PREFIX, prefix_end(KEY_PREFIX), count_only=True)
    value = bytes(workload.value_size)
    batch = max(1, min(FILL_BATCH_KEYS, FILL_BATCH_BYTES // max(1, workload.value_size)))
    try:
        # The client library falls back to etcd's calls by itself.
        async with Client(workload.endpoints, timeout=workload.timeout_s) as client:
            if (await client.execute_range(request)).count >= workload.key_space:
                return 0
            for first in range(0, workload.key_space, batch):
                last = min(first + batch, workload.key_space)
                await client.execute_txn(_puts(range(first, last), value))
    except KeyValueError as error:
        raise NoServer(f"the keys to be read could not be written: {error}") from None
    return workload.key_space


def _puts(indexes: range, value: bytes) -> TxnRequest:
    return txn_request([], [put_request(key_at(index), value) for index in indexes])
