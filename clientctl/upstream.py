"""Keeps one connection for a client's operations, and finds the next when it breaks.

Where the server has the session stream, it drives the client's `Pipeline` on it. Where it has not (etcd),
it holds the connection open for unary calls. It dials only while something waits for an answer.
"""

import math
import random
from collections.abc import Sequence

import trio

from clientctl.config import ClientLimits
from clientctl.endpoints import EndpointChoice
from clientctl.link import SESSION, Dial, Link
from clientctl.pipeline import Pipeline, UpstreamEnd
from proto import errors
from proto.errors import Status

SESSION_STREAM = SESSION["Stream"]


class Upstream:
    """The client's connection. `run` is its one task; `plain` says that the server knows no sessions.

    Before `plain` becomes true, everything in the pipeline has ended as not done with UNIMPLEMENTED: its
    callers are to use `get` instead, from then on for good.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        dial: Dial,
        pipeline: Pipeline,
        limits: ClientLimits,
        dial_timeout_s: float = math.inf,
    ) -> None:
        self._dial = dial
        self._pipeline = pipeline
        self._choice = EndpointChoice(addresses, limits, lambda: random.uniform(0.5, 1.0))
        self._several = len(addresses) > 1
        self._dial_timeout_s = dial_timeout_s
        self._wanted = trio.Event()
        self._link: Link | None = None
        self._link_changed = trio.Event()
        self._failing_since = math.inf
        self.plain = False
        # Why the last connection ended: what a caller whose time is up wants to know.
        self.last_error: str | None = None

    @property
    def hopeless(self) -> bool:
        """Whether there was no connection to any endpoint for the whole dial timeout."""
        return trio.current_time() - self._failing_since >= self._dial_timeout_s

    def want(self) -> None:
        """Something is about to wait for an answer."""
        self._wanted.set()

    async def run(self) -> None:
        """Connect and reconnect, until cancelled."""
        while True:
            if len(self._pipeline) == 0:
                await self._wanted.wait()
            self._wanted = trio.Event()
            address = self._choice.current
            try:
                async with self._dial(address) as link:
                    end = await self._use(link)
            except Status as error:
                end = UpstreamEnd(error=error)
            await trio.sleep(self._pause_after(address, end))

    async def get(self) -> Link:
        """The connection for unary calls; waits until there is one."""
        assert self.plain, "the server has sessions"
        self.want()
        while self._link is None:
            await self._link_changed.wait()
        return self._link

    def failed(self, link: Link, error: Status) -> None:
        """A unary call on `link` failed for want of a connection or a server that serves."""
        if self._link is link:
            self._set_link(None)
            self.last_error = str(error)

    def served(self) -> None:
        """A unary call was answered."""
        self._choice.on_served()
        self._failing_since = math.inf

    async def _use(self, link: Link) -> UpstreamEnd:
        if not self.plain:
            async with link.stream(SESSION_STREAM) as stream:
                end = await self._pipeline.drive(stream, leave_when_unavailable=self._several)
            if end.error is None or end.error.code != errors.UNIMPLEMENTED:
                return end
            self.plain = True
            self._pipeline.shut(errors.UNIMPLEMENTED, end.error.text)
        self._set_link(link)
        try:
            while self._link is link:
                await self._link_changed.wait()
        finally:
            self._set_link(None)
        return UpstreamEnd(error=Status(errors.UNAVAILABLE, self.last_error or ""))

    def _set_link(self, link: Link | None) -> None:
        self._link = link
        self._link_changed.set()
        self._link_changed = trio.Event()

    def _pause_after(self, address: str, end: UpstreamEnd) -> float:
        if end.served:
            self._choice.on_served()
            self._failing_since = math.inf
        if end.not_leader is not None:
            self.last_error = f"{address} is not the leader" + (
                "" if end.not_leader.leader else ", and knows of none"
            )
            return self._choice.on_not_leader(end.not_leader.client_urls)
        if end.unavailable:
            self.last_error = f"{address} cannot serve at the moment"
        elif end.error is not None:
            self.last_error = f"{address}: {end.error.text}"
            self._give_up_dialing(end.error)
        return self._choice.on_failure()

    def _give_up_dialing(self, error: Status) -> None:
        """With a dial timeout: no connection to any endpoint for that long ends all that waits."""
        now = trio.current_time()
        if error.outcome != errors.NOT_DONE_OUTCOME:
            self._failing_since = math.inf
            return
        self._failing_since = min(self._failing_since, now)
        if now - self._failing_since >= self._dial_timeout_s:
            self._pipeline.end_all(errors.UNAVAILABLE, f"no connection: {self.last_error}")
