"""The in-memory pair keeps the promises of `MessageStream`, which the tests of node and proxy rely on."""

import pytest
import trio
import trio.testing

from proto.errors import Status
from proto.stream import MessageStream, StreamEnded, in_memory_pair


async def test_both_ends_are_message_streams() -> None:
    ends: tuple[MessageStream, MessageStream] = in_memory_pair({"sender": "1"})
    assert [dict(end.metadata) for end in ends] == [{}, {"sender": "1"}]


async def test_what_arrived_is_received_at_once_and_in_order() -> None:
    here, there = in_memory_pair()
    for message in (1, 2, 3):
        await here.send(message)
    assert await there.receive_all() == [1, 2, 3]
    await there.send("back")
    assert await here.receive_all() == ["back"]


async def test_the_receiver_waits_for_the_first_message(autojump_clock: trio.testing.MockClock) -> None:
    here, there = in_memory_pair()
    with trio.move_on_after(1) as scope:
        await there.receive_all()
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:

        async def receive() -> None:
            assert await there.receive_all() == ["late"]

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        await here.send("late")


async def test_a_full_stream_holds_back_its_sender(autojump_clock: trio.testing.MockClock) -> None:
    here, there = in_memory_pair(message_limit=2)
    assert here.offer(1)
    await here.send(2)
    assert not here.offer(3)
    with trio.move_on_after(1) as scope:
        await here.send(3)
    assert scope.cancelled_caught
    async with trio.open_nursery() as nursery:
        nursery.start_soon(here.send, 3)
        await trio.testing.wait_all_tasks_blocked()
        assert await there.receive_all() == [1, 2]
        assert await there.receive_all() == [3]


async def test_half_closing_ends_one_direction() -> None:
    here, there = in_memory_pair()
    await here.send(1)
    here.close_sending()
    assert await there.receive_all() == [1]
    with pytest.raises(StreamEnded):
        await there.receive_all()
    await there.send(2)
    assert await here.receive_all() == [2]
    with pytest.raises(AssertionError, match="after close_sending"):
        await here.send(3)


@pytest.mark.parametrize("error", [None, Status(14, "gone", "unknown")])
async def test_the_end_comes_after_what_was_sent_and_to_both(error: Status | None) -> None:
    here, there = in_memory_pair()
    await here.send(1)
    here.close(error)
    assert await there.receive_all() == [1]
    for end in (here, there):
        with pytest.raises(StreamEnded if error is None else Status) as caught:
            await end.receive_all()
        if isinstance(caught.value, Status):
            assert (caught.value.code, caught.value.text, caught.value.outcome) == (14, "gone", "unknown")
        with pytest.raises(type(caught.value)):
            await end.send(2)
        with pytest.raises(type(caught.value)):
            end.offer(2)


async def test_the_end_wakes_those_who_wait() -> None:
    here, there = in_memory_pair(message_limit=1)
    await here.send(1)

    async def ends(waiting: object) -> None:
        with pytest.raises(StreamEnded):
            await waiting  # type: ignore[misc]

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ends, here.send(2))
        nursery.start_soon(ends, here.receive_all())
        await trio.testing.wait_all_tasks_blocked()
        there.close()
