"""What must hold in the state machine's tables after every entry; raises AssertionError with what does
not."""

import msgpack

from raftd.kv.session import RESULTS, SESSION_AGES, SESSIONS
from raftd.kv.state import State
from tests.memory_transaction import MemoryTransaction

_END = b"\xff" * 17


def check_sessions(transaction: MemoryTransaction) -> None:
    """The invariants that `raftd.kv.session` names."""
    ages = {key[8:]: key[:8] for key, _ in transaction.scan(SESSION_AGES, b"", None)}
    sessions = {key: msgpack.unpackb(value) for key, value in transaction.scan(SESSIONS, b"", None)}
    assert State.load(transaction).session_count == len(sessions)
    assert ages.keys() == sessions.keys()
    for key, (_, first_outstanding, last_used_ms, kept_bytes, bitmap) in sessions.items():
        assert ages[key] == last_used_ms.to_bytes(8, "big")
        kept: dict[int, bytes] = {}
        for row_key, row in transaction.scan(RESULTS, key, key + _END):
            numbers = [result[0] for result in msgpack.unpackb(row)[1]]
            assert max(numbers) == int.from_bytes(row_key[8:], "big") >= first_outstanding
            assert kept.keys().isdisjoint(numbers)
            kept |= {result[0]: result[3] for result in msgpack.unpackb(row)[1]}
        finished = int.from_bytes(bitmap, "little")
        finished_numbers = {
            first_outstanding + offset for offset in range(finished.bit_length()) if finished >> offset & 1
        }
        assert finished_numbers == {number for number in kept if number >= first_outstanding}
        assert kept_bytes == sum(map(len, kept.values()))
    owners = {key[:8] for key, _ in transaction.scan(RESULTS, b"", None)}
    assert owners <= sessions.keys(), "results of a session that has ended"
