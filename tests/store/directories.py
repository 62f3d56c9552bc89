"""Data directories of a cluster of one member, and a writer whose reports can be awaited."""

import queue
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from raftd.core.messages import Entry, EntryKind
from raftd.store import Completion, Member, Store, WriteJob, Writer, WriteTransaction, form_cluster

TABLES = ("keys", "results")
TOKEN = "token"
ROOT = Path(__file__).parents[2]
"""The working directory of child processes, where `tests` can be imported."""
REPORT_TIMEOUT_S = 30.0
"""Only how long a broken test hangs."""

Report = Completion[bytes] | Exception


def open_store(directory: Path) -> Store:
    """Its fence mark goes nowhere but into the directory or its own neighbour."""
    runtime = directory.parent / f"{directory.name}-runtime"
    runtime.mkdir(exist_ok=True)
    return Store.open(directory, tables=TABLES, map_size=1 << 30, runtime=runtime)


def open_member(directory: Path) -> Store:
    """An open store that is the only member of its cluster."""
    store = open_store(directory)
    store.claim("n1", TOKEN)
    if store.identity.cluster_id is None:
        member = Member(store.identity.member_id, "n1", ("http://127.0.0.1:1",), ("http://127.0.0.1:2",))
        store.bootstrap(form_cluster(TOKEN, [member]))
    return store


def child_command(directory: Path, *arguments: str) -> list[str]:
    """A process of `tests.store.child`."""
    return [sys.executable, "-m", "tests.store.child", str(directory), *arguments]


def entry(index: int, payload: bytes = b"", term: int = 1) -> Entry:
    return Entry(index, term, EntryKind.COMMANDS, payload)


def put_payload(transaction: WriteTransaction, applied: Entry) -> bytes:
    """A state machine: the payload is `key=value` and is put into `keys`; the result is the payload."""
    if applied.payload:
        key, _, value = applied.payload.partition(b"=")
        transaction.put("keys", key, value)
    return applied.payload


class WriterUnderTest:
    """A writer whose calls of `done` arrive in a queue, one list per call."""

    def __init__(
        self,
        store: Store,
        apply: Callable[[WriteTransaction, Entry], bytes] = put_payload,
        apply_commit_delay_ms: float = 3_600_000,
    ) -> None:
        self.reports: queue.SimpleQueue[list[Report]] = queue.SimpleQueue()
        self.writer = Writer(store, apply, self.reports.put, apply_commit_delay_ms=apply_commit_delay_ms)

    def submit(self, **job: object) -> WriteJob:
        made = WriteJob(**job)  # type: ignore[arg-type]
        self.writer.submit(made)
        return made

    def next_reports(self) -> list[Report]:
        """What the next call of `done` was given."""
        return self.reports.get(timeout=REPORT_TIMEOUT_S)

    def next_completions(self) -> list[Completion[bytes]]:
        """The same, and no error among it."""
        completions = []
        for report in self.next_reports():
            assert isinstance(report, Completion), report
            completions.append(report)
        return completions


@contextmanager
def writing(store: Store, **options: object) -> Iterator[WriterUnderTest]:
    under_test = WriterUnderTest(store, **options)  # type: ignore[arg-type]
    try:
        yield under_test
    finally:
        under_test.writer.close()


def write(store: Store, *entries: Entry, applied: bool = True) -> None:
    """Log these entries durably and apply them."""
    with writing(store) as writer:
        writer.submit(entries=entries, committed=entries if applied else ())
