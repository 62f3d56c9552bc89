"""One connection that several parts of a client use at once, and the next one when it breaks.

For what does not travel on the session stream: watches, leases, unary calls. It dials only once somebody
wants it. It does not know what is called on it: its users say when it has failed them.
"""

import math
import random
from collections.abc import Sequence

import trio

from clientctl.config import ClientLimits
from clientctl.endpoints import EndpointChoice
from clientctl.link import Dial, Link
from proto import errors
from proto.errors import Status


class SharedLink:
    """`run` is its one task. `get` waits for the connection; whoever finds it broken calls `failed`, and the
    next `get` gives another one, after a pause when all endpoints have failed."""

    def __init__(
        self, addresses: Sequence[str], dial: Dial, limits: ClientLimits, dial_timeout_s: float = math.inf
    ) -> None:
        self._dial = dial
        self._choice = EndpointChoice(addresses, limits, lambda: random.uniform(0.5, 1.0))
        self._dial_timeout_s = dial_timeout_s
        self._wanted = trio.Event()
        self._link: Link | None = None
        self._changed = trio.Event()
        self._failing_since = math.inf
        # Why the last connection ended: what a caller whose time is up wants to know.
        self.last_error: str | None = None

    @property
    def hopeless(self) -> bool:
        """Whether there was no connection to any endpoint for the whole dial timeout."""
        return trio.current_time() - self._failing_since >= self._dial_timeout_s

    async def run(self) -> None:
        """Connect and reconnect, until cancelled."""
        while True:
            await self._wanted.wait()
            try:
                async with self._dial(self._choice.current) as link:
                    self._set(link)
                    while self._link is link:
                        await self._changed.wait()
            except Status as error:
                self._note(error)
            await trio.sleep(self._choice.on_failure())

    async def get(self) -> Link:
        """The connection; waits until there is one."""
        while self._link is None:
            self._wanted.set()
            await self._changed.wait()
        return self._link

    def failed(self, link: Link, error: Status) -> None:
        """`link` did not carry a call, or its server does not serve."""
        if self._link is link:
            self._note(error)
            self._set(None)

    def served(self) -> None:
        """Something was answered on the present connection."""
        self._choice.on_served()
        self._failing_since = math.inf

    def _note(self, error: Status) -> None:
        self.last_error = f"{self._choice.current}: {error.text}"
        if error.outcome == errors.NOT_DONE_OUTCOME:
            self._failing_since = min(self._failing_since, trio.current_time())
        else:
            self._failing_since = math.inf

    def _set(self, link: Link | None) -> None:
        self._link = link
        self._wanted = trio.Event()
        self._changed.set()
        self._changed = trio.Event()
