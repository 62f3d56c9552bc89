"""A follower's question to the leader may take longer than the interval after which it is repeated."""

from raftd.core.reads import ForwardedReads


def test_a_late_answer_still_answers() -> None:
    """Two round trips lie in an answer. Dropping it for the sake of its repetition would starve reads for
    ever wherever that takes longer than the interval (hazard 35)."""
    forwarded = ForwardedReads(max_pending=10, max_rounds=1, first_nonce=100)
    assert forwarded.add(7)
    first = forwarded.ask(term=3, now=0, retry_ticks=10, expiry_ticks=60)
    assert first is not None
    (second,) = forwarded.retry(term=3, now=10, retry_ticks=10)
    assert second.nonce != first.nonce
    assert forwarded.answered(first.nonce) == [7]
    assert forwarded.answered(second.nonce) == []
    assert forwarded.next_due_tick() is None
    assert forwarded.add(8)
    assert forwarded.ask(term=3, now=11, retry_ticks=10, expiry_ticks=60) is not None


def test_an_expired_question_is_forgotten_under_all_its_nonces() -> None:
    forwarded = ForwardedReads(max_pending=10, max_rounds=1, first_nonce=100)
    assert forwarded.add(7)
    first = forwarded.ask(term=3, now=0, retry_ticks=10, expiry_ticks=60)
    assert first is not None
    (second,) = forwarded.retry(term=3, now=10, retry_ticks=10)
    assert forwarded.expire(now=60) == [7]
    assert forwarded.answered(first.nonce) == []
    assert forwarded.answered(second.nonce) == []
