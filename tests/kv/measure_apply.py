"""What applying a put costs: real LMDB, a session, 256-byte values; alone and beside a busy loop.

    python -m tests.kv.measure_apply

It stands here and not in `bench`, which measures from outside and imports nothing of `raftd`. Only `apply` is
timed; LMDB commits between the timed pieces.
"""

import argparse
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from random import Random
from time import perf_counter

from proto import rpc_pb2
from raftd.core.messages import Entry, EntryKind
from raftd.kv import TABLES, StateMachine
from raftd.kv.command import Kind, encode_command, encode_payload
from raftd.store import Store

ENTRIES_PER_COMMIT = 32
SWITCH_INTERVAL_S = 0.0002
"""What the daemons run with."""


def entries_of_puts(random: Random, puts: int, puts_per_entry: int, keys: int) -> list[Entry]:
    """An entry that registers a session, then entries as a leader writes them: ACKNOWLEDGE, then the puts."""
    register = encode_payload(0, [encode_command(Kind.REGISTER, 0, 0, b"")])
    entries = [Entry(2, 1, EntryKind.COMMANDS, register)]
    session = 2 << 16
    for first in range(1, puts + 1, puts_per_entry):
        commands = [encode_command(Kind.ACKNOWLEDGE, session, first, b"")]
        for sequence in range(first, first + puts_per_entry):
            key = b"key/%012d" % random.randrange(keys)
            request = rpc_pb2.PutRequest(key=key, value=random.randbytes(256))
            commands.append(encode_command(Kind.PUT, session, sequence, request.SerializeToString()))
        payload = encode_payload(first, commands)
        entries.append(Entry(len(entries) + 2, 1, EntryKind.COMMANDS, payload))
    return entries


def microseconds_per_put(store: Store, entries: Sequence[Entry], puts: int) -> float:
    machine = StateMachine()
    spent_s = 0.0
    for begin in range(0, len(entries), ENTRIES_PER_COMMIT):
        transaction = store.begin_write()
        started = perf_counter()
        for entry in entries[begin : begin + ENTRIES_PER_COMMIT]:
            machine.apply(transaction, entry)
        spent_s += perf_counter() - started
        store.commit(transaction)
    return spent_s / puts * 1e6


def measure(puts: int, puts_per_entry: int, keys: int, busy: bool) -> float:
    entries = entries_of_puts(Random(1), puts, puts_per_entry, keys)
    stop = threading.Event()

    def compute() -> None:
        while not stop.is_set():
            sum(range(1_000))

    thread = threading.Thread(target=compute)
    with (
        tempfile.TemporaryDirectory() as directory,
        Store.open(Path(directory, "data"), tables=TABLES) as store,
    ):
        if busy:
            thread.start()
        try:
            return microseconds_per_put(store, entries, puts)
        finally:
            stop.set()
            if busy:
                thread.join()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.kv.measure_apply", description=__doc__)
    parser.add_argument("--puts", type=int, default=20_480)
    parser.add_argument("--keys", type=int, default=10_000)
    options = parser.parse_args(arguments)
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    for puts_per_entry in (1, 16, 128):
        alone = measure(options.puts, puts_per_entry, options.keys, busy=False)
        beside = measure(options.puts, puts_per_entry, options.keys, busy=True)
        print(
            f"{puts_per_entry:4} puts per entry: {alone:6.1f} µs per put alone, "
            f"{beside:6.1f} µs beside a busy loop in the same process"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
