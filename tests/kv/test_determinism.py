"""Equal logs make equal tables: in another process, on LMDB, one command or many per entry (hazards 30,
33)."""

import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path
from random import Random

import pytest
from google.protobuf.message import Message

from proto import rpc_pb2, session_pb2
from raftd.core.messages import Entry, EntryKind
from raftd.kv import TABLES, StateMachine
from raftd.kv.command import Kind, Result, encode_command, encode_payload
from raftd.kv.limits import Limits
from raftd.store import Store
from tests.kv.invariants import check_tables
from tests.kv.operations import random_compaction, random_request
from tests.kv.replica import Replica

LIMITS = Limits(
    max_sessions=4,
    session_idle_ms=200,
    session_touch_ms=10,
    session_window_commands=40,
    compaction_step_rows=3,
)
KINDS: dict[type[Message], Kind] = {
    rpc_pb2.PutRequest: Kind.PUT,
    rpc_pb2.DeleteRangeRequest: Kind.DELETE_RANGE,
    rpc_pb2.TxnRequest: Kind.TXN,
    rpc_pb2.LeaseGrantRequest: Kind.LEASE_GRANT,
    rpc_pb2.LeaseRevokeRequest: Kind.LEASE_REVOKE,
    session_pb2.LeaseExpiry: Kind.LEASE_EXPIRE,
    rpc_pb2.CompactionRequest: Kind.COMPACT,
}
ENTRIES = 500


def random_write(random: Random, index: int, grants: list[session_pb2.LeaseExpiry.Lease]) -> Message:
    """What may stand in a log: also what only a leader writes there."""
    kind = random.random()
    if kind < 0.03:
        return random_compaction(random, index, index // 2)
    if kind < 0.06:
        leases = random.choices(grants, k=5) if grants else []
        return session_pb2.LeaseExpiry(term=random.choice((1, 1, 2)), leases=leases)
    while type(request := random_request(random, index)) not in KINDS:
        pass
    return request


def random_log(seed: int) -> list[Entry]:
    """Commands of several sessions and of none, repeated, acknowledged, expired, malformed and refused."""
    random = Random(seed)
    log: list[Entry] = []
    sessions: list[int] = []
    grants: list[session_pb2.LeaseExpiry.Lease] = []
    time_ms = 0
    for index in range(2, ENTRIES + 2):
        time_ms += random.choice((0, 1, 30, -20))
        commands = []
        for position in range(random.randint(1, 6)):
            session = random.choice([0, *sessions[-6:]])
            if random.random() < 0.06:
                sessions.append(index << 16 | position)
                commands.append(encode_command(Kind.REGISTER, 0, 0, b""))
            elif session and random.random() < 0.2:
                kind = Kind.CLOSE if random.random() < 0.1 else Kind.ACKNOWLEDGE
                commands.append(encode_command(kind, session, random.randint(0, index), b""))
            elif random.random() < 0.1:
                commands.append(encode_command(Kind.COMPACT_STEP, 0, 0, b""))
            else:
                request = random_write(random, index, grants[-20:])
                if isinstance(request, rpc_pb2.LeaseGrantRequest):
                    place = index << 16 | position
                    grants.append(session_pb2.LeaseExpiry.Lease(id=request.ID, grant=place))
                data = request.SerializeToString() if random.random() > 0.03 else random.randbytes(9)
                sequence = random.randint(max(0, index - 30), index + 30)
                commands.append(encode_command(KINDS[type(request)], session, sequence, data))
        log.append(Entry(index, 1, EntryKind.COMMANDS, encode_payload(max(0, time_ms), commands)))
    return log


def digest(tables: dict[str, dict[bytes, bytes]], results: list[list[Result]]) -> str:
    content = sha256()
    for table in sorted(tables):
        for key, value in sorted(tables[table].items()):
            content.update(b"%s %d %s %d %s\n" % (table.encode(), len(key), key, len(value), value))
    content.update(repr(results).encode())
    return content.hexdigest()


def digest_in_memory(seed: int) -> str:
    replica = Replica(LIMITS)
    results = [replica.apply_entry(entry) for entry in random_log(seed)]
    return digest(replica.tables(), results)


def digest_on_lmdb(seed: int, directory: Path, entries_per_commit: int) -> str:
    machine = StateMachine(LIMITS)
    results = []
    log = random_log(seed)
    with Store.open(directory, tables=TABLES, map_size=1 << 28, runtime=directory.parent) as store:
        for begin in range(0, len(log), entries_per_commit):
            transaction = store.begin_write()
            results += [
                list(machine.apply(transaction, entry).results)
                for entry in log[begin : begin + entries_per_commit]
            ]
            store.commit(transaction)
        with store.read() as reader:
            tables = {table: dict(reader.scan(table, b"", None)) for table in TABLES}
    return digest(tables, results)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_memory_and_lmdb_hold_the_same(seed: int, tmp_path: Path) -> None:
    """Whatever the commits: an entry sees what earlier ones wrote, committed or not."""
    expected = digest_in_memory(seed)
    for entries_per_commit in (1, 50):
        directory = tmp_path / f"{entries_per_commit}"
        assert digest_on_lmdb(seed, directory, entries_per_commit) == expected


@pytest.mark.parametrize("hash_seed", ["0", "1", "4711"])
def test_another_process_with_another_hash_seed_holds_the_same(hash_seed: str) -> None:
    """Hazard 33: neither the order of sets nor anything else of a process leaks into the state."""
    code = "from tests.kv.test_determinism import digest_in_memory; print(digest_in_memory(1))"
    output = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        cwd=Path(__file__).parents[2],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    assert output.strip() == digest_in_memory(1)


def test_the_random_log_is_worth_comparing() -> None:
    replica = Replica(LIMITS)
    results = [result for entry in random_log(1) for result in replica.apply_entry(entry)]
    assert len({(result.code, result.outcome, result.text[:30]) for result in results}) >= 8
    assert replica.machine.current_revision(replica.transaction) > 100
    assert replica.machine.compacted_revision(replica.transaction) > 10
    check_tables(replica.transaction)
