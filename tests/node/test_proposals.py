"""Grouping of commands into entries, and what becomes of them, against a leader that only counts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import pytest

from proto import errors
from raftd import config
from raftd.core.messages import Entry, EntryKind
from raftd.core.proposal import NotLeader, Overloaded, Proposed
from raftd.core.raft import Raft
from raftd.core.ready import Role
from raftd.kv.command import Outcome, Result, decode_payload
from raftd.proposals import Proposals, Refusal, Submission, refusal_status


@dataclass
class Log:
    """As much of Raft as `Proposals` asks: appends, or refuses."""

    role: Role = Role.LEADER
    term: int = 1
    refusal: NotLeader | Overloaded | None = None
    entries: list[Entry] = field(default_factory=list)

    def propose(self, payload: bytes) -> Proposed | NotLeader | Overloaded:
        if self.refusal is not None:
            return self.refusal
        entry = Entry(len(self.entries) + 1, self.term, EntryKind.COMMANDS, payload)
        self.entries.append(entry)
        return Proposed(entry.index, entry.term)

    @property
    def commands(self) -> list[list[bytes]]:
        return [decode_payload(entry.payload)[1] for entry in self.entries]


class Client:
    """Submits, and keeps what each submission came to."""

    def __init__(self) -> None:
        self.proposals = Proposals()
        self.log = Log()
        self.answers: dict[str, Sequence[Result] | Refusal] = {}

    def submit(self, name: str, *commands: bytes) -> Submission:
        def done(answer: Sequence[Result] | Refusal) -> None:
            assert name not in self.answers, f"{name} is answered twice"
            self.answers[name] = answer

        submission = Submission(commands, sum(map(len, commands)), done)
        self.proposals.add(submission)
        return submission

    def propose(self) -> None:
        self.proposals.propose(cast(Raft, self.log), 7)

    def apply(self, entry: Entry) -> None:
        commands = decode_payload(entry.payload)[1] if entry.kind is EntryKind.COMMANDS else []
        self.proposals.applied(entry, results(*commands))


def results(*bodies: bytes) -> list[Result]:
    return [Result(0, "", body, Outcome.DECIDED, 0, 0) for body in bodies]


@pytest.fixture
def client() -> Iterator[Client]:
    made = Client()
    yield made
    # What is accounted for is returned in the end, whatever happened.
    made.log.role, made.log.refusal = Role.FOLLOWER, NotLeader(None, 9)
    made.propose()
    for entry in made.log.entries:
        made.apply(entry)
    assert len(made.proposals) == 0
    assert made.proposals._bytes == 0


def test_what_gathered_shares_one_entry_in_order(client: Client) -> None:
    client.submit("one", b"1")
    client.submit("two", b"2", b"3")
    client.propose()
    assert client.log.commands == [[b"1", b"2", b"3"]]
    assert not client.answers
    client.apply(client.log.entries[0])
    assert client.answers == {"one": results(b"1"), "two": results(b"2", b"3")}


def test_an_entry_is_bounded_in_bytes(client: Client) -> None:
    half = bytes(config.MAX_ENTRY_BYTES // 2)
    for number in range(5):
        client.submit(str(number), half)
    client.propose()
    assert [len(commands) for commands in client.log.commands] == [2, 2, 1]


def test_an_entry_is_bounded_in_commands(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "MAX_ENTRY_COMMANDS", 3)
    client.submit("one", b"1", b"2")
    client.submit("two", b"3", b"4")
    client.submit("three", b"5")
    client.propose()
    assert client.log.commands == [[b"1", b"2"], [b"3", b"4", b"5"]]


def test_a_larger_command_travels_alone(client: Client) -> None:
    large = bytes(config.MAX_ENTRY_BYTES + 1)
    client.submit("before", b"1")
    client.submit("large", large)
    client.submit("after", b"2")
    client.propose()
    assert client.log.commands == [[b"1"], [large], [b"2"]]


def test_several_commands_never_make_a_larger_entry(client: Client) -> None:
    """Hazard 90: an entry of several commands could exceed what a link carries, for ever."""
    with pytest.raises(AssertionError, match="do not fit into an entry"):
        client.submit("too many bytes", bytes(config.MAX_ENTRY_BYTES), b"1")
    with pytest.raises(AssertionError, match="do not fit into an entry"):
        client.submit("too many", *[b""] * (config.MAX_ENTRY_COMMANDS + 1))


def test_a_follower_refuses_at_once(client: Client) -> None:
    client.log.role, client.log.refusal = Role.FOLLOWER, NotLeader(2, 1)
    client.submit("one", b"1")
    client.submit("two", b"2")
    client.propose()
    assert client.answers == {"one": Refusal.NOT_LEADER, "two": Refusal.NOT_LEADER}
    assert len(client.proposals) == 0


@pytest.mark.parametrize("refusal", [NotLeader(None, 1), Overloaded(5)])
def test_what_a_leader_cannot_take_now_waits(client: Client, refusal: NotLeader | Overloaded) -> None:
    """While leadership is handed over, and while too much waits for a majority."""
    client.log.refusal = refusal
    client.submit("one", b"1")
    client.propose()
    assert not client.answers
    client.log.refusal = None
    client.propose()
    assert client.log.commands == [[b"1"]]


def test_an_entry_of_another_term_overwrites(client: Client) -> None:
    """§5.3, hazard 87: another entry at the index, and the command surely never happened."""
    client.submit("lost", b"1")
    client.propose()
    client.apply(Entry(1, 2, EntryKind.NOOP, b""))
    assert client.answers == {"lost": Refusal.OVERWRITTEN}
    assert len(client.proposals) == 0


@pytest.mark.parametrize("survivor", [1, 3])
def test_two_terms_may_wait_for_one_index(client: Client, survivor: int) -> None:
    """A leader lost its entry uncommitted, leads again and proposes at that index: neither is decided."""
    client.submit("old", b"1")
    client.propose()
    (old,) = client.log.entries
    client.log.entries.clear()
    client.log.term = 3
    client.submit("new", b"2")
    client.propose()
    (new,) = client.log.entries
    assert old.index == new.index
    assert not client.answers
    client.apply(old if survivor == 1 else new)
    decided, lost = ("old", "new") if survivor == 1 else ("new", "old")
    assert client.answers == {decided: results(b"1" if survivor == 1 else b"2"), lost: Refusal.OVERWRITTEN}


def test_what_was_not_proposed_can_be_withdrawn(client: Client) -> None:
    """Hazard 92: a caller whose time is over gets a certain answer, and its command costs nothing more."""
    client.log.refusal = Overloaded(5)
    early = client.submit("early", b"1")
    client.submit("other", b"2")
    client.propose()
    assert client.proposals.withdraw(early)
    client.log.refusal = None
    client.propose()
    assert client.log.commands == [[b"2"]]
    assert not client.proposals.withdraw(early)
    assert "early" not in client.answers


def test_what_was_proposed_cannot_be_withdrawn(client: Client) -> None:
    submission = client.submit("one", b"1")
    client.propose()
    assert not client.proposals.withdraw(submission)
    client.apply(client.log.entries[0])
    assert client.answers == {"one": results(b"1")}


@pytest.mark.parametrize(("bound", "value"), [("MAX_PENDING_COMMANDS", 3), ("MAX_PENDING_BYTES", 6)])
def test_too_much_is_refused_and_forgotten(
    client: Client, monkeypatch: pytest.MonkeyPatch, bound: str, value: int
) -> None:
    """Hazard 95: load is shed before the log, and accepted again once there is room."""
    monkeypatch.setattr(config, bound, value)
    client.submit("one", b"11", b"22")
    client.submit("two", b"33")
    client.submit("too much", b"44")
    assert client.answers == {"too much": Refusal.OVERLOADED}
    client.propose()
    client.apply(client.log.entries[0])
    client.submit("again", b"44")
    client.propose()
    client.apply(client.log.entries[1])
    assert client.answers["again"] == results(b"44")
    assert client.log.commands == [[b"11", b"22", b"33"], [b"44"]]


def test_too_few_results_are_noticed(client: Client) -> None:
    client.submit("one", b"1")
    client.propose()
    with pytest.raises(AssertionError, match="gave 2 results for 1 commands"):
        client.proposals.applied(client.log.entries[0], results(b"1", b"2"))


@pytest.mark.parametrize("refusal", Refusal)
def test_every_refusal_is_surely_not_done(refusal: Refusal) -> None:
    status = refusal_status(refusal)
    assert status.outcome == errors.NOT_DONE_OUTCOME
    assert status.text.startswith("etcdserver: ")
