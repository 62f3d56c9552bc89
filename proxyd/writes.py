"""Writes of clients that know nothing of sessions: exactly once, through sessions of proxyd's own.

Over any change of leader a write waits and is sent again under its number. Only when proxyd itself dies is
the call's outcome unknown to its client.
"""

from dataclasses import dataclass

import trio

from clientctl.pipeline import Pipeline
from clientctl.session import Session
from proto import errors
from proto.errors import NOT_DONE_OUTCOME, UNKNOWN_OUTCOME, Status
from proto.limits import REQUEST_BYTES_MAX
from proto.session_pb2 import Command, Result
from proxyd import config
from proxyd.patience import why_in_vain
from proxyd.table import LeaderTable


@dataclass(slots=True, eq=False)
class _Window:
    session: Session
    under_way: int = 0


class Writes:
    """A session takes writes until it is full, then the next one does; when all are full, writes are
    refused."""

    def __init__(self, table: LeaderTable, pipeline: Pipeline) -> None:
        self._table = table
        self._pipeline = pipeline
        self._windows: list[_Window] = []
        self.executed = 0

    async def execute(self, kind: Command.Kind.ValueType, request: bytes, deadline: float) -> bytes:
        """Runs one command and returns the serialized etcd reply. `deadline`: Trio's clock, finite.

        Raises Status with an outcome: raftd's code and text as they came, UNAVAILABLE when the time is up,
        RESOURCE_EXHAUSTED when too much is under way (hazard 95), or INVALID_ARGUMENT for a request that is
        too large to go with others.
        """
        if len(request) > REQUEST_BYTES_MAX:
            raise Status(*errors.REQUEST_TOO_LARGE, outcome=NOT_DONE_OUTCOME)
        window = self._window_with_room(len(request))
        if window is None:
            raise Status(*errors.TOO_MANY_REQUESTS, outcome=NOT_DONE_OUTCOME)
        window.under_way += 1
        try:
            result = await window.session.execute(kind, request, deadline)
        finally:
            window.under_way -= 1
        if result.outcome == Result.DECIDED and result.code == errors.OK:
            self.executed += 1
            return result.body
        raise self._status_of(result)

    async def close(self) -> None:
        """Ends the sessions, so that the cluster may forget them at once. Best effort, bounded in time."""
        deadline = trio.current_time() + config.SESSION_CLOSE_S
        async with trio.open_nursery() as nursery:
            for window in self._windows:
                nursery.start_soon(window.session.close, deadline)

    def _window_with_room(self, size: int) -> _Window | None:
        limits = config.WRITE_LIMITS
        if self._pipeline.size + size > limits.bytes_max or len(self._pipeline) >= limits.operations_max:
            return None
        for window in self._windows:
            if window.under_way < config.SESSION_OPERATIONS:
                return window
        if len(self._windows) == config.MAX_OWN_SESSIONS:
            return None
        self._windows.append(_Window(Session(self._pipeline, config.SESSION_LIMITS)))
        return self._windows[-1]

    def _status_of(self, result: Result) -> Status:
        # A decided error has changed nothing: every check comes before every write.
        outcome = UNKNOWN_OUTCOME if result.outcome == Result.UNKNOWN else NOT_DONE_OUTCOME
        if result.outcome == Result.NOT_DONE and (result.code, result.text) == errors.TIMEOUT:
            return Status(*why_in_vain(self._table), outcome=outcome)
        return Status(result.code or errors.UNAVAILABLE, result.text or errors.TIMEOUT[1], outcome)
