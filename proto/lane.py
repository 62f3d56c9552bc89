"""What passes between the Trio thread and the grpc thread: bounded lanes of messages, inboxes of callbacks.

Knows neither asyncio nor grpc, and of Trio only that Ctrl-C must not cut its work in two: a wake-up lost
between two lines would be waited for for ever. Used by `proto.call` on the Trio side and `proto.bridge`
on the other.
"""

import threading
from collections import deque
from collections.abc import Callable

from trio.lowlevel import enable_ki_protection

from proto.options import STREAM_BYTES, STREAM_MESSAGES


class LaneClosed(Exception):
    """Nothing more comes out of the lane, or nothing more goes in."""


class Inbox:
    """Callbacks for one thread, from any thread, run in order. The first one rings, the rest ride along.

    `ring(run)` must make that thread call `run()` soon. Callbacks must not raise.
    """

    __slots__ = ("_callbacks", "_ring", "_rung")

    def __init__(self, ring: Callable[[Callable[[], None]], object]) -> None:
        self._ring = ring
        self._callbacks: deque[Callable[[], object]] = deque()
        self._rung = False

    @enable_ki_protection
    def post(self, callback: Callable[[], object]) -> None:
        self._callbacks.append(callback)
        # Without a lock: `run` clears the flag before it looks, so a callback is either seen or rings again.
        if not self._rung:
            self._rung = True
            self._ring(self.run)

    def run(self) -> None:
        self._rung = False
        callbacks = self._callbacks
        # Only what is there now: callbacks that post again must not keep this thread from its other work.
        for _ in range(len(callbacks)):
            callbacks.popleft()()


class Lane:
    """A bounded FIFO of serialized messages between the threads.

    The first message wakes the reader, but only if it waits; the writer that found no room is woken when half
    of what had filled the lane is gone. `wake_reader` and `wake_writer` may be called in either thread. A
    reader that takes everything may hold as much again as the lane does.

    Invariant: `_bytes` is the total length of `_messages`.
    """

    __slots__ = (
        "_bytes",
        "_bytes_limit",
        "_closed",
        "_lock",
        "_message_limit",
        "_messages",
        "_reader_waits",
        "_wake_reader",
        "_wake_writer",
        "_writer_waits",
    )

    def __init__(
        self,
        wake_reader: Callable[[], object],
        wake_writer: Callable[[], object],
        *,
        message_limit: int = STREAM_MESSAGES,
        bytes_limit: int = STREAM_BYTES,
    ) -> None:
        self._wake_reader, self._wake_writer = wake_reader, wake_writer
        self._message_limit, self._bytes_limit = message_limit, bytes_limit
        self._lock = threading.Lock()
        self._messages: deque[bytes] = deque()
        self._bytes = 0
        self._closed = False
        self._reader_waits = self._writer_waits = False

    @enable_ki_protection
    def offer(self, message: bytes, *, will_wait: bool = False) -> bool:
        """Put `message` in if there is room. With `will_wait` a refused writer is woken once there is.

        Raises `LaneClosed` after `close`.
        """
        with self._lock:
            if self._closed:
                raise LaneClosed
            if len(self._messages) >= self._message_limit or self._bytes >= self._bytes_limit:
                self._writer_waits |= will_wait
                return False
            self._messages.append(message)
            self._bytes += len(message)
            wake, self._reader_waits = self._reader_waits, False
        if wake:
            self._wake_reader()
        return True

    @enable_ki_protection
    def take(self) -> bytes | None:
        """The next message; None when there is none now, and then the reader is woken by the next one.

        Raises `LaneClosed` when the lane is closed and empty.
        """
        with self._lock:
            if not self._messages:
                self._await_more()
                return None
            message = self._messages.popleft()
            self._bytes -= len(message)
            wake = self._writer_waits and self._half_empty()
            if wake:
                self._writer_waits = False
        if wake:
            self._wake_writer()
        return message

    def take_all(self) -> list[bytes]:
        """Every message that waits; an empty list when there is none now. Otherwise like `take`."""
        with self._lock:
            if not self._messages:
                self._await_more()
                return []
            messages = list(self._messages)
            self._messages.clear()
            self._bytes = 0
            wake, self._writer_waits = self._writer_waits, False
        if wake:
            self._wake_writer()
        return messages

    @enable_ki_protection
    def close(self, *, discard: bool = False) -> None:
        """Nothing more may enter; what is inside may still be taken, unless it is discarded. Idempotent."""
        with self._lock:
            self._closed = True
            if discard:
                self._messages.clear()
                self._bytes = 0
            wake_reader, self._reader_waits = self._reader_waits, False
            wake_writer, self._writer_waits = self._writer_waits, False
        if wake_reader:
            self._wake_reader()
        if wake_writer:
            self._wake_writer()

    def _await_more(self) -> None:
        if self._closed:
            raise LaneClosed
        self._reader_waits = True

    def _half_empty(self) -> bool:
        return 2 * len(self._messages) <= self._message_limit and 2 * self._bytes <= self._bytes_limit
