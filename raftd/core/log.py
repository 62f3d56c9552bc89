"""The replicated log: the window of it that is held in memory, and how far each stage has come.

It knows entries and indexes, but neither roles nor messages nor disks. `Replica` owns it; roles read and
extend it.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from raftd.core.config import ENTRY_OVERHEAD_BYTES
from raftd.core.messages import Entry, EntryKind


def entry_bytes(entry: Entry) -> int:
    """What the entry counts against every bound in bytes."""
    return len(entry.payload) + ENTRY_OVERHEAD_BYTES


def _term(entry: Entry) -> int:
    return entry.term


class Log:
    """Entries base_index+1 … last_index, without gaps, and the marks of their progress.

    Invariants:
    - terms never decrease along the log;
    - base_index ≤ applied_index ≤ applying_index ≤ commit_index ≤ last_index; each but the last only grows;
    - base_index ≤ durable_index ≤ writing_index ≤ last_index;
    - a committed entry is never replaced (§5.4), so nothing at or below commit_index is ever truncated.

    `commit_index` may run ahead of `durable_index`: a majority of the others is enough.
    """

    __slots__ = (
        "_entries",
        "_window_bytes",
        "applied_index",
        "applying_index",
        "base_index",
        "base_term",
        "commit_index",
        "durable_index",
        "last_index",
        "last_term",
        "waiting_bytes",
        "writing_index",
    )

    def __init__(self, base_index: int, base_term: int, entries: Sequence[Entry], applied_index: int) -> None:
        """`entries` are those on disk after `base_index`. Nothing above `applied_index` counts as
        committed."""
        self.base_index = base_index
        self.base_term = base_term
        self._entries: list[Entry] = []
        self._window_bytes = 0
        self.waiting_bytes = 0
        """Bytes above applied_index."""
        self.last_index = base_index
        self.last_term = base_term
        self.append(entries)
        assert base_index <= applied_index <= self.last_index, (
            f"applied {applied_index} outside of the log {base_index}..{self.last_index}"
        )
        self.commit_index = applied_index
        self.applying_index = applied_index
        self.applied_index = base_index
        self.mark_applied(applied_index)
        self.durable_index = self.last_index
        self.writing_index = self.last_index

    def term_at(self, index: int) -> int | None:
        """The term of an entry, or None where the window does not reach. Index 0 has term 0."""
        if index > self.base_index:
            if index <= self.last_index:
                return self._entries[index - self.base_index - 1].term
            return None
        return self.base_term if index == self.base_index else None

    def is_up_to_date(self, last_log_index: int, last_log_term: int) -> bool:
        """§5.4.1: whether a log that ends so is at least as up-to-date as this one."""
        return (last_log_term, last_log_index) >= (self.last_term, self.last_index)

    def slice(self, first_index: int, last_index: int, max_bytes: int) -> tuple[Entry, ...]:
        """Entries from `first_index` up to at most `last_index`: as many as fit `max_bytes`, but one at
        least."""
        start = first_index - self.base_index - 1
        assert start >= 0, f"entry {first_index} is not in the window after {self.base_index}"
        entries = self._entries
        end = start
        limit = min(last_index, self.last_index) - self.base_index
        while end < limit:
            max_bytes -= entry_bytes(entries[end])
            if max_bytes < 0 and end > start:
                break
            end += 1
        return tuple(entries[start:end])

    def append_new(self, term: int, kind: EntryKind, payload: bytes) -> Entry:
        """A leader's own entry, at the end (§5.3: a leader only ever appends)."""
        entry = Entry(self.last_index + 1, term, kind, payload)
        self.append((entry,))
        return entry

    def append(self, entries: Sequence[Entry]) -> None:
        """Entries that follow the last one."""
        size = 0
        for entry in entries:
            assert entry.index == self.last_index + 1, f"entry {entry.index} after {self.last_index}"
            assert entry.term >= self.last_term, f"term {entry.term} after {self.last_term} at {entry.index}"
            self.last_index = entry.index
            self.last_term = entry.term
            size += entry_bytes(entry)
        self._entries.extend(entries)
        self._window_bytes += size
        self.waiting_bytes += size

    def merge(self, entries: Sequence[Entry]) -> int | None:
        """A leader's entries, the first of which follows an entry that both logs share.

        What is there already stays (a stale or repeated append must not cut what it does not carry,
        hazard 26); the first entry with another term, and all after it, give way (§5.3). Returns the
        first index that was cut, or None.
        """
        if not entries or self.term_at(entries[-1].index) == entries[-1].term:
            return None  # Log Matching: when the last one is here, so are those before it.
        if entries[0].index == self.last_index + 1:
            self.append(entries)
            return None
        position = 0
        while self.term_at(entries[position].index) == entries[position].term:
            position += 1
        first_new = entries[position].index
        cut = first_new if first_new <= self.last_index else None
        if cut is not None:
            self._truncate_from(cut)
        self.append(entries[position:])
        return cut

    def _truncate_from(self, index: int) -> None:
        assert index > self.commit_index, f"cutting {index}, but {self.commit_index} is committed"
        keep = index - self.base_index - 1
        size = sum(map(entry_bytes, self._entries[keep:]))
        del self._entries[keep:]
        self._window_bytes -= size
        self.waiting_bytes -= size
        self.last_index = index - 1
        last_term = self.term_at(self.last_index)
        assert last_term is not None, f"the window {self.base_index}.. ends before {self.last_index}"
        self.last_term = last_term
        self.durable_index = min(self.durable_index, self.last_index)
        self.writing_index = min(self.writing_index, self.last_index)

    def first_index_of_term_at(self, index: int) -> int:
        """The first uncommitted entry with the same term as the entry at `index` (for the back-off of
        §5.3)."""
        term = self._entries[index - self.base_index - 1].term
        first = self.base_index + 1 + bisect_left(self._entries, term, key=_term)
        return max(first, self.commit_index + 1)

    def last_index_of_term(self, term: int) -> int | None:
        """The last entry of that term in the window, if there is one."""
        index = self.base_index + bisect_right(self._entries, term, key=_term)
        return index if self.term_at(index) == term else None

    def commit_to(self, index: int) -> None:
        """Everything up to `index` is decided."""
        assert self.commit_index <= index <= self.last_index, (
            f"commit {self.commit_index} → {index}, but the log ends at {self.last_index}"
        )
        self.commit_index = index

    def take_unwritten(self) -> list[Entry]:
        """The entries that nobody has been asked to write yet; now somebody is."""
        entries = self._entries[self.writing_index - self.base_index :]
        self.writing_index = self.last_index
        return entries

    def take_committed(self, max_bytes: int) -> list[Entry]:
        """The next entries to apply, handed out once each."""
        if self.applying_index == self.commit_index:
            return []
        entries = list(self.slice(self.applying_index + 1, self.commit_index, max_bytes))
        self.applying_index = entries[-1].index
        return entries

    def mark_durable(self, index: int) -> None:
        """All up to `index` is on disk and will stay there, unless a later write cuts it."""
        assert index <= self.writing_index, f"durable {index}, but written only up to {self.writing_index}"
        self.durable_index = max(self.durable_index, index)

    def mark_applied(self, index: int) -> None:
        """The state machine has applied all up to `index`."""
        assert self.applied_index <= index <= self.applying_index, (
            f"applied {self.applied_index} → {index}, but handed out only up to {self.applying_index}"
        )
        start = self.applied_index - self.base_index
        self.waiting_bytes -= sum(map(entry_bytes, self._entries[start : index - self.base_index]))
        self.applied_index = index

    def shrink(self, max_bytes: int) -> None:
        """Forget the oldest entries that are applied and durable, once the window is over `max_bytes`.

        It goes down to three quarters, so that the cost of moving the window is paid rarely.
        """
        if self._window_bytes <= max_bytes:
            return
        limit = min(self.applied_index, self.durable_index) - self.base_index
        target = max_bytes * 3 // 4
        count = 0
        while count < limit and self._window_bytes > target:
            self._window_bytes -= entry_bytes(self._entries[count])
            count += 1
        if count:
            self.base_term = self._entries[count - 1].term
            self.base_index += count
            del self._entries[:count]
