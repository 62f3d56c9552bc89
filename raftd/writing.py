"""The writer as the node sees it: a writer thread whose end cannot hang for ever.

`NodeWriter` is the seam at which tests put a writer without a thread.
"""

from collections.abc import Callable
from typing import Protocol

import trio

from raftd import config
from raftd.core.messages import Entry
from raftd.kv.command import Applied
from raftd.store import Completion, Store, WriteJob, Writer, WriteTransaction

Report = Completion[Applied] | Exception
Apply = Callable[[WriteTransaction, Entry], Applied]


class NodeWriter(Protocol):
    def submit(self, job: WriteJob) -> None:
        """Queues a job; never waits."""

    async def close(self) -> bool:
        """Ends after what was submitted. False when it did not end in time: a sync hangs, and the data
        directory must not be closed under it.
        """


StartWriter = Callable[[Apply, Callable[[list[Report]], None]], NodeWriter]
"""Given how to apply an entry and where to report; reports may come from any thread."""


class WriterThread:
    """`raftd.store.Writer`, to be closed from Trio."""

    def __init__(self, store: Store, apply: Apply, done: Callable[[list[Report]], None]) -> None:
        self._writer = Writer(store, apply, done)
        self.submit = self._writer.submit

    async def close(self) -> bool:
        with trio.move_on_after(config.WRITER_CLOSE_S) as closing:
            await trio.to_thread.run_sync(self._writer.close, abandon_on_cancel=True)
        return not closing.cancelled_caught
