"""Sessions: each numbered command is executed at most once, however often it stands in the log (thesis §6.3).

    sessions      id (8 bytes)                -> [format, first outstanding, last used ms, kept bytes,
    finished] session_ages  last used ms (8) + id (8)   -> empty: the sessions in the order in which they
    expire results       id (8) + sequence (8)       -> [format, [[sequence, code, text, body, outcome],
    ...]]

`finished` is a bitmap from the first outstanding number on. One row of `results` holds what one entry
finished, under the highest number in it; it goes when that number is acknowledged. Numbers below the first
outstanding one are never executed. A session's id is made from the index of the entry that registered it,
so it is never reused.

Invariants: every number with its bit set has its result in exactly one row; no row's highest number is below
the first outstanding one; `session_ages` has one row per row of `sessions`.
Time is the cluster's (`State.cluster_time_ms`), never a clock (hazard 33).
"""

from typing import Final

from proto.errors import TOO_MANY_REQUESTS, UNKNOWN
from raftd.kv.command import Command, NewerFormat, Outcome, Result
from raftd.kv.limits import Limits
from raftd.kv.records import pack, unpack
from raftd.kv.state import State
from raftd.kv.transaction import Transaction

SESSIONS: Final = "sessions"
SESSION_AGES: Final = "session_ages"
RESULTS: Final = "results"
_FORMAT: Final = 1
_MAX_SEQUENCE: Final = (1 << 64) - 1

SESSION_UNKNOWN_TEXT: Final = "raftd: the session is not known or has expired"
ACKNOWLEDGED_TEXT: Final = "raftd: the command has been acknowledged already"
REPLY_GONE_TEXT: Final = "raftd: applied at revision {revision}, reply gone"


def _be8(number: int) -> bytes:
    return number.to_bytes(8, "big")


class Session:
    """One session's record, decoded for as long as one entry is applied."""

    __slots__ = ("changed", "finished", "first_outstanding", "fresh", "id", "kept_bytes", "last_used_ms")

    def __init__(
        self, id: int, first_outstanding: int, last_used_ms: int, kept_bytes: int, finished: int
    ) -> None:
        self.id = id
        self.first_outstanding = first_outstanding
        self.last_used_ms = last_used_ms
        self.kept_bytes = kept_bytes
        self.finished = finished
        self.fresh: list[tuple[int, int, str, bytes, int]] = []
        """What this entry has finished so far: rows of `results` to be."""
        self.changed = False


