"""How far a watch has come, over any succession of servers (hazards 40 and 41)."""

from hypothesis import given
from hypothesis import strategies as st

from clientctl.watch_position import WatchPosition
from proto.kv_pb2 import Event, KeyValue
from proto.rpc_pb2 import ResponseHeader, WatchCreateRequest, WatchResponse


def event(revision: int, key: bytes = b"k") -> Event:
    return Event(kv=KeyValue(key=key, mod_revision=revision))


def answer(*events: Event, revision: int = 0, watch_id: int = 1, fragment: bool = False) -> WatchResponse:
    header = ResponseHeader(revision=revision)
    return WatchResponse(header=header, watch_id=watch_id, events=events, fragment=fragment)


def revisions(response: WatchResponse | None) -> list[int]:
    return [] if response is None else [one.kv.mod_revision for one in response.events]


def test_from_now_on_is_what_the_first_server_says() -> None:
    position = WatchPosition(WatchCreateRequest(key=b"k"))
    assert position.create_request(3).start_revision == 0
    position.created(41)
    position.created(7)
    request = position.create_request(4)
    assert (request.start_revision, request.watch_id, request.key) == (42, 4, b"k")


def test_what_was_seen_does_not_come_again() -> None:
    position = WatchPosition(WatchCreateRequest(start_revision=5))
    position.created(99)
    assert revisions(position.take(answer(event(4), event(5), event(6)))) == [5, 6]
    assert position.take(answer(event(5), event(6))) is None
    assert revisions(position.take(answer(event(6), event(7)))) == [7]
    assert position.create_request(1).start_revision == 8


def test_fragments_come_in_one_piece_or_again() -> None:
    """A server lost in the middle of a revision: all of that revision comes from the next (hazard 41)."""
    position = WatchPosition(WatchCreateRequest(start_revision=5))
    assert position.take(answer(event(5, b"a"), fragment=True)) is None
    position.lost()
    assert position.create_request(1).start_revision == 5
    assert position.take(answer(event(5, b"a"), fragment=True)) is None
    whole = position.take(answer(event(5, b"b")))
    assert whole is not None
    assert [one.kv.key for one in whole.events] == [b"a", b"b"]
    # A last fragment without events ends them, too.
    assert position.take(answer(event(6), fragment=True)) is None
    assert revisions(position.take(answer())) == [6]


def test_progress_moves_an_idle_watch() -> None:
    position = WatchPosition(WatchCreateRequest(start_revision=5))
    assert position.take(answer(revision=20)) is not None
    assert position.create_request(1).start_revision == 21


def test_progress_never_goes_back() -> None:
    """A server that lags behind what was seen (hazard 40)."""
    position = WatchPosition(WatchCreateRequest(start_revision=5))
    position.take(answer(event(9)))
    assert position.take(answer(revision=8)) is None
    assert position.take(answer(revision=9)) is not None
    assert position.create_request(1).start_revision == 10


def test_progress_of_a_whole_stream_is_shown_and_not_built_on() -> None:
    """It may be ahead of events that were not sent yet (hazard 41)."""
    position = WatchPosition(WatchCreateRequest(start_revision=5))
    assert position.take(answer(revision=20, watch_id=-1)) is not None
    assert revisions(position.take(answer(event(6)))) == [6]


def test_a_watch_of_the_future_waits_for_it() -> None:
    position = WatchPosition(WatchCreateRequest(start_revision=1000))
    position.created(10)
    assert position.take(answer(revision=11)) is None
    assert position.take(answer(event(12))) is None
    assert position.create_request(1).start_revision == 1000


@given(
    sizes=st.lists(st.integers(1, 3), max_size=12),
    servers=st.lists(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5), st.booleans()), max_size=4)),
)
def test_nothing_is_lost_or_doubled(sizes: list[int], servers: list[list[tuple[int, int, bool]]]) -> None:
    """Each server answers from a little before where it was asked to, in pieces, and is lost somewhere."""
    history = [event(2 + n, b"%d" % item) for n, size in enumerate(sizes) for item in range(size)]
    position = WatchPosition(WatchCreateRequest(start_revision=2))
    seen: list[Event] = []
    for server in servers:
        start = position.create_request(1).start_revision
        for early, count, cut in server:
            events = [one for one in history if start - early <= one.kv.mod_revision < start + count]
            start += count
            pieces = [events[:1], events[1:]] if cut and len(events) > 1 else [events]
            for piece in pieces:
                if piece:
                    news = position.take(answer(*piece, fragment=piece is not pieces[-1]))
                    seen.extend(news.events if news else ())
        position.lost()
    assert seen == history[: len(seen)]
    expected = [one for one in history if one.kv.mod_revision < position.next_revision]
    assert seen == expected
