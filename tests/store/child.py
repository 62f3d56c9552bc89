"""A process that has a data directory, for the tests that kill it or fail its disk.

`python -m tests.store.child DIRECTORY hold` opens it and waits for the end of its input.
`… write N` logs and applies N entries after the last one, one job each, and prints `durable INDEX` as each is
reported durable; when the store fails it also says whether readers are still served.
`… die` kills itself with an entry applied and not committed.
Exits with the status of what was refused, and prints its text.
"""

import os
import signal
import sys
from pathlib import Path

from raftd.core.messages import Entry, HardState
from raftd.store import Completion, Fenced, Store, StoreRefused, WriteTransaction
from tests.store.directories import WriterUnderTest, entry, open_member, put_payload


def main(directory: str, command: str, count: str = "0") -> None:
    with open_member(Path(directory)) as store:
        print("open", flush=True)
        match command:
            case "hold":
                sys.stdin.read()
            case "write":
                write(store, int(count))
            case "die":
                die(store)


def write(store: Store, count: int) -> None:
    first = store.position.last_index + 1
    writer = WriterUnderTest(store)
    for index in range(first, first + count):
        # Large enough that a commit writes several pages.
        written = entry(index, b"key%d=" % index + bytes([index % 256]) * 5000, term=index)
        writer.submit(hard_state=HardState(index, index), entries=[written], committed=[written])
        for report in (*writer.next_reports(), *writer.next_reports()):
            if not isinstance(report, Completion):
                print(f"readers {are_readers_served(store)}", flush=True)
                raise report
            if report.durable:
                print(f"durable {report.durable_applied_index}", flush=True)
    writer.writer.close()


def are_readers_served(store: Store) -> str:
    try:
        with store.read() as reader:
            reader.get("keys", b"key2")
    except Fenced:
        return "refused"
    return "served"


def die(store: Store) -> None:
    def apply(transaction: WriteTransaction, applied: Entry) -> bytes:
        put_payload(transaction, applied)
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("unreachable")

    writer = WriterUnderTest(store, apply)
    last = entry(store.position.last_index + 1, b"half=done")
    writer.submit(entries=[last], committed=[last])
    writer.next_reports()


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (StoreRefused, Fenced) as refusal:
        print(refusal.text, flush=True)
        sys.exit(refusal.exit_status)
