"""JSON line by line over a pipe, received on Trio. Between a generator process and its parent."""

import json
from collections import deque
from typing import Any, Protocol

_CHUNK_BYTES = 1 << 20


class ByteStream(Protocol):
    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Empty at the end."""


class LineEnd(Exception):
    """The other side has closed the pipe."""


class LineReader:
    """One document per line. A line is bounded by what its sender may send."""

    def __init__(self, stream: ByteStream) -> None:
        self._stream = stream
        self._unfinished = bytearray()
        self._lines: deque[bytes] = deque()

    async def next(self) -> Any:
        """The next document. Raises LineEnd."""
        while not self._lines:
            chunk = await self._stream.receive_some(_CHUNK_BYTES)
            if not chunk:
                raise LineEnd
            if b"\n" not in chunk:
                self._unfinished += chunk
                continue
            first, *rest = bytes(chunk).split(b"\n")
            *whole, last = (bytes(self._unfinished) + first, *rest)
            self._unfinished = bytearray(last)
            self._lines.extend(whole)
        return json.loads(self._lines.popleft())
