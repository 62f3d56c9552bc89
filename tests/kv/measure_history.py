"""What the history costs on real LMDB: events for watches, HashKV, and the steps of a compaction.

    python -m tests.kv.measure_history

Puts of 256-byte values over some keys, all in the store before anything is timed; LMDB commits between the
timed steps. The same for every reader: the write transaction reads as fast as a read transaction does.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from random import Random
from time import perf_counter

from proto import rpc_pb2
from raftd.core.messages import Entry, EntryKind
from raftd.kv import TABLES, StateMachine
from raftd.kv.command import Applied, Kind, encode_command, encode_payload
from raftd.kv.events import previous, read_events
from raftd.store import Store
from tests.kv.measure_apply import entries_of_puts

PUTS_PER_ENTRY = 128


class _Filled:
    """A store with a history, and the next entries for it."""

    def __init__(self, store: Store, puts: int, keys: int) -> None:
        self._store = store
        self.machine = StateMachine()
        transaction = store.begin_write()
        entries = entries_of_puts(Random(1), puts, PUTS_PER_ENTRY, keys)
        for entry in entries:
            self.machine.apply(transaction, entry)
        store.commit(transaction)
        self._index = entries[-1].index

    def apply(self, kind: Kind, request: bytes) -> tuple[Applied, float]:
        self._index += 1
        payload = encode_payload(1, [encode_command(kind, 0, 0, request)])
        transaction = self._store.begin_write()
        started = perf_counter()
        applied = self.machine.apply(transaction, Entry(self._index, 1, EntryKind.COMMANDS, payload))
        spent_s = perf_counter() - started
        self._store.commit(transaction)
        return applied, spent_s


def measure_events(store: Store, filled: _Filled) -> None:
    with store.read() as reader:
        started = perf_counter()
        events = [event for group in read_events(reader, 1) for event in group.events]
        whole_s = perf_counter() - started
        last = events[-1].kv.mod_revision
        started = perf_counter()
        for revision in range(last - 999, last + 1):
            for _ in read_events(reader, revision, revision):
                pass
        single_s = perf_counter() - started
        started = perf_counter()
        for event in events[-1000:]:
            previous(reader, event)
        previous_s = perf_counter() - started
        started = perf_counter()
        filled.machine.hash_kv(reader, rpc_pb2.HashKVRequest())
        hash_s = perf_counter() - started
    print(f"events, all in one scan:      {whole_s / len(events) * 1e6:6.1f} µs each")
    print(f"events, a scan per revision:  {single_s / 1000 * 1e6:6.1f} µs each")
    print(f"previous version of an event: {previous_s / 1000 * 1e6:6.1f} µs each")
    print(f"HashKV:                       {hash_s / len(events) * 1e6:6.1f} µs per version")


def measure_compaction(filled: _Filled, puts: int) -> None:
    request = rpc_pb2.CompactionRequest(revision=puts).SerializeToString()
    applied, spent_s = filled.apply(Kind.COMPACT, request)
    steps_s = [spent_s]
    while applied.compaction_pending:
        applied, spent_s = filled.apply(Kind.COMPACT_STEP, b"")
        steps_s.append(spent_s)
    print(f"compaction:                   {sum(steps_s) / puts * 1e6:6.1f} µs per version")
    print(
        f"a step of it, of {len(steps_s)}:      {sum(steps_s) / len(steps_s) * 1e3:6.1f} ms, "
        f"at most {max(steps_s) * 1e3:.1f} ms"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kv.measure_history", description=__doc__)
    parser.add_argument("--puts", type=int, default=51_200)
    parser.add_argument("--keys", type=int, default=10_000)
    options = parser.parse_args(arguments)
    with (
        tempfile.TemporaryDirectory() as directory,
        Store.open(Path(directory, "data"), tables=TABLES) as store,
    ):
        filled = _Filled(store, options.puts, options.keys)
        measure_events(store, filled)
        measure_compaction(filled, options.puts)
        with store.read() as reader:
            started = perf_counter()
            filled.machine.hash_kv(reader, rpc_pb2.HashKVRequest())
            spent_s = perf_counter() - started
        print(f"HashKV after it:              {spent_s / options.keys * 1e6:6.1f} µs per key")
    return 0


if __name__ == "__main__":
    sys.exit(main())
