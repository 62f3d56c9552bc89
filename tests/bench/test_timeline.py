"""When what happened, from log lines and writes."""

import json
from datetime import UTC, datetime
from pathlib import Path

from bench.probe import Write
from bench.timeline import LogFollower, change_after, first_success_after, longest_gap, parse

FAULT = 1_700_000_000.0


def line(after_ms: float, event: str, **fields: object) -> bytes:
    moment = datetime.fromtimestamp(FAULT + after_ms / 1000, UTC).isoformat()
    return json.dumps({"event": event, "timestamp": moment, **fields}).encode()


def role(after_ms: float, name: str, term: int) -> bytes:
    return line(after_ms, "role changed", role=name, term=term)


def table(after_ms: float, term: int) -> bytes:
    return line(after_ms, "leader changed", leader="n2", term=term, address="127.0.0.1:1")


def change(
    lines: list[tuple[str, bytes]], old_leader: str = "n1", old_term: int = 3
) -> list[float | None] | None:
    events = [event for process, text in lines if (event := parse(process, text)) is not None]
    found = change_after(events, FAULT, old_leader, old_term)
    if found is None:
        return None
    moments = [found.detected, found.elected, max(found.tables.values(), default=None)]
    return [None if at is None else round((at - FAULT) * 1000, 3) for at in moments]


def test_a_change_is_split_into_its_parts() -> None:
    lines = [
        ("n2", role(-500, "leader", 3)),
        ("n3", line(4, "peer down", peer="ab")),
        ("n2", role(20, "pre-candidate", 3)),
        ("n2", role(25, "candidate", 4)),
        ("n2", role(31, "leader", 4)),
        ("n3", line(32, "leader changed", role="follower", term=4, leader="ab")),
        ("p1", line(5, "no leader", term=3)),
        ("p1", table(33, 4)),
        ("p2", table(40, 4)),
    ]
    assert change(lines) == [20, 31, 40]


def test_the_leader_that_lasted_counts() -> None:
    lines = [
        ("n2", role(20, "leader", 4)),
        ("p1", table(22, 4)),
        ("n3", role(90, "leader", 5)),
        ("p1", table(95, 5)),
    ]
    assert change(lines) == [20, 90, 95]


def test_the_old_leader_does_not_detect_its_own_end() -> None:
    """A paused leader wakes up, and steps down."""
    lines = [
        ("n1", role(1, "candidate", 3)),
        ("n2", role(20, "pre-candidate", 3)),
        ("n2", role(30, "leader", 4)),
    ]
    assert change(lines) == [20, 30, None]


def test_without_a_new_leader_there_is_no_change() -> None:
    assert change([("n2", role(20, "pre-candidate", 3)), ("n2", role(30, "leader", 3))]) is None
    assert change([]) is None


def test_lines_of_other_programs_are_left_out() -> None:
    for text in (b"Traceback (most recent call last):", b"{}", b"[1]", b'{"timestamp": "soon"}', b"\xff"):
        assert parse("n1", text) is None


def test_a_log_is_followed_line_by_line(tmp_path: Path) -> None:
    path = tmp_path / "n1.log"
    path.write_bytes(role(0, "leader", 1) + b"\n")
    follower = LogFollower("n1", path)
    new = role(10, "follower", 2) + b"\n"
    with path.open("ab") as log:
        log.write(new[:20])
        log.flush()
        follower.read()
        assert follower.events == []
        log.write(new[20:])
    follower.read()
    follower.read()
    assert [event.fields["term"] for event in follower.events] == [2]


def test_gaps_and_successes_are_those_of_acknowledged_writes() -> None:
    writes = [Write(b"k", b"", 0.0, ended, revision=1) for ended in (0.8, 1.0, 3.5, 3.6, 9.0)]
    writes.append(Write(b"k", b"", 0.0, 2.0, error="failed"))
    assert longest_gap(writes, since=3.0) == (3.6, 9.0)
    assert longest_gap(writes[:4], since=3.0) == (1.0, 3.5)
    assert longest_gap(writes[:1], since=0.0) is None
    assert first_success_after(writes, 1.5) == 3.5
    assert first_success_after(writes, 10.0) is None
