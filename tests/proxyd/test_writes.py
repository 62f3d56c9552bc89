"""Writes of stock clients through a proxy: to the leader, whoever leads, and exactly once."""

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from proto import errors
from proto.errors import NOT_DONE_OUTCOME, UNKNOWN_OUTCOME, Status
from proto.limits import REQUEST_BYTES_MAX
from proto.options import RECEIVE_BYTES
from proto.rpc_pb2 import PutRequest
from proto.session_pb2 import Command, Request, Result
from proxyd import config
from tests.proxyd.conftest import Setting


async def test_a_put_goes_to_the_leader_alone(autojump_clock: MockClock, setting: Setting) -> None:
    reply = await setting.put(b"k")
    assert reply.header.member_id == 1
    assert len(setting.cluster.executed) == 1
    assert not setting.cluster.nodes[2].batches
    assert not setting.cluster.nodes[3].batches


async def test_unary_callers_share_one_session(autojump_clock: MockClock, setting: Setting) -> None:
    puts = [setting.start(setting.put, b"k%d" % i) for i in range(50)]
    for put in puts:
        await put.wait()
    assert len(setting.cluster.sessions) == 1
    assert len(setting.cluster.executed) == 50


async def test_a_full_session_is_followed_by_the_next(
    autojump_clock: MockClock, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(config, "SESSION_OPERATIONS", 4)
    await setting.put(b"first")
    setting.cluster.nodes[1].deaf = True
    puts = [setting.start(setting.put, b"k%d" % i) for i in range(10)]
    await wait_all_tasks_blocked()
    setting.cluster.nodes[1].deaf = False
    setting.cluster.nodes[1].break_sessions()
    for put in puts:
        await put.wait()
    assert len(setting.cluster.sessions) == 3
    assert len(setting.cluster.executed) == 11


async def test_a_write_waits_for_a_new_leader(autojump_clock: MockClock, setting: Setting) -> None:
    """SIGKILL of the leader: the client sees a delay, not an error."""
    setting.cluster.nodes[1].kill()
    put = setting.start(setting.put, b"k")
    await trio.sleep(0.7)
    assert not put.done.is_set()
    setting.cluster.elect(2, term=2, told=(2, 3))
    assert (await put.wait()).header.member_id == 2
    assert len(setting.cluster.executed) == 1


async def test_a_change_of_leader_is_acted_on_at_once(autojump_clock: MockClock, setting: Setting) -> None:
    """What waits for a leader goes on without any pause once the table is told."""
    setting.cluster.nodes[1].kill()
    setting.cluster.elect(0, term=1, told=(2, 3))
    put = setting.start(setting.put, b"k")
    await trio.sleep(0.5)
    setting.cluster.elect(3, term=2, told=(3,))
    before = trio.current_time()
    await put.wait()
    assert trio.current_time() == before


async def test_resent_to_the_new_leader_under_the_same_number(
    autojump_clock: MockClock, setting: Setting
) -> None:
    """Hazard 87: executed, but the reply was lost with the leader: the number makes the resend harmless."""
    await setting.put(b"first")
    setting.cluster.nodes[1].forgets_replies = True
    put = setting.start(setting.put, b"k")
    await setting.until(lambda: len(setting.cluster.executed) == 2)
    setting.cluster.nodes[1].kill()
    setting.cluster.elect(2, term=2, told=(2, 3))
    await put.wait()
    assert len(setting.cluster.executed) == 2
    resent = [command for batch in setting.cluster.nodes[2].batches for command in batch.commands]
    assert [(command.sequence, command.kind) for command in resent] == [(2, Command.PUT)]


async def test_a_redirected_write_follows_the_table(autojump_clock: MockClock, setting: Setting) -> None:
    """The old leader says that it leads no more before the table says who does."""
    setting.cluster.nodes[1].leader = 0
    put = setting.start(setting.put, b"k")
    await trio.sleep(0.3)
    assert setting.cluster.nodes[1].batches
    assert not put.done.is_set()
    setting.cluster.elect(2, term=2)
    assert (await put.wait()).header.member_id == 2
    assert len(setting.cluster.executed) == 1


async def test_a_leader_that_neither_answers_nor_leads_is_not_hammered(
    autojump_clock: MockClock, setting: Setting
) -> None:
    """Hazard 95: while the table is behind, the redirected stream is retried with a pause."""
    for node in setting.cluster.nodes.values():
        node.muted = True
    setting.cluster.nodes[1].leader = 2
    dials = setting.cluster.nodes[1].dials
    put = setting.start(setting.put, b"k", 0.3)
    with pytest.raises(Status):
        await put.wait()
    assert setting.cluster.nodes[1].dials - dials <= 5


async def test_a_stuck_leader_loses_its_commands_to_the_next(
    autojump_clock: MockClock, setting: Setting
) -> None:
    """A partitioned leader keeps its stream to us open but commits nothing; the highest term wins."""
    await setting.put(b"first")
    setting.cluster.nodes[1].deaf = True
    put = setting.start(setting.put, b"k")
    await trio.sleep(0.4)
    setting.cluster.elect(3, term=2, told=(2, 3))
    assert (await put.wait()).header.member_id == 3


async def test_without_a_leader_the_deadline_ends_a_write(autojump_clock: MockClock, bare: Setting) -> None:
    """Hazard 92: 20 ms before the caller's deadline, so that the answer arrives; it is surely not done."""
    put = bare.start(bare.put, b"k", 2.0)
    with pytest.raises(Status) as raised:
        await put.wait()
    assert (raised.value.code, raised.value.text) == errors.NO_LEADER
    assert raised.value.outcome == NOT_DONE_OUTCOME
    assert put.took_s == pytest.approx(1.98, abs=0.006)


async def test_without_a_deadline_a_write_waits_as_long_as_in_etcd(
    autojump_clock: MockClock, bare: Setting
) -> None:
    """At most 5 s + 2 election timeouts."""
    put = bare.start(bare.put, b"k")
    with pytest.raises(Status) as raised:
        await put.wait()
    assert (raised.value.code, raised.value.text) == errors.NO_LEADER
    assert put.took_s == pytest.approx(5.6, abs=0.01)


async def test_an_unanswered_write_is_unknown_at_its_deadline(
    autojump_clock: MockClock, setting: Setting
) -> None:
    """Hazard 87: sent, never answered: nobody can say."""
    await setting.put(b"first")
    setting.cluster.nodes[1].forgets_replies = True
    put = setting.start(setting.put, b"k", 1.0)
    with pytest.raises(Status) as raised:
        await put.wait()
    assert (raised.value.code, raised.value.text) == errors.TIMEOUT
    assert raised.value.outcome == UNKNOWN_OUTCOME
    assert len(setting.cluster.executed) == 2


async def test_hasleader_refuses_instead_of_waiting(autojump_clock: MockClock, bare: Setting) -> None:
    with pytest.raises(Status) as raised:
        await bare.put(b"k", metadata={"hasleader": "true"})
    assert (raised.value.code, raised.value.text) == errors.NO_LEADER
    assert raised.value.outcome == NOT_DONE_OUTCOME


async def test_errors_of_raftd_pass_unchanged(autojump_clock: MockClock, setting: Setting) -> None:
    code, text = errors.KEY_NOT_PROVIDED

    def refuse(session: int, command: Command) -> Result | None:
        return Result(code=code, text=text) if command.kind == Command.PUT else None

    setting.cluster.refusal = refuse
    with pytest.raises(Status) as raised:
        await setting.put(b"")
    assert (raised.value.code, raised.value.text) == errors.KEY_NOT_PROVIDED
    assert raised.value.outcome == NOT_DONE_OUTCOME


async def test_too_many_writes_are_refused_at_once(
    autojump_clock: MockClock, setting: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hazard 95: what is pending is bounded, and what is refused is surely not done."""
    monkeypatch.setattr(config, "SESSION_OPERATIONS", 2)
    monkeypatch.setattr(config, "MAX_OWN_SESSIONS", 2)
    await setting.put(b"first")
    setting.cluster.nodes[1].deaf = True
    puts = [setting.start(setting.put, b"k%d" % i, 1.0) for i in range(4)]
    await wait_all_tasks_blocked()
    with pytest.raises(Status) as raised:
        await setting.put(b"one more")
    assert (raised.value.code, raised.value.text) == errors.TOO_MANY_REQUESTS
    assert raised.value.outcome == NOT_DONE_OUTCOME
    for put in puts:
        with pytest.raises(Status):
            await put.wait()


async def test_a_client_that_leaves_takes_its_unsent_write_along(
    autojump_clock: MockClock, bare: Setting
) -> None:
    """Hazard 92: work does not go on for a caller that is gone."""
    put = bare.start(bare.put, b"k")
    await trio.sleep(0.2)
    put.scope.cancel()
    await put.done.wait()
    bare.cluster.elect(1, term=1)
    await bare.put(b"other")
    assert [request for _, _, request in bare.cluster.executed if b"other" not in request] == []


async def test_an_expired_session_is_replaced(autojump_clock: MockClock, setting: Setting) -> None:
    """Sent exactly once and not known to the state: surely not done, so it may run under a new session."""
    await setting.put(b"first")
    setting.cluster.sessions.clear()
    await setting.put(b"k")
    assert len(setting.cluster.executed) == 2


async def test_closing_ends_the_sessions(autojump_clock: MockClock, setting: Setting) -> None:
    await setting.put(b"first")
    await setting.proxy.close()
    kinds = [command.kind for batch in setting.cluster.nodes[1].batches for command in batch.commands]
    assert kinds == [Command.REGISTER, Command.PUT, Command.CLOSE]


@pytest.mark.parametrize("kind", ["put", "get"])
async def test_what_is_too_large_is_refused_at_once(
    autojump_clock: MockClock, setting: Setting, kind: str
) -> None:
    """Hazard 90: what fits into our message limit as it is does not once it is wrapped; a node would end the
    stream, and everybody's operations with it, again and again."""
    for size in (REQUEST_BYTES_MAX, RECEIVE_BYTES - 4):
        with pytest.raises(Status) as raised:
            await (setting.put if kind == "put" else setting.get)(bytes(size))
        assert (raised.value.code, raised.value.text) == errors.REQUEST_TOO_LARGE
        assert raised.value.outcome == (NOT_DONE_OUTCOME if kind == "put" else None)
    assert not setting.cluster.sessions
    assert not any(node.reads for node in setting.cluster.nodes.values())


async def test_the_largest_request_passes(autojump_clock: MockClock, setting: Setting) -> None:
    overhead = PutRequest(key=bytes(REQUEST_BYTES_MAX), value=b"v").ByteSize() - REQUEST_BYTES_MAX
    await setting.put(bytes(REQUEST_BYTES_MAX - overhead))
    (batch,) = [batch for batch in setting.cluster.nodes[1].batches if batch.session]
    assert len(batch.commands[0].request) == REQUEST_BYTES_MAX
    assert Request(batches=[batch]).ByteSize() < RECEIVE_BYTES