class SessionTable:
    """The sessions as one entry sees and changes them; `flush` writes what changed, once per session."""

    def __init__(self, transaction: Transaction, state: State, limits: Limits) -> None:
        self._transaction = transaction
        self._state = state
        self._limits = limits
        self._loaded: dict[int, Session | None] = {}

    def register(self, session_id: int) -> None:
        """Make the session; the one that has been idle for longest makes room when there are too many."""
        state = self._state
        while state.session_count >= self._limits.max_sessions:
            age, _ = next(iter(self._transaction.scan(SESSION_AGES, b"", None)))
            self._remove(int.from_bytes(age[8:], "big"))
        session = Session(session_id, 0, state.cluster_time_ms, 0, 0)
        session.changed = True
        self._loaded[session_id] = session
        self._transaction.put(SESSION_AGES, _be8(session.last_used_ms) + _be8(session_id), b"")
        state.session_count += 1

    def use(self, session_id: int) -> Session | None:
        """The session, its idle time starting anew; None when it is not known (any more)."""
        if session_id in self._loaded:
            session = self._loaded[session_id]
        else:
            session = self._loaded[session_id] = self._load(session_id)
        now_ms = self._state.cluster_time_ms
        if session is not None and now_ms - session.last_used_ms >= self._limits.session_touch_ms:
            self._transaction.delete(SESSION_AGES, _be8(session.last_used_ms) + _be8(session_id))
            self._transaction.put(SESSION_AGES, _be8(now_ms) + _be8(session_id), b"")
            session.last_used_ms = now_ms
            session.changed = True
        return session

    def answer_without_executing(self, session: Session, command: Command) -> Result | None:
        """The result of a number that is not to be executed (again); None: it is to be executed now."""
        sequence = command.sequence
        offset = sequence - session.first_outstanding
        if offset < 0:
            return Result(UNKNOWN, ACKNOWLEDGED_TEXT, b"", Outcome.UNKNOWN, session.id, sequence)
        if offset >= self._limits.session_window_commands:
            # Not recorded, so another sending of this number may yet be executed: the outcome is not decided.
            return Result(*TOO_MANY_REQUESTS, b"", Outcome.UNKNOWN, session.id, sequence)
        if session.finished >> offset & 1:
            return self._finished_result(session, sequence)
        return None

    def record(self, session: Session, result: Result, revision: int) -> None:
        """Remember the result of a number just executed, without its body if that is too large."""
        session.finished |= 1 << (result.sequence - session.first_outstanding)
        session.changed = True
        limits = self._limits
        body_bytes = len(result.body)
        if body_bytes and (
            body_bytes > limits.max_kept_result_bytes
            or session.kept_bytes + body_bytes > limits.max_kept_session_bytes
        ):
            text = REPLY_GONE_TEXT.format(revision=revision)
            session.fresh.append((result.sequence, UNKNOWN, text, b"", Outcome.UNKNOWN))
        else:
            session.kept_bytes += body_bytes
            session.fresh.append((result.sequence, result.code, result.text, result.body, result.outcome))

    def acknowledge(self, session: Session, first_outstanding: int) -> None:
        """The client has seen all results below `first_outstanding`: forget them. It never goes back."""
        advance = first_outstanding - session.first_outstanding
        if advance <= 0:
            return
        session.finished >>= advance
        session.first_outstanding = first_outstanding
        session.changed = True
        session.kept_bytes -= self._forget_results(session.id, first_outstanding - 1)
        if session.fresh:
            kept = [row for row in session.fresh if row[0] >= first_outstanding]
            session.kept_bytes -= sum(len(row[3]) for row in session.fresh if row[0] < first_outstanding)
            session.fresh = kept

    def close(self, session: Session) -> None:
        self._remove(session.id)

    def expire(self) -> None:
        """End sessions that have been idle too long. A bounded number of them: the next entry goes on."""
        state, limits = self._state, self._limits
        now_ms = state.cluster_time_ms
        if now_ms < state.next_expiry_ms:
            return
        state.next_expiry_ms = now_ms + limits.session_idle_ms
        expired: list[int] = []
        for age, _ in self._transaction.scan(SESSION_AGES, b"", None):
            expires_ms = int.from_bytes(age[:8], "big") + limits.session_idle_ms
            if expires_ms > now_ms or len(expired) == limits.max_expired_per_entry:
                state.next_expiry_ms = expires_ms
                break
            expired.append(int.from_bytes(age[8:], "big"))
        for session_id in expired:
            self._remove(session_id)

    def flush(self) -> None:
        """Write back what the entry changed."""
        for session in self._loaded.values():
            if session is None or not session.changed:
                continue
            if session.fresh:
                highest = max(row[0] for row in session.fresh)
                self._transaction.put(
                    RESULTS, _be8(session.id) + _be8(highest), pack((_FORMAT, session.fresh))
                )
            finished = session.finished.to_bytes((session.finished.bit_length() + 7) // 8, "little")
            self._transaction.put(
                SESSIONS,
                _be8(session.id),
                pack(
                    (_FORMAT, session.first_outstanding, session.last_used_ms, session.kept_bytes, finished)
                ),
            )
        self._loaded.clear()

    def _load(self, session_id: int) -> Session | None:
        record = self._transaction.get(SESSIONS, _be8(session_id))
        if record is None:
            return None
        fields = unpack(record)
        if fields[0] != _FORMAT:
            raise NewerFormat(f"table {SESSIONS}: record of format {fields[0]}, this program knows {_FORMAT}")
        _, first_outstanding, last_used_ms, kept_bytes, finished = fields
        return Session(
            session_id, first_outstanding, last_used_ms, kept_bytes, int.from_bytes(finished, "little")
        )

    def _finished_result(self, session: Session, sequence: int) -> Result:
        for row in session.fresh:
            if row[0] == sequence:
                return _as_result(session, *row)
        # A row stands under its highest number, so none below `sequence` can hold it.
        start = _be8(session.id) + _be8(sequence)
        for _, record in self._transaction.scan(RESULTS, start, _be8(session.id + 1)):
            for row in unpack(record)[1]:
                if row[0] == sequence:
                    return _as_result(session, *row)
        raise AssertionError(f"session {session.id} has finished {sequence} but holds no result of it")

    def _remove(self, session_id: int) -> None:
        session = self._loaded.get(session_id) or self._load(session_id)
        assert session is not None, session_id
        self._forget_results(session_id, _MAX_SEQUENCE)
        self._transaction.delete(SESSIONS, _be8(session_id))
        self._transaction.delete(SESSION_AGES, _be8(session.last_used_ms) + _be8(session_id))
        self._loaded[session_id] = None
        self._state.session_count -= 1

    def _forget_results(self, session_id: int, highest: int) -> int:
        """Delete the rows whose highest number is ≤ `highest`; how many bytes of bodies they held."""
        rows = list(
            self._transaction.scan(
                RESULTS, _be8(session_id) + bytes(8), _be8(session_id) + _be8(highest) + b"\x00"
            )
        )
        for key, _ in rows:
            self._transaction.delete(RESULTS, key)
        return sum(len(result[3]) for _, record in rows for result in unpack(record)[1])


def _as_result(session: Session, sequence: int, code: int, text: str, body: bytes, outcome: int) -> Result:
    return Result(code, text, body, Outcome(outcome), session.id, sequence)
