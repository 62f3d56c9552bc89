"""A process that has a data directory, for the tests that kill it or fail its disk.

`python -m tests.store.child DIRECTORY hold` opens it and waits for the end of its input;
`… write N` logs and applies N entries after the last one, one job each, and prints `durable INDEX` as each is
reported durable. Exits with the status of what was refused, and prints its text.
"""

import sys
from pathlib import Path

from raftd.core.messages import HardState
from raftd.store import Fenced, StoreRefused
from tests.store.directories import WriterUnderTest, entry, open_member


def main(directory: str, command: str, count: str = "0") -> None:
    with open_member(Path(directory)) as store:
        print("open", flush=True)
        if command == "hold":
            sys.stdin.read()
            return
        first = store.position.last_index + 1
        writer = WriterUnderTest(store)
        for index in range(first, first + int(count)):
            # Large enough that a commit writes several pages.
            written = entry(index, b"key%d=" % index + bytes([index % 256]) * 5000, term=index)
            writer.submit(hard_state=HardState(index, index), entries=[written], committed=[written])
            writer.next_completions()
            (durable,) = writer.next_reports()
            if isinstance(durable, Exception):
                raise durable
            print(f"durable {durable.durable_applied_index}", flush=True)


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except (StoreRefused, Fenced) as refusal:
        print(refusal.text, flush=True)
        sys.exit(refusal.exit_status)
