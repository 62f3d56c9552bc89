"""Group commit, the order of reports, and what becomes visible when."""

import threading
from pathlib import Path

import pytest

from raftd.core.messages import Entry, HardState
from raftd.store import Completion, WriteTransaction
from tests.store.directories import entry, open_member, put_payload, write, writing


def test_applied_results_are_reported_before_the_commit(tmp_path: Path) -> None:
    """A lone put waits for one sync: the result is out while readers still see the state before it."""
    with open_member(tmp_path / "data") as store:
        write(store, entry(2, b"a=1"), entry(3, b"b=2"), applied=False)
        with writing(store) as writer:
            job = writer.submit(committed=[entry(2, b"a=1")])
            (applied,) = writer.next_completions()
            assert applied == Completion(job, ((entry(2, b"a=1"), b"a=1"),), False, 2, 1)
            with store.read() as reader:
                assert reader.get("keys", b"a") is None
                assert reader.applied_index == 1
            flush = writer.submit(commit_now=True)
            durable = writer.next_completions()
            assert durable == [Completion(job, (), True, 2, 2), Completion(flush, (), True, 2, 2)]
            with store.read() as reader:
                assert reader.get("keys", b"a") == b"1"
                assert reader.applied_index == 2


def test_group_commit_takes_all_that_arrived_meanwhile(tmp_path: Path) -> None:
    """Three jobs that arrive while the first is being applied share one commit."""
    entered, leave = threading.Event(), threading.Event()

    def gated(transaction: WriteTransaction, applied: Entry) -> bytes:
        if applied.index == 2:
            entered.set()
            leave.wait()
        return put_payload(transaction, applied)

    with open_member(tmp_path / "data") as store, writing(store, apply=gated) as writer:
        first = writer.submit(entries=[entry(2)], committed=[entry(2)])
        entered.wait()
        others = [writer.submit(entries=[entry(index)]) for index in (3, 4, 5)]
        leave.set()
        assert [report.durable for report in writer.next_completions()] == [False]
        assert [report.job for report in writer.next_completions()] == [first]
        assert [(report.job, report.durable) for report in writer.next_completions()] == [
            (job, True) for job in others
        ]


def test_a_commit_comes_by_itself_when_only_entries_were_applied(tmp_path: Path) -> None:
    with open_member(tmp_path / "data") as store:
        write(store, entry(2, b"a=1"), applied=False)
        with writing(store, apply_commit_delay_ms=0) as writer:
            writer.submit(committed=[entry(2, b"a=1")])
            assert [report.durable for report in writer.next_completions()] == [False]
            assert [report.durable for report in writer.next_completions()] == [True]


def test_one_thread_writes_whoever_submits(tmp_path: Path) -> None:
    """Hazard 68: an LMDB write transaction that changes threads corrupts its mutex."""
    seen: set[str] = set()

    def look(transaction: WriteTransaction, applied: Entry) -> bytes:
        seen.add(threading.current_thread().name)
        return put_payload(transaction, applied)

    with open_member(tmp_path / "data") as store, writing(store, apply=look) as writer:
        for index in range(2, 6):
            job = {"entries": [entry(index)], "committed": [entry(index)]}
            thread = threading.Thread(target=writer.submit, kwargs=job)
            thread.start()
            thread.join()
            writer.next_completions()
            writer.next_completions()
    assert seen == {"store-writer"}


def test_a_transaction_that_left_its_thread_is_an_assertion(tmp_path: Path) -> None:
    """Hazard 68."""
    errors: list[BaseException] = []

    def commit() -> None:
        try:
            store.commit(transaction)
        except AssertionError as error:
            errors.append(error)

    with open_member(tmp_path / "data") as store:
        transaction = store.begin_write()
        thread = threading.Thread(target=commit)
        thread.start()
        thread.join()
        transaction.lmdb.abort()
    assert len(errors) == 1


def test_jobs_without_content_are_durable_after_those_before_them(tmp_path: Path) -> None:
    with open_member(tmp_path / "data") as store, writing(store) as writer:
        job = writer.submit(token="empty")
        assert writer.next_completions() == [Completion(job, (), True, 1, 1)]


def test_close_commits_what_was_submitted(tmp_path: Path) -> None:
    with open_member(tmp_path / "data") as store:
        with writing(store) as writer:
            writer.submit(hard_state=HardState(7, 99), entries=[entry(2, b"a=1", term=7)])
            writer.submit(committed=[entry(2, b"a=1", term=7)])
        with store.read() as reader:
            assert reader.get("keys", b"a") == b"1"
    with open_member(tmp_path / "data") as store:
        recovered = store.recover()
    assert recovered.hard_state == HardState(7, 99)
    assert (recovered.base_index, recovered.base_term, recovered.entries) == (2, 7, [])


def test_a_conflicting_suffix_is_replaced(tmp_path: Path) -> None:
    """§5.3: what the leader sends replaces what the follower has from there on."""
    with open_member(tmp_path / "data") as store:
        write(store, entry(2), entry(3, b"old"), entry(4, b"old"), applied=False)
        write(store, entry(3, b"new", term=2), applied=False)
        assert store.load_entries(2, 1 << 20) == (1, [entry(2), entry(3, b"new", term=2)])
        assert store.recover().entries == [entry(2), entry(3, b"new", term=2)]


def test_an_error_of_apply_ends_the_writer_without_a_fence(tmp_path: Path) -> None:
    """An entry that must not be applied stops the node; its disk is not to blame."""

    def refuse(transaction: WriteTransaction, applied: Entry) -> bytes:
        transaction.put("keys", b"half", b"done")
        raise LookupError("newer than this program")

    with open_member(tmp_path / "data") as store, writing(store, apply=refuse) as writer:
        writer.submit(entries=[entry(2)], committed=[entry(2)])
        (error,) = writer.next_reports()
        assert isinstance(error, LookupError)
    with open_member(tmp_path / "data") as store:
        with store.read() as reader:
            assert reader.get("keys", b"half") is None
        assert store.recover().entries == []


@pytest.mark.parametrize(
    ("job", "why"),
    [
        ({"entries": [entry(1)]}, "what is applied is never replaced (hazard 26)"),
        ({"entries": [entry(3)]}, "the log has no gaps (hazard 29)"),
        ({"entries": [entry(2), entry(4)]}, "the log has no gaps (hazard 29)"),
        ({"committed": [entry(3)]}, "entries are applied in order"),
    ],
)
def test_jobs_that_break_the_log_are_assertions(tmp_path: Path, job: dict[str, object], why: str) -> None:
    with open_member(tmp_path / "data") as store, writing(store) as writer:
        writer.submit(**job)
        (error,) = writer.next_reports()
        assert isinstance(error, AssertionError), why
