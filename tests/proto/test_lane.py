"""What passes between the threads: nothing lost, nothing doubled, bounded, and only those woken who wait."""

import threading
from collections.abc import Callable

import pytest
import trio

from proto.lane import Inbox, Lane, LaneClosed


class Wakes:
    def __init__(self) -> None:
        self.reader = self.writer = 0

    def lane(self, message_limit: int = 4, bytes_limit: int = 1000) -> Lane:
        return Lane(self._reader, self._writer, message_limit=message_limit, bytes_limit=bytes_limit)

    def _reader(self) -> None:
        self.reader += 1

    def _writer(self) -> None:
        self.writer += 1


def test_messages_come_out_in_order() -> None:
    lane = Wakes().lane()
    assert all(lane.offer(message) for message in (b"1", b"2", b"3"))
    assert lane.take() == b"1"
    assert lane.take_all() == [b"2", b"3"]
    assert lane.take() is None
    assert lane.take_all() == []


def test_only_a_reader_that_waits_is_woken_and_only_once() -> None:
    wakes = Wakes()
    lane = wakes.lane()
    lane.offer(b"1")
    assert wakes.reader == 0
    assert lane.take_all() == [b"1"]
    assert lane.take_all() == []
    lane.offer(b"2")
    lane.offer(b"3")
    assert wakes.reader == 1


def test_a_full_lane_refuses_and_wakes_its_writer_when_half_is_gone() -> None:
    wakes = Wakes()
    lane = wakes.lane(message_limit=4)
    for message in (b"1", b"2", b"3", b"4"):
        assert lane.offer(message, will_wait=True)
    assert not lane.offer(b"5", will_wait=True)
    lane.take()
    assert wakes.writer == 0
    lane.take()
    assert wakes.writer == 1
    lane.take()
    assert wakes.writer == 1


def test_a_writer_that_will_not_wait_is_not_woken() -> None:
    wakes = Wakes()
    lane = wakes.lane(message_limit=1)
    assert lane.offer(b"1")
    assert not lane.offer(b"2")
    assert lane.take_all() == [b"1"]
    assert wakes.writer == 0


def test_bytes_are_bounded_too_but_one_message_of_any_size_passes() -> None:
    lane = Wakes().lane(message_limit=100, bytes_limit=10)
    assert lane.offer(b"x" * 50)
    assert not lane.offer(b"y")
    assert lane.take() == b"x" * 50
    assert lane.offer(b"y" * 9)
    assert lane.offer(b"z")
    assert not lane.offer(b"")


def test_what_is_inside_a_closed_lane_may_still_be_taken() -> None:
    wakes = Wakes()
    lane = wakes.lane()
    lane.offer(b"1")
    lane.close()
    with pytest.raises(LaneClosed):
        lane.offer(b"2")
    assert lane.take() == b"1"
    with pytest.raises(LaneClosed):
        lane.take()
    with pytest.raises(LaneClosed):
        lane.take_all()


def test_discarding_empties_the_lane() -> None:
    lane = Wakes().lane()
    lane.offer(b"1")
    lane.close(discard=True)
    with pytest.raises(LaneClosed):
        lane.take_all()


def test_closing_wakes_both_ends_if_they_wait() -> None:
    wakes = Wakes()
    lane = wakes.lane(message_limit=1)
    lane.take()
    lane.close()
    lane.close()
    assert (wakes.reader, wakes.writer) == (1, 0)
    wakes = Wakes()
    lane = wakes.lane(message_limit=1)
    lane.offer(b"1")
    lane.offer(b"2", will_wait=True)
    lane.close()
    assert (wakes.reader, wakes.writer) == (0, 1)


@pytest.mark.parametrize("one_by_one", [True, False])
def test_two_threads_lose_nothing(one_by_one: bool) -> None:
    """A missed wake-up would leave one of them waiting; the bound turns that into a failure."""
    arrival, room = threading.Event(), threading.Event()
    lane = Lane(arrival.set, room.set, message_limit=8, bytes_limit=10_000)
    sent = [str(number).encode() for number in range(20_000)]

    def write() -> None:
        for message in sent:
            room.clear()
            while not lane.offer(message, will_wait=True):
                assert room.wait(30)
                room.clear()
        lane.close()

    writer = threading.Thread(target=write)
    writer.start()
    got: list[bytes] = []

    def read() -> None:
        while True:
            arrival.clear()
            message = lane.take() if one_by_one else None
            messages = ([] if message is None else [message]) if one_by_one else lane.take_all()
            assert messages or arrival.wait(30)
            got.extend(messages)

    with pytest.raises(LaneClosed):
        read()
    writer.join(30)
    assert got == sent


def test_the_first_callback_rings_and_the_rest_ride_along() -> None:
    rung: list[object] = []
    inbox = Inbox(rung.append)
    ran: list[int] = []
    inbox.post(lambda: ran.append(1))
    inbox.post(lambda: ran.append(2))
    assert len(rung) == 1
    inbox.run()
    assert ran == [1, 2]
    inbox.post(lambda: ran.append(3))
    assert len(rung) == 2


def test_a_callback_that_posts_again_waits_for_its_turn() -> None:
    rung: list[object] = []
    inbox = Inbox(rung.append)
    ran: list[int] = []

    def again() -> None:
        ran.append(len(ran))
        inbox.post(again)

    inbox.post(again)
    inbox.run()
    inbox.run()
    assert ran == [0, 1]
    assert len(rung) == 3


async def test_an_interrupt_cannot_come_between_a_callback_and_its_ring() -> None:
    """Ctrl-C raises KeyboardInterrupt between any two lines of a task, but not here: the inbox would count as
    rung for ever, and nobody would come (hazard 82)."""
    protected: list[bool] = []

    def ring(run: Callable[[], None]) -> None:
        protected.append(trio.lowlevel.currently_ki_protected())

    assert not trio.lowlevel.currently_ki_protected()
    Inbox(ring).post(lambda: None)
    lane = Lane(lambda: ring(lambda: None), lambda: None, message_limit=4, bytes_limit=1000)
    assert lane.take() is None
    assert lane.offer(b"message")
    assert protected == [True, True]
