"""The store against a model of itself: random jobs, restarts and crashes (hazards 1, 2, 29, 30).

The model holds what must be there now, and what must be there after a crash: the two differ by what was
applied and not committed.
"""

import copy
import shutil
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from raftd.core.messages import Entry, HardState
from raftd.store import Completion, WriteTransaction, verify
from tests.store.directories import WriterUnderTest, entry, open_member, put_payload

KEYS = st.sampled_from([b"a", b"b", b"c"])
PAYLOADS = st.builds(lambda key, value: key + b"=" + value, KEYS, st.binary(max_size=20))


@dataclass
class Model:
    """`log` holds the entries after the membership entry."""

    log: list[Entry] = field(default_factory=list)
    hard_state: HardState = field(default_factory=lambda: HardState(1, None))
    applied_index: int = 1
    keys: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def last_index(self) -> int:
        return len(self.log) + 1

    def apply(self, applied: Entry) -> None:
        key, _, value = applied.payload.partition(b"=")
        self.keys[key] = value
        self.applied_index = applied.index


class StoreMachine(RuleBasedStateMachine):
    @initialize()
    def start(self) -> None:
        self.parent = Path(tempfile.mkdtemp())
        self.now = Model()
        self.durable = Model()
        self.refusing = False
        self.open()

    def open(self) -> None:
        self.store = open_member(self.parent / "data")
        self.writer = WriterUnderTest(self.store, self.apply)

    def apply(self, transaction: WriteTransaction, applied: Entry) -> bytes:
        result = put_payload(transaction, applied)
        if self.refusing:
            raise LookupError("crash")
        return result

    def expect_durable(self) -> None:
        reports = self.writer.next_completions()
        assert all(report.durable for report in reports)
        assert reports[-1].durable_applied_index == self.now.applied_index
        self.durable = copy.deepcopy(self.now)

    @rule(payloads=st.lists(PAYLOADS, min_size=1, max_size=4), back=st.integers(0, 3), term=st.integers(0, 2))
    def append(self, payloads: list[bytes], back: int, term: int) -> None:
        """As a follower does: from any place after the applied index."""
        first = max(self.now.applied_index + 1, self.now.last_index + 1 - back)
        term = self.now.hard_state.term + term
        entries = [entry(first + place, payload, term) for place, payload in enumerate(payloads)]
        self.now.hard_state = HardState(term, None)
        self.now.log[first - 2 :] = entries
        self.writer.submit(hard_state=self.now.hard_state, entries=entries)
        self.expect_durable()

    @rule(candidate=st.integers(1, (1 << 64) - 1))
    def vote(self, candidate: int) -> None:
        self.now.hard_state = HardState(self.now.hard_state.term + 1, candidate)
        self.writer.submit(hard_state=self.now.hard_state)
        self.expect_durable()

    @precondition(lambda self: self.now.applied_index < self.now.last_index)
    @rule(count=st.integers(1, 5))
    def apply_some(self, count: int) -> None:
        first = self.now.applied_index - 1
        committed = self.now.log[first : first + count]
        self.writer.submit(committed=committed)
        (report,) = self.writer.next_completions()
        assert report.results == tuple((applied, applied.payload) for applied in committed)
        for applied in committed:
            self.now.apply(applied)

    @rule()
    def flush(self) -> None:
        self.writer.submit(commit_now=True)
        self.expect_durable()

    @rule()
    def restart(self) -> None:
        """An orderly end commits what was applied."""
        self.writer.writer.close()
        self.durable = copy.deepcopy(self.now)
        self.store.close()
        self.open()
        self.check_recovery()

    @rule(payload=PAYLOADS)
    def crash(self, payload: bytes) -> None:
        """In the middle of applying: nothing since the last commit is left."""
        self.refusing = True
        last = entry(self.now.last_index + 1, payload, self.now.hard_state.term)
        doomed = [*self.now.log, last][self.now.applied_index - 1]
        self.writer.submit(hard_state=HardState(1 << 60, 5), entries=[last], committed=[doomed])
        (report,) = self.writer.next_reports()
        assert not isinstance(report, Completion)
        self.refusing = False
        self.writer.writer.close()
        self.store.close()
        self.now = copy.deepcopy(self.durable)
        self.open()
        self.check_recovery()

    def check_recovery(self) -> None:
        recovered = self.store.recover()
        assert recovered.hard_state == self.now.hard_state
        assert recovered.applied_index == recovered.base_index == self.now.applied_index
        assert recovered.entries == self.now.log[self.now.applied_index - 1 :]
        verification = verify(self.store)
        assert verification.problems == ()
        assert verification.log_entries == self.now.last_index
        assert self.store.load_entries(2, 1 << 30) == (1, self.now.log)

    @invariant()
    def readers_see_what_is_durable(self) -> None:
        with self.store.read() as reader:
            assert dict(reader.scan("keys", b"")) == self.durable.keys
            assert reader.applied_index == self.durable.applied_index

    def teardown(self) -> None:
        if hasattr(self, "writer"):
            self.writer.writer.close()
            self.store.close()
            shutil.rmtree(self.parent)


StoreMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestStoreMachine = StoreMachine.TestCase
