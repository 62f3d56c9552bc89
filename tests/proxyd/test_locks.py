"""Lock and Election through the proxy: carried to the leader, and on to the next where that is harmless."""

import math
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from proto import errors
from proto.election_pb2 import LeaderRequest, LeaderResponse
from proto.errors import Status
from proto.kv_pb2 import KeyValue
from proto.lock_pb2 import LockRequest
from proto.service import Handler
from proto.stream import in_memory_pair
from tests.proxyd.conftest import FakeCall, Setting


def call() -> Any:
    return FakeCall(math.inf)


def handler(setting: Setting, service: str, method: str) -> Handler:
    (found,) = [it for it in setting.proxy.locks.services() if it.name == service]
    answer = found.methods[method][1]
    assert answer is not None
    return answer


async def test_a_lock_waits_as_long_as_it_takes_over_a_change_of_leader(
    autojump_clock: MockClock, setting: Setting
) -> None:
    setting.cluster.nodes[1].deaf = True
    setting.cluster.nodes[2].unary_replies["Lock"] = lambda request: b"locked"
    request = LockRequest(name=b"l", lease=7).SerializeToString()
    lock = setting.start(handler(setting, "v3lockpb.Lock", "Lock"), request, call())
    await trio.sleep(100)
    assert not lock.done.is_set()
    setting.cluster.nodes[1].kill()
    setting.cluster.elect(2, term=2, told=(2, 3))
    assert await lock.wait() == b"locked"


async def test_a_lock_without_a_lease_is_not_asked_for_twice(
    autojump_clock: MockClock, setting: Setting
) -> None:
    setting.cluster.nodes[1].deaf = True
    request = LockRequest(name=b"l").SerializeToString()
    lock = setting.start(handler(setting, "v3lockpb.Lock", "Lock"), request, call())
    await trio.sleep(1)
    setting.cluster.nodes[1].kill()
    with pytest.raises(Status) as raised:
        await lock.wait()
    assert raised.value.code == errors.UNAVAILABLE


async def test_other_errors_are_the_leaders_own(autojump_clock: MockClock, setting: Setting) -> None:
    def refuse(request: bytes) -> bytes:
        raise Status(errors.UNKNOWN, "election: not leader")

    setting.cluster.nodes[1].unary_replies["Proclaim"] = refuse
    with pytest.raises(Status) as raised:
        await handler(setting, "v3electionpb.Election", "Proclaim")(b"", call())
    assert raised.value.text == "election: not leader"


async def test_observers_are_shown_nothing_twice(autojump_clock: MockClock, setting: Setting) -> None:
    ours, theirs = in_memory_pair()
    theirs.deadline = math.inf  # type: ignore[attr-defined]
    setting.cluster.observed = [LeaderResponse(kv=KeyValue(mod_revision=revision)) for revision in (3, 5)]
    setting.start(setting.proxy.locks.observe, LeaderRequest(name=b"e"), theirs)
    await wait_all_tasks_blocked()
    setting.cluster.observed = [LeaderResponse(kv=KeyValue(mod_revision=revision)) for revision in (5, 8)]
    setting.cluster.nodes[1].kill()
    setting.cluster.elect(2, term=2, told=(2, 3))
    seen: list[int] = []
    while len(seen) < 3:
        seen += [response.kv.mod_revision for response in await ours.receive_all()]
    assert seen == [3, 5, 8]
