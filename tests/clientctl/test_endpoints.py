"""Addresses as users write them, and the order in which they are tried."""

import pytest

from clientctl.config import ClientLimits
from clientctl.endpoints import EndpointChoice, parse_endpoint

LIMITS = ClientLimits(redial_pause_min_s=0.02, redial_pause_max_s=0.1, leader_hints_max=4)


def choice(*addresses: str) -> EndpointChoice:
    return EndpointChoice(addresses, LIMITS, lambda: 1.0)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:2379", "127.0.0.1:2379"),
        (" localhost:1 ", "localhost:1"),
        ("http://127.0.0.1:2379", "127.0.0.1:2379"),
        ("http://127.0.0.1:2379/", "127.0.0.1:2379"),
        ("[::1]:2379", "[::1]:2379"),
        ("http://[::1]:65535", "[::1]:65535"),
    ],
)
def test_endpoints(text: str, address: str) -> None:
    assert parse_endpoint(text) == address


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "HOST:PORT"),
        ("localhost", "HOST:PORT"),
        (":2379", "HOST:PORT"),
        ("a/b:1", "HOST:PORT"),
        ("h:", "not a port"),
        ("h:0", "not a port"),
        ("h:65536", "not a port"),
        ("h:x", "not a port"),
        ("h:١", "not a port"),
        ("::1:2379", "IPv6"),
        ("https://h:1", "credentials"),
        ("ftp://h:1", "unknown scheme"),
        ("unix:///a:1", "not supported"),
    ],
)
def test_not_endpoints(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_endpoint(text)


def test_failures_go_round_at_once_and_pause_after_a_round() -> None:
    """Hazard 95: pauses double up to a bound."""
    endpoints = choice("a:1", "b:1")
    seen = []
    for _ in range(8):
        seen.append((endpoints.current, round(endpoints.on_failure(), 3)))
    assert [address for address, _ in seen] == ["a:1", "b:1"] * 4
    assert [pause for _, pause in seen] == [0, 0.02, 0, 0.04, 0, 0.08, 0, 0.1]


def test_an_answer_makes_the_next_attempt_immediate() -> None:
    endpoints = choice("a:1", "b:1")
    for _ in range(5):
        endpoints.on_failure()
    endpoints.on_served()
    assert endpoints.on_failure() == 0


def test_a_named_leader_is_next_even_if_not_in_the_list() -> None:
    endpoints = choice("a:1", "b:1")
    assert endpoints.on_not_leader(["https://z:1", "http://c:1"]) == 0
    assert endpoints.current == "c:1"
    endpoints.on_failure()
    assert endpoints.current == "b:1"


def test_without_a_named_leader_it_is_a_failure() -> None:
    endpoints = choice("a:1")
    assert endpoints.on_not_leader([]) == pytest.approx(0.02)
    assert endpoints.current == "a:1"


def test_hints_in_a_circle_are_slowed_and_then_ignored() -> None:
    endpoints = choice("a:1", "b:1")
    pauses = [endpoints.on_not_leader(["http://c:1"]) for _ in range(4)]
    assert pauses == pytest.approx([0, 0, 0.02, 0.04])
    endpoints.on_not_leader(["http://c:1"])
    assert endpoints.current != "c:1"
