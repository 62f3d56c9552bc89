"""How much history is kept, and that the leader goes on with every compaction."""

from pathlib import Path

import pytest
from trio.testing import MockClock

from proto import errors, rpc_pb2, session_pb2
from raftd.compactor import Compactor
from raftd.kv.limits import LIMITS
from raftd.proposals import Refusal
from raftd.retention import KeepPeriod, KeepRevisions, Retention, retention
from tests.node.harness import Nodes, running_nodes, submit

Kind = session_pb2.Command.Kind


def test_revisions_are_kept() -> None:
    keep = KeepRevisions(100)
    assert [keep.target(0, revision) for revision in (1, 100, 101, 1000)] == [0, 0, 1, 900]


def test_a_period_is_kept() -> None:
    keep = KeepPeriod(100)
    assert keep.interval_s == 10
    targets = [keep.target(second, second) for second in range(0, 200, 10)]
    assert targets == [0] * 10 + list(range(0, 100, 10))


@pytest.mark.parametrize(
    ("mode", "value", "interval_s"),
    [
        ("periodic", "1", 360),
        ("periodic", "90m", 540),
        ("periodic", "1h30m", 540),
        ("periodic", "1s500ms", 0.15),
        ("revision", "1000", 300),
    ],
)
def test_values_as_in_etcd(mode: str, value: str, interval_s: float) -> None:
    found = retention(mode, value)
    assert found is not None
    assert found.interval_s == pytest.approx(interval_s)


@pytest.mark.parametrize(("mode", "value"), [("periodic", "0"), ("periodic", "0s"), ("revision", "0")])
def test_nothing_is_compacted_by_itself(mode: str, value: str) -> None:
    assert retention(mode, value) is None


@pytest.mark.parametrize(
    ("mode", "value"), [("periodic", "x"), ("periodic", "-1"), ("periodic", "5x"), ("revision", "5m")]
)
def test_bad_values(mode: str, value: str) -> None:
    with pytest.raises(ValueError, match=r"duration|revisions"):
        retention(mode, value)


async def write(nodes: Nodes, count: int) -> None:
    leader = await nodes.leader()
    for number in range(count):
        request = rpc_pb2.PutRequest(key=b"k", value=b"%d" % number).SerializeToString()
        assert not isinstance(await submit(leader, Kind.PUT, request), Refusal)


@pytest.mark.parametrize("keep", [KeepRevisions(3), KeepPeriod(10)])
async def test_the_leader_compacts_by_itself(
    tmp_path: Path, autojump_clock: MockClock, keep: Retention
) -> None:
    keep.interval_s = 1.0
    async with running_nodes(tmp_path) as nodes:
        for node in nodes.all:
            nodes.start_soon(Compactor(node, keep).run)
        await write(nodes, 10)
        await nodes.until(lambda: all(node.compacted_revision >= 8 for node in nodes.all))


async def test_a_new_leader_goes_on_with_a_compaction(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with running_nodes(tmp_path) as nodes:
        await write(nodes, LIMITS.compaction_step_rows + 10)
        leader = await nodes.leader()
        request = rpc_pb2.CompactionRequest(revision=leader.revision).SerializeToString()
        answer = await submit(leader, Kind.COMPACT, request)
        assert not isinstance(answer, Refusal)
        assert answer[0].code == errors.OK
        assert leader.compaction_pending
        for node in nodes.all:
            nodes.start_soon(Compactor(node, None).run)
        await nodes.until(lambda: not any(node.compaction_pending for node in nodes.all))
